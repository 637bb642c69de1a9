"""What a quantized model is saved as, and that it is opened again as it was, or refused with a reason."""

import contextlib
import copy
import json
import shutil

import pytest
import tiny
import torch
import transformers
import zoo
from quantized import CONVERTED, LIBRARIES, ONNX, build, by_scheme, check_alike, needs, prepared, quantized, take_away
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from hf_compalign.compress import load_compressed, write_entry
from hf_compalign.compress.quantize import FILE, SCHEMES, convert_, quantization_of, quantized_layers, unprepare_
from hf_compalign.compress.shrink import LayerPlan, ShrinkPlan, cut_, mask_

pytestmark = pytest.mark.numeric

# One of each way to store weights.
WAYS = ["torchao-w8a8", "torchao-w4", "quanto-w8a8", "quanto-w4"]


@pytest.fixture(autouse=True)
def _library(request):
    if hasattr(request.node, "callspec"):
        needs(request.node.callspec.params.get("name", ONNX))


def change_config(folder, change):
    path = folder / "config.json"
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config))


def weights_of(name):
    """The file that the weights of a converted model are saved in."""
    return FILE if name.startswith("quanto") else "model.safetensors"


def check_same(loaded, model):
    assert type(loaded) is type(model)
    assert not loaded.training
    assert quantization_of(loaded) == quantization_of(model)
    assert list(quantized_layers(loaded)) == list(quantized_layers(model))
    check_alike(loaded, model)


# ---- there and back ----


@pytest.mark.parametrize("name", by_scheme(SCHEMES))
@pytest.mark.parametrize("kind", ["bert", "vit"])
def test_saved_and_loaded_twice(name, kind, tmp_path):
    model = quantized(name, build(kind))
    model.save_pretrained(tmp_path / "once")
    once = load_compressed(tmp_path / "once")
    check_same(once, model)
    once.save_pretrained(tmp_path / "twice")
    check_same(load_compressed(tmp_path / "twice"), model)
    first, second = (json.loads((tmp_path / one / "config.json").read_text()) for one in ("once", "twice"))
    assert first == second
    assert first["architectures"] == [type(model).__name__]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("torchao-w8", "roberta"),
        ("quanto-w8a8", "distilbert"),
        ("quanto-w8a8", "deberta-v2"),
        ("torchao-w8", "modernbert"),
        ("quanto-w8a8", "beit"),
    ],
)
def test_other_architectures(name, kind, tmp_path):
    model = quantized(name, build(kind))
    model.save_pretrained(tmp_path)
    check_same(load_compressed(tmp_path), model)


@pytest.mark.parametrize(
    ("name", "kind", "head"),
    [
        *by_scheme((name, "bert", "ForMaskedLM") for name in WAYS),
        ("torchao-w8a8", "bert", "ForQuestionAnswering"),
        ("torchao-w8a8", "bert", "ForTokenClassification"),
        ("torchao-w8a8", "vit", "Model"),
    ],
)
def test_every_task_head(name, kind, head, tmp_path):
    model = quantized(name, build(kind, head=head))
    model.save_pretrained(tmp_path)
    loaded = load_compressed(tmp_path)
    check_same(loaded, model)
    if head == "ForMaskedLM":
        assert loaded.get_output_embeddings().weight is loaded.get_input_embeddings().weight


@pytest.mark.parametrize("name", by_scheme([*WAYS, ONNX]))
def test_shrunk_and_quantized(name, tmp_path):
    model, all_heads = build(), (0, 1, 2, 3)
    # int4 needs whole groups of 32.
    last = (all_heads, tuple(range(32))) if name == "torchao-w4" else ((1, 3), tuple(range(7)))
    cut_(model, ShrinkPlan((LayerPlan(0, all_heads, tuple(range(32))), LayerPlan(2, *last))))
    quantized(name, model)
    model.save_pretrained(tmp_path)
    check_same(load_compressed(tmp_path), model)


@pytest.mark.parametrize("name", by_scheme(SCHEMES))
def test_a_prepared_model_is_saved_as_the_float_model(name, tmp_path):
    plain, model = build(), prepared(name)
    model.save_pretrained(tmp_path / "prepared")
    plain.save_pretrained(tmp_path / "plain")
    files = [load_file(tmp_path / one / "model.safetensors") for one in ("prepared", "plain")]
    assert files[0].keys() == files[1].keys()
    assert all(torch.equal(value, files[1][key]) for key, value in files[0].items())
    check_alike(type(model).from_pretrained(tmp_path / "prepared"), plain)
    # Opened by load_compressed, it is what it becomes.
    loaded = load_compressed(tmp_path / "prepared")
    convert_(model)
    check_same(loaded, model)


@pytest.mark.parametrize("name", [ONNX, "torchao-w8a8", "quanto-w8a8"])
def test_prepared_with_units_still_to_be_removed(name, tmp_path):
    """As the shrinking callback saves it: zeros in the weights, and the layers to drop in the config."""
    model = prepared(name)
    plans = [LayerPlan(index, (0, 2), tuple(range(9))) for index in range(3)]
    mask_(model, ShrinkPlan(tuple(plans)))
    write_entry(model.config, "shrink", {"cut": False, "dropped_layers": [1]})
    model.save_pretrained(tmp_path)
    loaded = load_compressed(tmp_path)
    cut_(model, ShrinkPlan((plans[0], plans[2])))
    convert_(model)
    check_same(loaded, model)


@pytest.mark.parametrize("name", CONVERTED)
def test_the_file_is_small(name, tmp_path):
    model = zoo.build("bert", hidden_size=128, intermediate_size=512, num_hidden_layers=2)
    model.save_pretrained(tmp_path / "float")
    quantized(name, model).save_pretrained(tmp_path / "small")
    files = sorted(path.name for path in (tmp_path / "small").iterdir())
    assert files == ["config.json", weights_of(name)]
    sizes = [(tmp_path / one).stat().st_size for one in ("float/model.safetensors", f"small/{weights_of(name)}")]
    # torchao holds four bits in a byte, and a scale for each group of 32.
    assert sizes[1] / sizes[0] < {"torchao-w4": 0.36, "torchao-w4a8": 0.36, "quanto-w4": 0.22}.get(name, 0.33)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", by_scheme(WAYS))
def test_half_precision(name, dtype, tmp_path):
    model = quantized(name, build().to(dtype))
    answer = zoo.answer(model, zoo.inputs(model))
    assert answer.dtype == dtype
    assert bool(answer.isfinite().all())
    model.save_pretrained(tmp_path)
    loaded = load_compressed(tmp_path)
    assert loaded.dtype == dtype
    check_same(loaded, model)


@pytest.mark.parametrize("name", ["torchao-w8a8", "quanto-w8a8"])
def test_as_the_trainer_saves_it(name, tmp_path):
    model = quantized(name, tiny.bert().eval())
    trainer = transformers.Trainer(model=model, args=tiny.arguments(tmp_path / "run"))
    trainer.save_model(str(tmp_path / "saved"))
    check_same(load_compressed(tmp_path / "saved"), model)
    model.save_pretrained(tmp_path / "other", state_dict=model.state_dict(), is_main_process=True)
    check_same(load_compressed(tmp_path / "other"), model)
    model.save_pretrained(tmp_path / "nothing", is_main_process=False)
    assert not [*tmp_path.glob("nothing/*")]


@pytest.mark.parametrize("name", ["torchao-w8a8", "quanto-w8a8"])
def test_a_copy_saves_itself(name, tmp_path):
    model = quantized(name)
    copied = copy.deepcopy(model)
    with torch.no_grad():
        copied.classifier.weight.zero_()
    copied.save_pretrained(tmp_path)
    check_same(load_compressed(tmp_path), copied)


def test_a_float_copy_of_a_prepared_model_saves_no_record(tmp_path):
    model = prepared(ONNX)
    unprepare_(model)
    model.save_pretrained(tmp_path)
    assert "compression" not in json.loads((tmp_path / "config.json").read_text())


# ---- what must not be taken for something else ----


@pytest.mark.parametrize(
    ("name", "kind"),
    [*((name, "bert") for name in CONVERTED if name.startswith("torchao")), ("torchao-w8a8", "vit")],
)
def test_plain_from_pretrained_opens_the_weights_of_torchao(name, kind, tmp_path):
    model = quantized(name, build(kind))
    model.save_pretrained(tmp_path)
    task = {"bert": "SequenceClassification", "vit": "ImageClassification"}[kind]
    auto = getattr(transformers, f"AutoModelFor{task}")
    stock, info = auto.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values())
    check_same(stock, model)
    written = json.loads((tmp_path / "config.json").read_text())["quantization_config"]
    assert (written["quant_method"], written["modules_to_not_convert"]) == ("torchao", ["classifier"])


def test_plain_from_pretrained_does_not_open_widths_beside_the_weights_of_torchao_wrongly(tmp_path):
    """transformers 5.17 takes weights of any shape where some are quantized; later ones refuse."""
    pytest.importorskip("torchao")
    model = build()
    cut_(model, ShrinkPlan((LayerPlan(0, (0, 1), tuple(range(32))), LayerPlan(2, (1, 3), tuple(range(7))))))
    quantized("torchao-w8a8", model).save_pretrained(tmp_path)
    opened = []
    with contextlib.suppress(RuntimeError):
        opened.append(type(model).from_pretrained(tmp_path))
    for stock in opened:
        check_same(stock, model)


@pytest.mark.parametrize("name", ["torchao-w8"])
def test_what_a_config_says_of_torchao_is_not_run(name, folder):
    """transformers would call what the config names."""
    expected = load_compressed(folder)
    other = {"default": {"_type": "no_such_function", "_data": {}}}
    change_config(folder, lambda config: config["quantization_config"].update(quant_type=other))
    with pytest.raises(ValueError, match="Failed to find class no_such_function"):
        type(expected).from_pretrained(folder)
    check_same(load_compressed(folder), expected)


@pytest.mark.parametrize("name", ["quanto-w8"])
def test_plain_from_pretrained_refuses_the_weights_of_quanto(name, tmp_path):
    build().save_pretrained(tmp_path)  # float weights from before, in shards or not
    save_file({"weight": torch.zeros(1)}, tmp_path / "model-00001-of-00002.safetensors")
    model = quantized(name)
    model.save_pretrained(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", FILE]
    with pytest.raises(OSError, match="no file named model.safetensors"):
        type(model).from_pretrained(tmp_path)


@pytest.mark.parametrize("name", ["quanto-w8"])
def test_options_that_do_not_go_with_small_weights_are_refused(name, tmp_path):
    model = quantized(name)
    with pytest.raises(ValueError, match=f"saved as {FILE}, and variant='int8' asks for another name. Leave it out"):
        model.save_pretrained(tmp_path / "new", variant="int8")
    assert not (tmp_path / "new").exists()
    model.save_pretrained(tmp_path, max_shard_size="5GB")
    check_same(load_compressed(tmp_path.parent, subfolder=tmp_path.name, attn_implementation="sdpa"), model)
    with pytest.raises(ValueError, match="has the weights of quanto-w8, which dtype cannot change"):
        load_compressed(tmp_path, dtype=torch.bfloat16)
    del model.config.compression
    with pytest.raises(ValueError, match="config.compression\\['quantization'\\] is gone"):
        model.save_pretrained(tmp_path)


# ---- damage ----


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    for name in ("torchao-w4", "torchao-w8", "quanto-w8", "quanto-w8a8", ONNX):
        needs(name)
        quantized(name).save_pretrained(folder / name)
    return folder


@pytest.fixture
def folder(saved, tmp_path, name):
    return shutil.copytree(saved / name, tmp_path / "model")


BOTH = pytest.mark.parametrize("name", ["torchao-w4", "quanto-w8a8"])


@BOTH
def test_a_missing_or_damaged_file(name, folder):
    path = folder / weights_of(name)
    for damage in (lambda: path.write_bytes(path.read_bytes()[:-100]), path.unlink):
        damage()
        with pytest.raises(ValueError, match="into BertForSequenceClassification: the files are missing, damaged"):
            load_compressed(folder)


@BOTH
@pytest.mark.parametrize("layer", ["bert.encoder.layer.0.output.dense", "classifier"])
def test_weights_that_are_missing_added_or_of_another_shape(name, layer, folder):
    path = folder / weights_of(name)
    tensors = load_file(path)
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    own = next(key for key in tensors if key.startswith(layer) and "weight" in key)
    for damaged in (
        {key: value for key, value in tensors.items() if key != own},
        tensors | {"other.weight": torch.zeros(2)},
        {key: value for key, value in tensors.items() if key != f"{layer}.bias"},
        tensors | {f"{layer}.bias": torch.zeros(5)},
    ):
        save_file(damaged, path, metadata=metadata)
        with pytest.raises(ValueError, match="are missing, damaged, or not those of its config"):
            load_compressed(folder)


@pytest.mark.parametrize("name", ["torchao-w4", "quanto-w8a8", ONNX])
def test_a_record_that_does_not_fit(name, folder):
    layers = load_compressed(folder).config.compression["quantization"]["layers"]
    for changes, message in (
        (
            {"layers": [*layers[1:], "bert.encoder.layer.7.output.dense"]},
            "layer.7.output|has no attribute|not those of its config",
        ),
        ({"scheme": "torchao-w2"}, "is malformed: scheme must be one of .*Got 'torchao-w2'"),
        ({"scheme": name, "layers": []}, "is malformed: 'quantization' must hold 'scheme', 'layers'"),
    ):
        change_config(folder, lambda config, changes=changes: config["compression"]["quantization"].update(changes))
        with pytest.raises(ValueError, match=message):
            load_compressed(folder)


@pytest.mark.parametrize("name", ["quanto-w8a8"])
def test_a_newer_version(name, folder):
    change_config(folder, lambda config: config["compression"].update(version=99))
    with pytest.raises(ValueError, match="was made by a newer hf_compalign .*pip install -U hf-compalign"):
        load_compressed(folder)


@pytest.mark.parametrize(("name", "module", "extra"), LIBRARIES)
def test_a_missing_library(name, module, extra, folder, monkeypatch):
    take_away(module, monkeypatch)
    with pytest.raises(ImportError, match=rf"pip install 'hf-compalign\[{extra}\]'"):
        load_compressed(folder)


@pytest.mark.parametrize("name", ["quanto-w8a8"])
def test_a_prepared_model_without_ranges_cannot_be_converted(name, tmp_path):
    prepared(name, calibrated=False).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="cannot be quantized as its config says. quanto-w8a8 has fixed ranges of the"):
        load_compressed(tmp_path)


def test_loading_leaves_random_numbers_alone(saved):
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    loaded = load_compressed(saved / "quanto-w8a8")
    assert torch.equal(torch.rand(3), expected)
    assert isinstance(loaded, nn.Module)
