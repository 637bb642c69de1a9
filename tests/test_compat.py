"""Every entry of `_compat.py` still holds upstream; where it does not, the failure says what to do."""

import ast
import copy
import inspect
import json
from itertools import count
from pathlib import Path

import pytest
import tiny
import torch
import zoo
from safetensors.torch import load_file
from transformers import (
    AutoTokenizer,
    BertConfig,
    DefaultFlowCallback,
    Trainer,
    TrainerCallback,
    TrainerState,
    Wav2Vec2Config,
)
from transformers.models.wav2vec2.modeling_wav2vec2 import Wav2Vec2FeatureEncoder
from transformers.trainer_callback import ExportableState

import hf_compalign
from hf_compalign import _compat
from hf_compalign.align import AlignedDistillationTrainer
from hf_compalign.compress.export import calibrate_graph, export_graph, graph_layers, quantize_graph
from hf_compalign.compress.quantize import FakeQuantizedLinear, quantize_
from hf_compalign.compress.shrink import LayerPlan, ShrinkPlan, cut_units
from hf_compalign.models import OnnxModel, sample_inputs

ROOT = Path(hf_compalign.__file__).parent


def still(fact, what):
    assert fact, f"{what} See hf_compalign/_compat.py."


# ---- one small training, recorded ----


class Recorded(Trainer):
    """A stock Trainer that notes when it calls what our trainer overrides."""

    def note(self, name, *given):
        folder = next((Path(one) for one in given if isinstance(one, str | Path)), None)
        complete = folder is not None and (folder / "trainer_state.json").exists()
        self.calls = [*getattr(self, "calls", []), (name, len(given), self.state.global_step, complete)]

    def noted(self, name):
        return [call[1:] for call in getattr(self, "calls", []) if call[0] == name]


def _recording(name):
    def method(self, *given):
        self.note(name, *given)
        return getattr(super(Recorded, self), name)(*given)

    return method


for _name in _compat.OVERRIDDEN:
    setattr(Recorded, _name, _recording(_name))


class Saved(TrainerCallback, ExportableState):
    """Counts how often its state is asked for."""

    def __init__(self, name):
        self.name, self.asked = name, 0

    def state(self):
        self.asked += 1
        return {"args": {"name": self.name}, "attributes": {}, "asked": self.asked}


class Adds(TrainerCallback):
    def on_log(self, args, state, control, logs=None, **kwargs):
        logs["added"] = 1.0
        _compat.add_to_log(state, {"added": 1.0})

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 2:
            _compat.forget_best(state)


class Sees(TrainerCallback):
    def __init__(self):
        self.lines = []

    def on_log(self, args, state, control, logs=None, **kwargs):
        self.lines.append(dict(logs))


@pytest.fixture(scope="module")
def training(tmp_path_factory):
    """Three steps, each saved, with a worse score each time; and the third again, resumed after the second."""
    folder, scores = tmp_path_factory.mktemp("training"), count()
    every_step = {f"{what}_strategy": "steps" for what in ("logging", "eval", "save")} | {"logging_steps": 1}
    settings = every_step | {"eval_steps": 1, "save_steps": 1, "num_train_epochs": 1, "load_best_model_at_end": True}
    settings |= {"metric_for_best_model": "score", "greater_is_better": True}

    def trainer(name):
        return Recorded(
            tiny.bert(),
            tiny.arguments(folder / name, **settings),
            train_dataset=tiny.texts(12),
            eval_dataset=tiny.texts(4),
            compute_metrics=lambda _: {"score": -next(scores)},
            callbacks=[Saved("one"), Saved("two"), Adds(), Sees()],
        )

    whole, resumed = trainer("whole"), trainer("resumed")
    whole.train()
    resumed.train(resume_from_checkpoint=str(folder / "whole" / "checkpoint-2"))
    return folder / "whole", whole, resumed


@pytest.mark.parametrize(("name", "parameters"), _compat.OVERRIDDEN.items())
def test_the_trainer_still_calls_what_is_overridden(training, name, parameters):
    has = inspect.signature(getattr(Trainer, name, lambda: None)).parameters
    still(tuple(has)[1:] == parameters, f"Trainer.{name} no longer takes {parameters}: override what does its work.")
    calls = [call for trainer in training[1:] for call in trainer.noted(name)]
    still(calls, f"Trainer no longer calls {name}: override what does its work.")


def test_a_checkpoint_is_complete_after_what_is_added_to_it(training):
    calls = training[1].noted("_save_optimizer_and_scheduler")
    still([step for _, step, _ in calls] == [1, 2, 3], "Not every checkpoint has an optimizer: save elsewhere.")
    still(
        not any(complete for _, _, complete in calls),
        "trainer_state.json is no longer written last: a checkpoint cut off by a kill must be known by another file.",
    )


def test_a_checkpoint_is_loaded_before_the_first_step(training):
    calls = training[2].noted("_load_optimizer_and_scheduler")
    still(
        [(n_given, complete) for n_given, _, complete in calls] == [(1, True)],
        "Trainer no longer loads the optimizer from the checkpoint's folder: load the weighting elsewhere.",
    )


def test_more_is_saved_before_a_checkpoint_is_complete_and_loaded_from_its_folder(tmp_path):
    seen = []

    def note(folder):
        seen.append((folder, (folder / "optimizer.pt").exists(), (folder / "trainer_state.json").exists()))

    for resume in (None, str(tmp_path / "checkpoint-12")):
        trainer = tiny.trainer(tmp_path, tiny.bert(), save_steps=12)
        _compat.save_in_checkpoints(trainer, note, note)
        trainer.train(resume_from_checkpoint=resume)
    folder = tmp_path / "checkpoint-12"
    still(seen == [(folder, True, False), (folder, True, True)], "A callback must save in checkpoints another way now.")


def test_columns_are_kept_by_name(tmp_path):
    trainer = Trainer(tiny.bert(), tiny.arguments(tmp_path))
    trainer._set_signature_columns_if_needed()
    kept = getattr(trainer, "_signature_columns", None)
    still(isinstance(kept, list) and "input_ids" in kept, "Trainer no longer keeps columns by _signature_columns.")


def test_nothing_else_of_the_trainer_is_overridden_or_overwritten(tmp_path):
    mro = AlignedDistillationTrainer.__mro__
    own = mro[: mro.index(Trainer)]
    private = {name for one in own for name in vars(one) if name.startswith("_") and not name.startswith("__")}
    assert {name for name in private if hasattr(Trainer, name)} == {*_compat.OVERRIDDEN}
    nodes = [node for one in own for node in ast.walk(ast.parse(inspect.getsource(one)))]
    ours = {node.attr for node in nodes if isinstance(node, ast.Attribute) and _is_set_on_self(node)}
    shared = {name for name in ours if name.startswith("_")} & {*vars(Trainer(tiny.bert(), tiny.arguments(tmp_path)))}
    still(shared == {"_signature_columns"}, f"Trainer has private attributes of the same names now: rename {shared}.")


def _is_set_on_self(node):
    return isinstance(node.ctx, ast.Store) and ast.unparse(node.value) == "self"


class Ones(Trainer):
    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        return 0 * next(model.parameters()).sum() + 1


def test_a_scaled_loss_is_not_divided_again(tmp_path):
    trainer = Ones(tiny.bert(), tiny.arguments(tmp_path))
    _compat.loss_is_scaled(trainer)
    trainer.current_gradient_accumulation_steps = 4
    loss = trainer.training_step(trainer.model, tiny.texts(4).with_format("torch")[:], torch.tensor(4))
    still(loss == 1, "Trainer divides a scaled loss by the accumulation steps: find how it is told now.")


def test_a_batch_is_prepared_by_the_trainer(tmp_path):
    trainer = Trainer(tiny.bert(), tiny.arguments(tmp_path))
    batch = {"input_ids": torch.ones(2, 3)}
    found = _compat.prepared(trainer, batch)
    moved = {*found} == {*batch} and found["input_ids"].device == trainer.args.device
    still(moved, "Trainer._prepare_inputs no longer gives the same batch on its device.")


def test_what_is_added_to_a_log_line_is_in_the_history_and_seen_by_later_callbacks(training):
    _, whole, _ = training
    history = [line for line in whole.state.log_history if "loss" in line]
    still(len(history) == 3 and all("added" in line for line in history), "log_history has the line later: add there.")
    seen = next(one for one in whole.callback_handler.callbacks if isinstance(one, Sees)).lines
    still(all("added" in line for line in seen), "Each callback gets a copy of the log line: later ones miss numbers.")


def test_the_best_model_is_sought_anew_after_it_is_forgotten(training):
    _, whole, _ = training
    best = whole.state.best_metric, whole.state.best_global_step, Path(whole.state.best_model_checkpoint).name
    still(best == (-1, 2, "checkpoint-2"), f"The best model is {best}: forgetting it takes other attributes now.")


def test_a_twin_trains_on_its_own(tmp_path):
    trainer, plain = (tiny.trainer(tmp_path, tiny.bert(), num_train_epochs=1) for _ in range(2))
    held, callbacks = dict(vars(trainer)), [*trainer.callback_handler.callbacks]
    twin = _compat.twin(trainer, copy.copy(trainer.args), [DefaultFlowCallback(), tiny.Stop(3)])
    with tiny.unchanged(trainer.model):
        twin.train()
    plain.add_callback(tiny.Stop(3))
    plain.train()
    still(torch.equal(tiny.flat(twin.model), tiny.flat(plain.model)), "A copied Trainer trains otherwise: copy more.")
    changed = {name for name, value in held.items() if vars(trainer)[name] is not value}
    still(not changed and trainer.callback_handler.callbacks == callbacks, f"A twin changes its Trainer's {changed}.")
    still(not trainer.control.should_training_stop, "A twin shares its Trainer's control.")


@pytest.mark.parametrize("saves", [False, True])
def test_the_start_becomes_the_best_model_only_where_it_is_saved(tmp_path, saves):
    class Start(TrainerCallback):
        def on_epoch_begin(self, args, state, control, **kwargs):
            if saves:
                _compat.save_as_best(run, {"eval_loss": -1.0})
                assert json.loads((tmp_path / "checkpoint-0" / "trainer_state.json").read_text())["best_metric"] == -1.0

        def on_save(self, args, state, control, **kwargs):
            steps.append(state.global_step)

    steps, settings = [], {"eval_on_start": True, "eval_steps": 6, "save_steps": 6, "load_best_model_at_end": True}
    model = tiny.bert()
    start = tiny.flat(model).clone()
    run = tiny.trainer(tmp_path, model, Start(), save_total_limit=1, num_train_epochs=1, **settings)
    run.train()
    best = str(tmp_path / f"checkpoint-{0 if saves else 6}")
    still(
        run.state.best_model_checkpoint == best, "The Trainer notes another best model: it may count the start itself."
    )
    still(
        torch.equal(tiny.flat(run.model), start) == saves, "The Trainer does not load checkpoint-0 as the best model."
    )
    assert steps == [0, 6][not saves :]


def test_of_the_states_of_one_class_the_latest_are_last(training):
    folder, whole, _ = training
    state = TrainerState.load_from_json(str(folder / "checkpoint-3" / "trainer_state.json"))
    stored = _compat.stored_states(state, "Saved")
    own = {one.name: one for one in whole.callback_handler.callbacks if isinstance(one, Saved)}
    last = {name: [saved["asked"] for saved in stored if saved["args"]["name"] == name][-1] for name in own}
    still(last == {name: one.asked for name, one in own.items()}, "The states of callbacks are in another order now.")
    assert _compat.stored_states(TrainerState(), "Saved") == []


# ---- models and datasets ----


def test_a_tokenizer_is_made_up_for_a_folder_without_one(tmp_path):
    BertConfig().save_pretrained(tmp_path)
    try:
        made_up = AutoTokenizer.from_pretrained(tmp_path)
    except (OSError, ValueError):
        made_up = None
    still(made_up is not None, "AutoTokenizer refuses a folder without a tokenizer now: has_tokenizer can go.")
    assert not _compat.has_tokenizer(tmp_path)


def test_an_image_processor_is_read_with_pillow(tmp_path):
    (tmp_path / "preprocessor_config.json").write_text('{"image_processor_type": "ViTImageProcessor"}')
    found = _compat.image_processor_class().from_pretrained(tmp_path)
    still(callable(found), "The class of image processors is in another file now.")


def test_what_an_exporter_returns_has_a_graph():
    pytest.importorskip("onnxscript", reason="the extra onnx is not installed")
    from transformers.exporters import OnnxConfig, OnnxExporter

    inputs = {"input_ids": torch.ones(1, 3, dtype=torch.int64)}
    found = _compat.exported_graph(OnnxExporter().export(tiny.bert().eval(), inputs, config=OnnxConfig()))
    still(hasattr(found, "graph"), "The graph of an exported model is somewhere else now.")


def test_a_config_says_which_attention_it_has():
    found = [_compat.attention_of(tiny.bert(attn_implementation=name)) for name in ("eager", "sdpa")]
    still(found == ["eager", "sdpa"], "The attention of a model is said elsewhere now.")
    assert _compat.attention_of(torch.nn.Linear(1, 1)) is None


def test_a_layer_is_checkpointed_in_training_mode_alone():
    model, modes, functions = tiny.bert(), [], []
    getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)()
    layer = model.bert.encoder.layer[0]
    layer.intermediate.register_forward_hook(lambda *_: modes.append(layer.training))
    own = layer._gradient_checkpointing_func
    layer._gradient_checkpointing_func = lambda function, *args: functions.append(function) or own(function, *args)
    for mode in (True, False):
        layer.train(mode)(torch.ones(1, 2, 16))
    still(modes == [True, False] and len(functions) == 1, "Layers are checkpointed in other modes now.")
    with _compat.checkpointed_in_evaluation(layer.train()):
        found = layer(torch.ones(1, 2, 16, requires_grad=True))
    found.sum().backward()
    still(modes[2:] == [False, False] and len(functions) == 2, "What checkpoints a layer is set elsewhere now.")
    assert layer.training


def test_some_stacks_checkpoint_in_training_mode_themselves():
    config = Wav2Vec2Config(conv_dim=(8,), conv_stride=(5,), conv_kernel=(10,), num_feat_extract_layers=1)
    needs = [_compat.needs_training_mode(one) for one in (Wav2Vec2FeatureEncoder(config), tiny.bert().bert.encoder)]
    still(needs == [True, False], "The convolutions of wav2vec 2.0 let their inputs have gradients in another way now.")


def test_a_dataset_has_the_fingerprint_that_map_was_given():
    rows = tiny.texts(2)
    found = [_compat.dataset_fingerprint(rows.map(lambda row: row, new_fingerprint=mark)) for mark in ("a1", "b2")]
    still(found == ["a1", "b2"], "The fingerprint of a dataset is said elsewhere now.")
    assert _compat.dataset_fingerprint(rows) == _compat.dataset_fingerprint(rows)


# ---- weights ----


def test_a_model_is_changed_between_its_building_and_its_weights(tmp_path):
    """A ViT, whose weights have other names in the file than in the model."""
    model = zoo.build("vit")
    plan = ShrinkPlan(tuple(LayerPlan(index, (0, 2), (1, 3, 4)) for index in range(3)))
    cut_units(model, plan)
    model.save_pretrained(tmp_path)
    try:
        type(model).from_pretrained(tmp_path)
    except RuntimeError:
        cls = _compat.built_with(type(model), lambda built: cut_units(built, plan))
        loaded, info = cls.from_pretrained(tmp_path, output_loading_info=True)
        same = all(torch.equal(one, other) for one, other in zip(loaded.parameters(), model.parameters(), strict=True))
        still(same and not any(info.values()), "from_pretrained no longer builds the class that it is called on.")
    else:
        still(False, "from_pretrained takes weights of other widths now: built_with can go.")


def test_a_module_is_another_class_and_nothing_else():
    layer = torch.nn.Linear(3, 2)
    hook = layer.register_forward_hook(lambda layer, args, output: output + 1)
    before = {name: id(value) for name, value in vars(layer).items()}
    _compat.become(layer, FakeQuantizedLinear)
    same = before == {name: id(value) for name, value in vars(layer).items()}
    still(same, "A module of another class holds something else.")
    rounded = layer(torch.ones(1, 3))
    hook.remove()
    still(torch.equal(layer(torch.ones(1, 3)) + 1, rounded), "A module of another class does not run its hooks.")


def test_a_model_of_torchao_is_saved_again_without_the_note_of_its_reading(tmp_path):
    pytest.importorskip("torchao")
    model = zoo.build("vit")
    quantize_(model, "torchao-w8")
    model.save_pretrained(tmp_path / "once")
    loaded = type(model).from_pretrained(tmp_path / "once")
    try:
        loaded.save_pretrained(tmp_path / "twice")
    except NotImplementedError:
        _compat.forget_reading(loaded)
        loaded.save_pretrained(tmp_path / "twice")
        names = [load_file(tmp_path / one / "model.safetensors").keys() for one in ("once", "twice")]
        still(names[0] == names[1], "Without _weight_conversions a model is saved by other names.")
    else:
        still(False, "transformers saves a model of torchao that it has read: forget_reading can go.")


def test_quanto_needs_contiguous_gradients():
    quanto = pytest.importorskip("optimum.quanto")
    layer = quanto.quantize_module(torch.nn.Linear(4, 6), weights="qint8")
    gradient = torch.ones(5, 6, 2).transpose(1, 2).transpose(0, 1)
    try:
        layer(torch.ones(2, 5, 4)).backward(gradient)
    except RuntimeError:
        _compat.make_gradients_contiguous(layer)
        layer(torch.ones(2, 5, 4)).backward(gradient)
    else:
        still(False, "optimum-quanto takes any gradient now: make_gradients_contiguous can go.")


def test_onnxruntime_quantizes_by_given_ranges_as_by_those_it_finds(tmp_path):
    """QDQQuantizer, which is documented less than quantize_static, does what that does."""
    ort = pytest.importorskip("onnxruntime.quantization")
    model = tiny.vit().eval()
    path, batch = tmp_path / "model.onnx", sample_inputs(model, n_items=4)
    export_graph(model, path)

    class Reader(ort.CalibrationDataReader):
        batches = iter([{name: value.numpy() for name, value in batch.items()}])

        def get_next(self):
            return next(self.batches, None)

    layers = graph_layers(path, "static")
    kept = {name for name in layers if not name.endswith("projection")}
    quantize_graph(path, tmp_path / "ours.onnx", mode="static", keep_float=kept, ranges=calibrate_graph(path, [batch]))
    nodes = [f"{name}/Conv" for name in layers if name not in kept]
    types = {"activation_type": ort.QuantType.QUInt8, "weight_type": ort.QuantType.QInt8, "per_channel": True}
    ort.quantize_static(path, tmp_path / "theirs.onnx", Reader(), nodes_to_quantize=nodes, **types)
    config = model.config.__class__(**model.config.to_dict() | {"architectures": [type(model).__name__]})
    ours, theirs = (OnnxModel(tmp_path / f"{one}.onnx", config=config)(**batch)["logits"] for one in ("ours", "theirs"))
    still(torch.equal(ours, theirs), "QDQQuantizer computes something else than quantize_static now.")


# ---- and there is nothing else ----


def test_private_names_of_others_are_used_in_compat_alone():
    trees = {path: ast.parse(path.read_text()) for path in ROOT.rglob("*.py")}
    own = {name for tree in trees.values() for node in ast.walk(tree) for name in _defined(node)}
    trees.pop(ROOT / "_compat.py")
    used = {text for tree in trees.values() for node in ast.walk(tree) for text in _foreign(node, own)}
    assert not used, "a private name of another library: use a public one, or give it an entry in _compat.py"


def _defined(node):
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        yield node.name
    elif isinstance(node, ast.Name):
        yield node.id
    elif isinstance(node, ast.Attribute) and _is_set_on_self(node):
        yield node.attr


def _foreign(node, own):
    """The private names that a piece of code uses and that nobody here defines."""
    if isinstance(node, ast.Attribute) and _is_private(node.attr) and node.attr not in own:
        yield ast.unparse(node)
    elif isinstance(node, ast.ImportFrom) and not node.module.startswith("hf_compalign"):
        yield from (f"{node.module}.{alias.name}" for alias in node.names if _is_private(alias.name))


def _is_private(name):
    return name.startswith("_") and not name.startswith("__")
