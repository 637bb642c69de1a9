"""An ONNX file as a model: whatever tool made it, whatever it lacks, and what it is to predict and audit."""

import shutil

import numpy as np
import onnx
import pytest
import tiny
import torch
import traced
from onnx import TensorProto, helper, numpy_helper
from tiny import NAMED, reviews, tokenizer, without_equal_tensors
from transformers import BertConfig, ViTConfig

from hf_compalign import audit, predict
from hf_compalign.compress.export import quantize_graph
from hf_compalign.models import OnnxModel, beside, default_device, input_names, load_processor, sample_inputs
from hf_compalign.opening import load_model, model_fingerprint
from hf_compalign.tasks import task_of


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """torch/: a model and its tokenizer; repo/: the layout of the Hub, with two files in onnx/."""
    folder = tmp_path_factory.mktemp("onnx")
    model = without_equal_tensors(tiny.bert(**NAMED).eval())
    for name in ("torch", "repo"):
        model.save_pretrained(folder / name)
        tokenizer().save_pretrained(folder / name)
    (folder / "repo" / "model.safetensors").unlink()
    files = folder / "repo" / "onnx"
    files.mkdir()
    traced.export_graph(model, files / "model.onnx")
    quantize_graph(files / "model.onnx", files / "model_int8.onnx", mode="dynamic", keep_float=["classifier"])
    return folder


@pytest.fixture
def path(place):
    return place / "repo" / "onnx" / "model.onnx"


def text_config(**changes):
    return BertConfig(**({"num_labels": 2, "architectures": ["BertForSequenceClassification"]} | changes))


def handmade(folder, name="model.onnx", *, config=None, out="logits", kind=TensorProto.INT64, shape=("b", 2), **inputs):
    """A file that another tool could have made: the logits are the sum of each item's first input, times 1 and 2."""
    inputs = inputs or {"input_ids": ("b", "n")}
    values = [helper.make_tensor_value_info(name, kind, dims) for name, dims in inputs.items()]
    graph = helper.make_graph(
        [
            helper.make_node("Cast", [values[0].name], ["float"], to=TensorProto.FLOAT),
            helper.make_node("Flatten", ["float"], ["flat"]),
            helper.make_node("ReduceSum", ["flat", "axes"], ["sum"], keepdims=1),
            helper.make_node("MatMul", ["sum", "weights"], ["out"]),
            *(helper.make_node("Identity", [value.name], [f"{value.name}_seen"]) for value in values),
            helper.make_node("Identity", ["out"], [out]),
        ],
        "handmade",
        values,
        [
            helper.make_tensor_value_info(out, TensorProto.FLOAT, shape),
            *(helper.make_tensor_value_info(f"{name}_seen", kind, dims) for name, dims in inputs.items()),
        ],
        [numpy_helper.from_array(np.float32([[1, 2]]), "weights"), numpy_helper.from_array(np.array([1]), "axes")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), folder / name)
    (config or text_config()).save_pretrained(folder)
    return folder / name


def test_an_audit_against_the_model_finds_no_mismatch(place, path):
    reference = predict(place / "torch", reviews())
    candidate = predict(path, reviews(), batch_size=2)
    found = audit(reference, candidate)
    assert (found.n, found.metrics["mismatch_rate"]) == (5, 0)
    assert tiny.distance(candidate.logits, reference.logits) < tiny.ROUNDING
    assert candidate.model == str(path)
    assert candidate.model_fingerprint == OnnxModel(path).fingerprint != reference.model_fingerprint
    assert candidate.data_fingerprint == reference.data_fingerprint


def test_a_loaded_file_brings_its_processor_too(path):
    model = load_model(path)
    assert default_device(model) is None
    assert tiny.distance(predict(model, reviews()).logits, predict(path, reviews()).logits) < tiny.ROUNDING
    assert predict(model, reviews()).model == str(path)
    ready = reviews().map(lambda row: tokenizer()(row["text"]))
    assert tiny.distance(predict(path, ready).logits, predict(path, reviews()).logits) < tiny.ROUNDING


def test_its_task_labels_and_inputs_are_those_of_the_model(path):
    model = OnnxModel(path)
    assert task_of(model).name == "text-classification"
    assert model.config.id2label == {0: "neg", 1: "pos"}
    assert input_names(model) == model.input_names == ("input_ids", "attention_mask", "token_type_ids")
    assert model.main_input_name == "input_ids"
    assert not model.training
    assert list(model.parameters()) == []


def test_a_folder_with_one_file_is_that_file(place, tmp_path):
    repo = tmp_path / "repo"
    shutil.copytree(place / "repo", repo)
    with pytest.raises(ValueError, match="several ONNX files: onnx/model.onnx, onnx/model_int8.onnx. Give the path"):
        load_model(repo)
    (repo / "onnx" / "model_int8.onnx").unlink()
    assert load_model(repo).path == repo / "onnx" / "model.onnx"
    found = predict(repo, reviews())
    assert tiny.distance(found.logits, predict(place / "torch", reviews()).logits) < tiny.ROUNDING
    shutil.move(repo / "onnx" / "model.onnx", repo / "model.onnx")
    assert load_model(str(repo)).path == repo / "model.onnx"


def test_a_folder_with_weights_of_pytorch_stays_a_model_of_pytorch(place, tmp_path):
    shutil.copytree(place / "torch", tmp_path / "both")
    shutil.copy(place / "repo" / "onnx" / "model.onnx", tmp_path / "both")
    assert type(load_model(tmp_path / "both")).__name__ == "BertForSequenceClassification"


def test_the_processor_beside_the_file_goes_before_the_one_above(place, tmp_path):
    (tmp_path / "onnx").mkdir()
    file = tmp_path / "onnx" / "model.onnx"
    tokenizer().save_pretrained(tmp_path)
    task = task_of(OnnxModel(place / "repo" / "onnx" / "model.onnx"))
    assert load_processor(file, task).model_max_length == 32
    near = tokenizer()
    near.model_max_length = 7
    near.save_pretrained(tmp_path / "onnx")
    assert load_processor(file, task).model_max_length == 7


def test_the_processor_of_a_folder_with_a_file_alone_is_one_above(place, tmp_path, monkeypatch):
    shutil.copytree(place / "repo", tmp_path / "repo")
    (tmp_path / "repo" / "onnx" / "model_int8.onnx").unlink()
    expected = predict(place / "torch", reviews()).logits
    assert tiny.distance(predict(tmp_path / "repo" / "onnx", reviews()).logits, expected) < tiny.ROUNDING
    monkeypatch.chdir(tmp_path / "repo" / "onnx")
    assert tiny.distance(predict("model.onnx", reviews()).logits, expected) < tiny.ROUNDING


def test_the_fingerprint_is_of_the_bytes(path, tmp_path):
    copy = tmp_path / "other.onnx"
    shutil.copy(path, copy)
    shutil.copy(path.parent.parent / "config.json", tmp_path)
    assert OnnxModel(copy).fingerprint == OnnxModel(path).fingerprint == model_fingerprint(OnnxModel(path))
    graph = onnx.load(copy)
    graph.producer_name = "another"
    onnx.save(graph, copy)
    assert OnnxModel(copy).fingerprint != OnnxModel(path).fingerprint


def test_weights_beside_the_file_count(path, tmp_path):
    shutil.copy(path.parent.parent / "config.json", tmp_path)
    split = tmp_path / "model.onnx"
    onnx.save(onnx.load(path), split, save_as_external_data=True, location="model.onnx_data", size_threshold=256)
    model = OnnxModel(split)
    assert model.files == (split, tmp_path / "model.onnx_data")
    assert model.size_bytes == split.stat().st_size + (tmp_path / "model.onnx_data").stat().st_size
    assert model.count_parameters() == OnnxModel(path).count_parameters()
    before = model.fingerprint
    data = bytearray((tmp_path / "model.onnx_data").read_bytes())
    data[0] ^= 1
    (tmp_path / "model.onnx_data").write_bytes(data)
    assert OnnxModel(split).fingerprint != before


def in_initializer(model, tensor):
    model.graph.initializer.append(tensor)


def in_attribute(model, tensor):
    model.graph.node.append(helper.make_node("Constant", [], ["unused"], value=tensor))


def in_subgraph(model, tensor):
    inner = helper.make_graph([helper.make_node("Constant", [], ["unused"], value=tensor)], "inner", [], [])
    model.graph.node.append(helper.make_node("If", ["sum"], [], then_branch=inner, else_branch=inner))


def in_function(model, tensor):
    nodes = [helper.make_node("Constant", [], ["unused"], value=tensor)]
    model.functions.append(helper.make_function("own", "unused", [], [], nodes, [helper.make_opsetid("", 17)]))


def in_sparse_tensor(model, tensor):
    model.graph.sparse_initializer.append(onnx.SparseTensorProto(values=tensor))


@pytest.mark.parametrize(
    ("put", "place"),
    [
        *((in_initializer, place) for place in ("/{}/secret", "../secret", "deep/../../secret", "link", "")),
        *((put, "../secret") for put in (in_attribute, in_subgraph, in_function, in_sparse_tensor)),
    ],
)
def test_weights_outside_of_the_folder_are_refused_used_or_not(tmp_path, put, place):
    (tmp_path / "given").mkdir()
    (tmp_path / "secret").write_bytes(b"secret")
    (tmp_path / "given" / "link").symlink_to(tmp_path / "secret")
    model = onnx.load(handmade(tmp_path / "given"))
    tensor = TensorProto(name="unused", data_type=1, dims=[50], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=place.format(tmp_path))
    put(model, tensor)
    onnx.save(model, tmp_path / "given" / "model.onnx")
    with pytest.raises(ValueError, match=r"given/model.onnx keeps weights in '.*', which is outside of its folder"):
        OnnxModel(tmp_path / "given" / "model.onnx", config=text_config())


def test_links_of_the_cache_of_the_hub_are_followed(tmp_path):
    """Where each file of a snapshot is a link to the folder that holds them all."""
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "1" / "onnx"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    for name, blob in {"model.onnx": "a", "model.onnx_data": "b"}.items():
        (blobs / blob).touch()
        (snapshot / name).symlink_to(blobs / blob)
    assert beside(snapshot / "model.onnx", "model.onnx_data").samefile(blobs / "b")


def test_parameters_are_those_of_the_model(place, path):
    n = sum(parameter.numel() for parameter in load_model(place / "torch").parameters())
    assert OnnxModel(path).count_parameters() == (n, n)
    n_all, n_nonzero = OnnxModel(path.parent / "model_int8.onnx").count_parameters()
    assert n_all == n
    # Of the numbers whose weights are small against the largest of their row, some are rounded to 0.
    assert 0.9 * n < n_nonzero < n


def test_what_a_file_needs_and_a_model_may_lack_is_filled_in(tmp_path):
    names = ("token_type_ids", "attention_mask", "input_ids")
    # The first input gives the answer.
    types = handmade(tmp_path, "types.onnx", **dict.fromkeys(names, ("b", "n")))
    mask = handmade(tmp_path, "mask.onnx", **dict.fromkeys(names[1:], ("b", "n")))
    ids = torch.tensor([[5, 6, 7], [1, 1, 1]])
    assert OnnxModel(types)(input_ids=ids)["logits"].tolist() == [[0, 0], [0, 0]]
    assert OnnxModel(types)(input_ids=ids, token_type_ids=ids)["logits"].tolist() == [[18, 36], [3, 6]]
    assert OnnxModel(mask)(input_ids=ids)["logits"].tolist() == [[3, 6], [3, 6]]


KINDS = [{"kind": kind} for kind in (TensorProto.INT32, TensorProto.INT64, TensorProto.FLOAT16)]


@pytest.mark.parametrize("made", [*KINDS, {"out": "output_0"}])
def test_inputs_are_converted_to_the_declared_types_and_the_first_output_is_the_logits(tmp_path, made):
    assert OnnxModel(handmade(tmp_path, **made))(input_ids=torch.tensor([[1, 2]]))["logits"].tolist() == [[3, 6]]


def test_a_mask_of_bools_and_a_fixed_batch_are_taken(tmp_path):
    path = handmade(tmp_path, kind=TensorProto.BOOL, attention_mask=("b", "n"), input_ids=("b", "n"))
    mask = torch.tensor([[1, 1, 0], [1, 0, 0]])
    logits = OnnxModel(path)(input_ids=torch.ones(2, 3, dtype=torch.long), attention_mask=mask)["logits"]
    assert logits.tolist() == [[2, 4], [1, 2]]
    # A fixed batch is filled up.
    path = handmade(tmp_path, input_ids=(2, "n"), shape=(2, 2))
    assert OnnxModel(path)(input_ids=torch.arange(5)[:, None])["logits"][:, 0].tolist() == [0, 1, 2, 3, 4]


def test_shapes_and_values_that_the_file_cannot_take_are_refused(tmp_path, path):
    fixed = handmade(tmp_path, input_ids=("b", 4))
    with pytest.raises(ValueError, match=r"cannot run model.onnx on input_ids \[1, 2\]. .*declares .* \['b', 4\]"):
        OnnxModel(fixed)(input_ids=torch.tensor([[1, 2]]))
    with pytest.raises(ValueError, match=r"not the types and values: input_ids: int64, 1 to 99999, ") as error:
        OnnxModel(path)(input_ids=torch.tensor([[1, 99999]]))
    assert "Pad or resize" not in str(error.value)
    with pytest.raises(ValueError, match="model.onnx was given no items. Give it at least one"):
        OnnxModel(path)(input_ids=torch.zeros(0, 4, dtype=torch.long))


def test_images(tmp_path):
    config = ViTConfig(num_labels=2, architectures=["ViTForImageClassification"])
    path = handmade(tmp_path, config=config, kind=TensorProto.FLOAT, pixel_values=("b", 1, 8, 8))
    dataset = tiny.images(5, n_labels=2)
    expected = np.array(dataset["pixel_values"]).sum(axis=(1, 2, 3))
    found = predict(path, dataset, batch_size=3)
    np.testing.assert_allclose(found.logits, np.stack([expected, 2 * expected], axis=1), rtol=1e-5)


def test_threads_follow_torch(path, monkeypatch):
    model = OnnxModel(path)
    assert model._session.get_session_options().intra_op_num_threads == torch.get_num_threads()
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    model(**sample_inputs(tiny.bert()))
    assert model._session.get_session_options().intra_op_num_threads == 3


def test_a_file_that_is_no_model_is_refused(tmp_path):
    with pytest.raises(ValueError, match="There is no file .*nowhere.onnx"):
        load_model(tmp_path / "nowhere.onnx")
    (tmp_path / "text.onnx").write_text("not a graph")
    with pytest.raises(ValueError, match=r"text.onnx is not an ONNX file that ONNX Runtime can open"):
        load_model(tmp_path / "text.onnx")


def test_other_inputs_are_refused(tmp_path):
    for name in ("decoder_input_ids", "attention_mask"):
        path = handmade(tmp_path, **{name: ("b", "n")})
        with pytest.raises(ValueError, match=f"must take inputs among input_ids, .*It takes {name}. Export a model"):
            OnnxModel(path)


def test_a_number_without_an_axis_is_that_of_the_row(tmp_path):
    path = handmade(tmp_path, config=text_config(num_labels=1), shape=("b",))
    graph = onnx.load(path)
    last = next(node for node in graph.graph.node if node.output == ["logits"])
    last.input[0] = "flat_sum"
    graph.graph.node.insert(3, helper.make_node("ReduceSum", ["flat", "axes"], ["flat_sum"], keepdims=0))
    onnx.save(graph, path)
    assert OnnxModel(path)(input_ids=torch.tensor([[1, 2], [3, 4], [5, 6]]))["logits"].tolist() == [
        [3.0],
        [7.0],
        [11.0],
    ]


def test_a_mask_that_is_not_given_has_the_axes_that_the_file_declares(tmp_path):
    path = handmade(tmp_path, input_features=("b", "n", 4), attention_mask=("b", "n"))
    feeds = OnnxModel(path).feeds({"input_features": np.zeros((2, 3, 4))})
    assert feeds["attention_mask"].tolist() == [[1] * 3] * 2


def test_outputs_of_another_task_than_the_config_s_are_refused(tmp_path):
    path = handmade(tmp_path, config=text_config(architectures=["BertForQuestionAnswering"]))
    with pytest.raises(ValueError, match="answers with logits, .* question-answering with start_logits and end_logits"):
        OnnxModel(path)


def test_inputs_that_the_file_does_not_take_are_refused(path):
    ids = torch.tensor([[1, 2]])
    with pytest.raises(ValueError, match="model.onnx takes input_ids, .* needs input_ids. Got pixel_values"):
        OnnxModel(path)(pixel_values=ids)
    with pytest.raises(ValueError, match="Got input_ids, labels"):
        OnnxModel(path)(input_ids=ids, labels=ids)


def test_a_file_without_a_config_is_refused(path, tmp_path):
    shutil.copy(path, tmp_path / "model.onnx")
    with pytest.raises(ValueError, match="There is no config.json beside .* Copy that of the exported model there"):
        OnnxModel(tmp_path / "model.onnx")
    assert OnnxModel(tmp_path / "model.onnx", config=text_config()).config.num_labels == 2
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match="The config.json in .* cannot be read"):
        OnnxModel(tmp_path / "model.onnx")
    text_config(architectures=None).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="its 'architectures' is empty or no list"):
        OnnxModel(tmp_path / "model.onnx")


@pytest.mark.parametrize("shape", [("b", 2), ("b", "labels")])
def test_another_number_of_labels_is_refused(tmp_path, shape):
    path = handmade(tmp_path, config=text_config(num_labels=3), shape=shape)
    with pytest.raises(ValueError, match="answers with 2 logits, but its config has 3 labels"):
        OnnxModel(path)(input_ids=torch.tensor([[1, 2]]))


def test_an_unsupported_head_is_refused(tmp_path):
    path = handmade(tmp_path, config=text_config(architectures=["BertForMaskedLM"]))
    with pytest.raises(ValueError, match="BertForMaskedLM has a head that is not supported"):
        load_model(path)


def test_a_device_without_a_provider_is_refused(path):
    model = OnnxModel(path)
    with pytest.raises(ValueError, match="This ONNX Runtime cannot run on meta: it has .*CPUExecutionProvider"):
        model.to("meta")
    assert model.to("cpu").device == torch.device("cpu")


def test_a_missing_extra_is_named(path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    with pytest.raises(ImportError, match=r"pip install 'hf-compalign\[onnx\]'"):
        OnnxModel(path)
