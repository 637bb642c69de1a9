"""A saved model opens with the same weights, the same answers and the stock class; or an error says why not."""

import json
import logging
import shutil
from pathlib import Path

import pytest
import tiny
import torch
import transformers
import zoo
from safetensors.torch import load_file, save_file

from hf_compalign.compress import load_compressed
from hf_compalign.compress.shrink import LayerPlan, ShrinkPlan, cut_, layers_of, mask_
from hf_compalign.measure.footprint.measuring import _weight_files

pytestmark = pytest.mark.numeric


def shrunk(name="bert", *, layers=(0, 2), **settings):
    model = zoo.build(name, **settings)
    cut_(model, zoo.random_plan(model, layers=layers))
    return model


def check_same(loaded, model):
    assert type(loaded) is type(model)
    assert not loaded.training
    mine, theirs = model.state_dict(), loaded.state_dict()
    assert list(mine) == list(theirs)
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    batch = zoo.inputs(model)
    assert tiny.distance(zoo.answer(loaded, batch), zoo.answer(model, batch)) < tiny.ROUNDING
    widths = [[(layer.n_heads, layer.head_dim, layer.n_neurons) for layer in layers_of(one)] for one in (model, loaded)]
    assert widths[0] == widths[1]


@pytest.mark.parametrize(
    ("name", "layers"), [*((name, (0, 2)) for name in zoo.KINDS), ("mpnet", (0, 1, 2)), ("vit", (0, 1, 2))]
)
def test_saved_and_loaded_twice(name, layers, tmp_path):
    model = shrunk(name, layers=layers)
    model.save_pretrained(tmp_path / "once")
    once = load_compressed(tmp_path / "once")
    check_same(once, model)
    once.save_pretrained(tmp_path / "twice")
    check_same(load_compressed(str(tmp_path / "twice")), model)
    first, second = (json.loads((tmp_path / one / "config.json").read_text()) for one in ("once", "twice"))
    assert second["architectures"] == [type(model).__name__]
    assert first == second
    first, second = (load_file(tmp_path / one / "model.safetensors") for one in ("once", "twice"))
    assert all(torch.equal(first[key], second[key]) for key in first.keys() | second.keys())


@pytest.mark.parametrize(
    ("name", "head"),
    [
        *(("bert", f"For{task}") for task in ("TokenClassification", "QuestionAnswering", "MultipleChoice")),
        *((name, "ForMaskedLM") for name in ("bert", "roberta", "distilbert", "electra", "mpnet", "modernbert")),
        *((name, "ForMaskedLM") for name in ("deberta", "deberta-v2")),
        ("bert", "Model"),
        ("vit", "Model"),
        ("deit", "ForImageClassificationWithTeacher"),
        ("dinov2", "Model"),
        ("beit", "ForMaskedImageModeling"),
    ],
)
def test_every_task_head(name, head, tmp_path):
    model = shrunk(name, head=head)
    model.save_pretrained(tmp_path)
    loaded = load_compressed(tmp_path)
    check_same(loaded, model)
    if head == "ForMaskedLM":
        for one in (model, loaded):
            assert one.get_output_embeddings().weight is one.get_input_embeddings().weight


@pytest.mark.parametrize("name", ["roberta", "mpnet", "beit-shared-bias"])
def test_without_the_first_layer(name, tmp_path):
    model = shrunk(name, layers=(1, 2))
    model.save_pretrained(tmp_path)
    loaded = load_compressed(tmp_path)
    check_same(loaded, model)
    cut_(loaded, ShrinkPlan((LayerPlan(1, (0,), (0, 3)),)))
    loaded.save_pretrained(tmp_path / "shorter")
    check_same(load_compressed(tmp_path / "shorter"), loaded)


def test_in_shards(tmp_path):
    model = shrunk()
    model.save_pretrained(tmp_path, max_shard_size="10KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    check_same(load_compressed(tmp_path), model)


def test_cut_again_after_loading(tmp_path):
    model = shrunk("mpnet")
    model.save_pretrained(tmp_path)
    loaded = load_compressed(tmp_path)
    plan = ShrinkPlan((LayerPlan(0, (0, 2), (1, 2)), LayerPlan(1, (0,), (0, 5, 7))))
    for one in (model, loaded):
        cut_(one, plan)
    check_same(loaded, model)


# ---- what a plain from_pretrained opens ----


@pytest.mark.parametrize(
    "name", ["bert", "distilbert", "deberta-v2", "mpnet", "modernbert", "vit", "deit", "dinov2", "beit"]
)
def test_equal_widths_need_no_loader(name, tmp_path):
    model = zoo.build(name)
    config_has_heads = name in ("vit", "deit", "beit")
    n = 32 if name == "dinov2" else 12
    heads = (0, 2) if config_has_heads else (0, 1, 2, 3)
    cut_(model, ShrinkPlan(tuple(LayerPlan(index, heads, tuple(range(index, index + n))) for index in (0, 2))))
    model.save_pretrained(tmp_path)
    stock, info = type(model).from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values())
    check_same(stock, model)
    check_same(load_compressed(tmp_path), model)


@pytest.mark.parametrize("name", ["bert", "modernbert", "vit"])
def test_other_widths_are_not_opened_wrongly_without_the_loader(name, tmp_path):
    model = shrunk(name)
    model.save_pretrained(tmp_path)
    with pytest.raises(RuntimeError, match="mismatch"):
        type(model).from_pretrained(tmp_path)


@pytest.mark.parametrize("compression", [{}, {"compression": {"version": 1, "other": {"bits": 8}}}])
def test_ordinary_folders_and_those_of_other_compressions_are_opened(tmp_path, compression):
    model = zoo.build("vit", **compression)
    model.save_pretrained(tmp_path)
    check_same(load_compressed(tmp_path), model)


def test_an_ordinary_checkpoint_may_hold_more_than_the_class_uses(tmp_path):
    transformers.BertForPreTraining(zoo.build("bert").config).save_pretrained(tmp_path)
    change_config(tmp_path, architectures=["BertForMaskedLM"])
    assert type(load_compressed(tmp_path)) is transformers.BertForMaskedLM


# ---- masked in the folder, cut when loaded ----


def test_a_masked_model_is_cut_when_it_is_loaded(tmp_path):
    model = zoo.build("bert")
    plan = zoo.random_plan(model)
    mask_(model, plan)
    model.config.compression = {"version": 1, "shrink": {"cut": False, "dropped_layers": [1]}}
    model.save_pretrained(tmp_path)
    loaded = load_compressed(tmp_path)
    cut_(model, ShrinkPlan((plan.layers[0], plan.layers[2])))
    check_same(loaded, model)
    assert loaded.config.compression == model.config.compression
    assert loaded.config.compression["shrink"]["cut"] is True


def test_a_masked_model_that_cannot_be_cut(tmp_path):
    model = zoo.build("bert")
    model.config.compression = {"version": 1, "shrink": {"cut": False, "dropped_layers": [5]}}
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"cannot be cut as its config says. dropped_layers must be among 0 to 2"):
        load_compressed(tmp_path)


# ---- arguments ----


def test_arguments_go_to_from_pretrained(tmp_path):
    model = shrunk()
    model.save_pretrained(tmp_path / "there")
    loaded = load_compressed(tmp_path, subfolder="there", dtype=torch.bfloat16, attn_implementation="eager")
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.bfloat16}
    assert loaded.config._attn_implementation == "eager"
    assert torch.equal(loaded.classifier.weight, model.classifier.weight.bfloat16())


@pytest.mark.parametrize("name", ["device_map", "trust_remote_code", "config", "use_safetensors"])
def test_what_is_decided_here_is_refused(name, tmp_path):
    with pytest.raises(ValueError, match=rf"load_compressed decides {name} itself. Leave it out.*\.to\(device\)"):
        load_compressed(tmp_path, **{name: "auto"})


# ---- bad folders ----


def change_config(folder, **changes):
    path = Path(folder) / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def change_weights(folder, change):
    path = Path(folder) / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


@pytest.fixture
def folder(tmp_path, caplog):
    caplog.set_level(logging.ERROR)
    shrunk().save_pretrained(tmp_path)
    return tmp_path


@pytest.mark.parametrize("where", ["no/such/folder", "not-a-model-id", "a b c"])
def test_nothing_there(where):
    with pytest.raises(ValueError, match=f"No model could be loaded from '{where}': it must be a folder written by"):
        load_compressed(where)


def test_a_config_that_is_not_json(folder):
    (folder / "config.json").write_text("{")
    with pytest.raises(ValueError, match="No model could be loaded from"):
        load_compressed(folder)


@pytest.mark.parametrize(
    ("architectures", "message"),
    [
        (None, "does not say which class of model it is .* Save the fine-tuned model"),
        ([], "does not say which class of model it is"),
        # Some versions of transformers refuse other types themselves.
        *((wrong, "does not say which class of model it is|Field 'architectures'") for wrong in (7, 0.5, {})),
        (["MyBert"], "names the class 'MyBert', which transformers .* does not have. Code that comes with a model is"),
        (["AutoModel"], "names the class 'AutoModel'"),
        (["logging"], "names the class 'logging'"),
        ([7], "names the class 7|No model could be loaded"),
    ],
)
def test_no_class(folder, architectures, message):
    change_config(folder, architectures=architectures)
    with pytest.raises(ValueError, match=message):
        load_compressed(folder)


@pytest.mark.parametrize("model_type", ["bert", "mine"])
def test_code_from_the_folder_is_not_run(folder, model_type):
    marker = folder / "was_run"
    (folder / "code.py").write_text(f"open({str(marker)!r}, 'w')\n")
    change_config(
        folder,
        model_type=model_type,
        architectures=["Mine"],
        auto_map={"AutoConfig": "code.Mine", "AutoModel": "code.Mine", "AutoModelForSequenceClassification": "code.M"},
    )
    with pytest.raises(ValueError, match="ode .*is not run"):
        load_compressed(folder)
    assert not marker.exists()


def test_pickles_are_not_opened(folder):
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="weights of .* could not be read into BertForSequenceClassification"):
        load_compressed(folder)


@pytest.mark.parametrize("named", ["weights.bin", "../other/model.safetensors", "/other/model.safetensors", "", 7])
def test_an_index_names_safetensors_in_its_own_folder_alone(folder, named):
    torch.save(load_file(folder / "model.safetensors"), folder / "weights.bin")
    names = load_file(folder / "model.safetensors").keys()
    shutil.copytree(folder, folder / "other")
    (folder / "model.safetensors").unlink()
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": dict.fromkeys(names, named)}))
    for read in (load_compressed, _weight_files):
        with pytest.raises(
            ValueError, match=r"index.json (names '.*'. It may name nothing but safetensors|cannot be re)"
        ):
            read(folder)


def test_an_index_of_another_form_and_other_weights_in_the_config_are_refused(folder):
    torch.save(load_file(folder / "model.safetensors"), folder / "adapter_model.bin")
    change_config(folder, transformers_weights="adapter_model.bin")
    with pytest.raises(ValueError, match="names 'adapter_model.bin' as its weights, and only safetensors are read"):
        load_compressed(folder)
    change_config(folder, transformers_weights="own.safetensors.index.json")
    (folder / "own.safetensors.index.json").write_text('{"metadata": {}}')
    with pytest.raises(ValueError, match="own.safetensors.index.json cannot be read. It lacks weight_map. Copy or"):
        load_compressed(folder)


@pytest.mark.parametrize(
    "damage",
    [
        *(lambda whole, share=share: whole[: int(share * len(whole))] for share in (0.0, 0.001, 0.5, 0.99)),
        lambda whole: b"\xff" * 64 + whole[64:],
    ],
)
def test_damaged_weights(folder, damage):
    path = folder / "model.safetensors"
    path.write_bytes(damage(path.read_bytes()))
    message = "read into .* missing, damaged, or not those of its config. Copy or download the whole folder again"
    with pytest.raises(ValueError, match=message):
        load_compressed(folder)


def test_a_missing_shard(tmp_path):
    shrunk().save_pretrained(tmp_path, max_shard_size="10KB")
    sorted(tmp_path.glob("model-*.safetensors"))[1].unlink()
    with pytest.raises(ValueError, match="the files are missing"):
        load_compressed(tmp_path)


@pytest.mark.parametrize("compressed", [True, False])
def test_missing_weights(folder, compressed):
    if not compressed:
        shutil.rmtree(folder)
        zoo.build("bert").save_pretrained(folder)
    change_weights(folder, lambda tensors: tensors.pop("bert.encoder.layer.0.output.dense.bias"))
    with pytest.raises(ValueError, match=r"they lack bert.encoder.layer.0.output.dense.bias \(1 in all\)"):
        load_compressed(folder)


def test_weights_too_many(folder):
    change_weights(folder, lambda tensors: tensors.update({"bert.encoder.layer.2.output.dense.bias": torch.ones(32)}))
    with pytest.raises(ValueError, match=r"they also hold bert.encoder.layer.2.output.dense.bias \(1 in all\)"):
        load_compressed(folder)


def widths(*pairs, **more):
    return {"version": 1, "shrink": {"layers": [{"heads": heads, "neurons": n} for heads, n in pairs]} | more}


@pytest.mark.parametrize(
    ("compression", "message"),
    [
        (widths((3, 18), (1, 13)), "could not be read into .* not those of its config"),
        (widths((2, 19), (1, 13)), "could not be read into .* not those of its config"),
        (widths((3, 19)), r"other or wider layers than the config: \[{'heads': 3, 'neurons': 19}\]"),
        (widths(), "other or wider layers than the config"),
        (widths((3, 19), (5, 13)), "other or wider layers than the config"),
        (widths((3, 19), (1, 10**15)), "other or wider layers than the config"),
    ],
)
def test_widths_that_are_not_those_of_the_weights(folder, compression, message):
    change_config(folder, compression=compression)
    with pytest.raises(ValueError, match=message):
        load_compressed(folder)


def test_without_its_widths_a_shrunk_folder_is_not_opened(folder):
    config = json.loads((folder / "config.json").read_text())
    del config["compression"]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="could not be read into"):
        load_compressed(folder)


@pytest.mark.parametrize("version", [2, 100])
def test_a_newer_version(folder, version):
    change_config(folder, compression={"version": version, "something": "else"})
    made = rf"made by a newer hf_compalign \(compression version {version}; this one reads 1\)"
    with pytest.raises(ValueError, match=f"{made}: upgrade with pip install -U hf-compalign$"):
        load_compressed(folder)


@pytest.mark.parametrize(
    "compression",
    [
        "shrink",
        [],
        {},
        {"version": "1"},
        {"version": True},
        {"version": 0},
        {"version": 1, "shrink": None},
        {"version": 1, "shrink": {}},
        {"version": 1, "shrink": {"layers": {"heads": 1}}},
        {"version": 1, "shrink": {"layers": [{"heads": 1}]}},
        {"version": 1, "shrink": {"layers": [{"heads": 0, "neurons": 3}]}},
        {"version": 1, "shrink": {"layers": [{"heads": 1.5, "neurons": 3}]}},
        {"version": 1, "shrink": {"layers": [{"heads": 2, "neurons": 3, "bias_heads": [1]}]}},
        {"version": 1, "shrink": {"layers": [{"heads": 1, "neurons": 3, "bias_heads": [-1]}]}},
        {"version": 1, "shrink": {"cut": "no", "layers": []}},
        {"version": 1, "shrink": {"cut": False, "dropped_layers": 3}},
        {"version": 1, "shrink": {"cut": False, "dropped_layers": [0.5]}},
    ],
)
def test_a_malformed_entry(folder, compression):
    change_config(folder, compression=compression)
    with pytest.raises(ValueError, match=r"config.compression of .* is malformed: .*Copy or download the folder again"):
        load_compressed(folder)


def test_an_architecture_that_cannot_be_shrunk(tmp_path):
    config = transformers.GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=9, architectures=["GPT2Model"])
    config.compression = widths((1, 4))
    transformers.GPT2Model(config).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"GPT2Model \(model type 'gpt2'\).* The supported types are beit, bert"):
        load_compressed(tmp_path)


def test_a_model_that_was_opened_trains_and_is_saved_by_the_trainer(tmp_path):
    model = tiny.bert()
    cut_(model, ShrinkPlan((LayerPlan(0, (1,), tuple(range(20))), LayerPlan(1, (0, 1), tuple(range(9))))))
    model.save_pretrained(tmp_path / "start")
    trainer = transformers.Trainer(
        load_compressed(tmp_path / "start"), tiny.arguments(tmp_path / "run"), train_dataset=tiny.texts()
    )
    trainer.train()
    trainer.save_model(str(tmp_path / "end"))
    loaded = load_compressed(tmp_path / "end")
    assert torch.equal(tiny.flat(loaded), tiny.flat(trainer.model))
    assert not torch.equal(tiny.flat(loaded), tiny.flat(model))
