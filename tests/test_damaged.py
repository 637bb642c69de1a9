"""Damaged files are refused in words, with their path; whatever is damaged in them, nothing else is raised.

More damages, and a line on what became of them: ``DAMAGES=2000 pytest -s tests/test_damaged.py``.
"""

import copy
import json
import os
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import quantized
import tiny
from plotted import point
from transformers import TrainerState

from hf_compalign import PruningCallback, QuantizationCallback, ShrinkCallback, load_compressed, quantize_, shrink_
from hf_compalign._files import read_json, write_record
from hf_compalign.align.checkpoint import restore_weighting
from hf_compalign.align.fine_tuning import _is_finished
from hf_compalign.align.weighting import SoftAdaptWeighting, state_as_json
from hf_compalign.demo import folder as demo
from hf_compalign.measure.audit import Audit, ModelInfo, audit
from hf_compalign.measure.footprint import Latency
from hf_compalign.measure.predictions import Predictions
from hf_compalign.models import load_processor
from hf_compalign.ship import Frontier, Sensitivity, frontier_table
from hf_compalign.ship.deferral import Deferral
from hf_compalign.tasks import CLASSIFIERS

MANY, FEW = 60, 20  # few where each read builds a model or a tokenizer
VALUES = [None, True, -1, 0, 7, 10**30, 0.5, 1e308, float("nan"), float("inf"), "", "x", "..", [], [1], [[]], {}]


@dataclass(frozen=True)
class Kind:
    """A kind of file: what writes one into a folder and returns its path, and what reads it."""

    write: Callable[[Path], Path]
    read: Callable[[Path], Any]
    of_ours: str = ""  # the only part of a JSON whose values are damaged; the rest belongs to transformers
    damages: int = MANY  # how many there are of it


def write_predictions(folder):
    rng = np.random.default_rng(0)
    ids = [str(index) for index in range(50)]
    Predictions(rng.normal(size=(50, 3)), np.arange(50) % 3, ids, list("abc")).save(folder / "file.npz")
    return folder / "file.npz"


def write_audit(folder):
    rng = np.random.default_rng(0)
    ids, labels, logits = [str(index) for index in range(60)], rng.integers(0, 2, 60), rng.normal(size=(60, 2))
    models = [
        Predictions(logits + noise * rng.normal(size=(60, 2)), labels, ids, ["no", "yes"]) for noise in (0, 0.5, 0.2)
    ]
    found = audit(*models[:2], groups=["a", "b"] * 30, floor=models[2], limits={"mismatch_rate": 0.5})
    found.save(folder / "audit.json")
    return folder / "audit.json"


def read_audit(path):
    found = Audit.load(path)
    found.to_pandas("per_class")
    return str(found), found.to_json()


def write_frontier(folder):
    baselines = {"torch": {1: Latency(6.0, 5.0, 7.0)}}
    points = (point(0, 9, 25_000_000, b1=2.0), point(4, 0, 100_000_000))
    tried = (Sensitivity(("layer.0",), 50, 3, 0.25, 90_000_000),)
    Frontier(points, points[1:], points[1].kept, "KEPT", tried, baselines, "a CPU").save(folder / "frontier.json")
    return folder / "frontier.json"


def write_deferral(folder):
    counts = {"n": 400, "answered": 390, "changed": 2, "mismatches": 5}
    models = {"reference": ModelInfo("big", "0" * 16), "candidate": ModelInfo("small", "1" * 16)}
    chosen = {"score": "margin", "threshold": 0.5, "budget": 0.02, "confidence": 0.95, "bound": 0.016}
    latency = Latency(6.0, 5.0, 7.0), Latency(2.0, 1.0, 3.0)
    Deferral(**chosen, **counts, scores=("margin",), **models, latency=latency).save(folder / "deferral.json")
    return folder / "deferral.json"


RECIPE = {"alignment": {"logits_weight": 0.5, "weighting": "softadapt"}, "teacher": "0123456789abcdef"}


def write_alignment(folder):
    state = RECIPE | {"weighting": state_as_json(SoftAdaptWeighting([1.0, 2.0]))}
    (folder / "alignment.json").write_text(json.dumps(state))
    return folder / "alignment.json"


def write_recipe(folder):
    (folder / "fine_tuning.json").write_text(json.dumps({"seed": 1, "data": {"train": ["a", "b"]}}))
    return folder / "fine_tuning.json"


def write_model(name, folder, **options):
    """A model of unlike widths that are rounded."""
    model = MODEL(num_hidden_layers=2)
    shrink_(model, ffn=0.5, heads=0.5, score="magnitude")
    quantize_(model, "onnxruntime-w8a8")
    model.save_pretrained(folder, **options)
    return folder / name


def write_masked(folder):
    """A model whose units are masked, and whose first layer is to go."""
    model = MODEL(num_hidden_layers=2)
    model.config.compression = {"version": 1, "shrink": {"cut": False, "dropped_layers": [0]}}
    model.save_pretrained(folder)
    return folder / "config.json"


def write_results(folder):
    found = {"kind": demo.KIND, "format_version": demo.FORMAT_VERSION, "n": 3, "files": ["README.md", "results.json"]}
    write_record(folder / demo.RESULTS, found)
    return folder / demo.RESULTS


def read_results(path):
    """A demo goes on without what it cannot read, and then replaces nothing."""
    if not demo._former_entries(path.parent):
        raise ValueError(f"{path} names nothing that may go.")


def read_model(path):
    load_compressed(path.parent)


def write_tokenizer(name, folder):
    tiny.tokenizer().save_pretrained(folder)
    return folder / name


def read_tokenizer(path):
    load_processor(path.parent, CLASSIFIERS[0])


def begun(callback, path, step):
    """A callback whose training begins at a step, with what a checkpoint holds."""
    args = tiny.arguments(path.parents[1])
    state = TrainerState(global_step=step, max_steps=8, stateful_callbacks=read_json(path) if step else None)
    model = MODEL()
    callback.on_train_begin(args, state, None, model=model, optimizer=None, train_dataloader=None)
    callback.on_epoch_begin(args, state, None, model=model)
    return callback


def write_state(make, folder):
    path = folder / "checkpoint-2" / "trainer_state.json"
    path.parent.mkdir()
    callback = begun(make(), path, 0)
    path.write_text(json.dumps({type(callback).__name__: [callback.state()]}))
    return path


def write_ranges(folder):
    quantized.needs("quanto-w8a8")
    return write_state(QUANTIZING, folder)


MODEL = partial(tiny.bert, num_hidden_layers=1)
PRUNING = partial(PruningCallback, 0.5, schedule="constant")
SHRINKING = partial(ShrinkCallback, ffn=0.5, heads=0.5, schedule="constant", score="magnitude")
QUANTIZING = partial(QuantizationCallback, "quanto-w8a8", calibration=[tiny.batch(tiny.texts(2))])

LAYER = "bert.encoder.layer.0.attention.self.query"

KINDS = {
    "alignment": Kind(write_alignment, lambda path: restore_weighting(SoftAdaptWeighting([1.0, 2.0]), path, RECIPE)),
    "recipe": Kind(write_recipe, lambda path: _is_finished(path.parent, {"seed": 1, "data": {"train": ["a", "b"]}})),
    "pruning": Kind(partial(write_state, PRUNING), lambda path: begun(PRUNING(), path, 2), damages=FEW),
    "shrinking": Kind(partial(write_state, SHRINKING), lambda path: begun(SHRINKING(), path, 2), damages=FEW),
    "quantizing": Kind(write_ranges, lambda path: begun(QUANTIZING(), path, 2), damages=FEW),
    "config": Kind(partial(write_model, "config.json"), read_model, "compression", damages=FEW),
    "masked": Kind(write_masked, read_model, "compression", damages=FEW),
    "weights": Kind(partial(write_model, "model.safetensors"), read_model, damages=FEW),
    "index": Kind(partial(write_model, "model.safetensors.index.json", max_shard_size="10KB"), read_model, damages=FEW),
    "tokenizer": Kind(partial(write_tokenizer, "tokenizer.json"), read_tokenizer, damages=FEW),
    "tokenizer config": Kind(partial(write_tokenizer, "tokenizer_config.json"), read_tokenizer, damages=FEW),
    "results": Kind(write_results, read_results),
    "predictions": Kind(write_predictions, Predictions.load),
    "audit": Kind(write_audit, read_audit),
    "deferral": Kind(write_deferral, lambda path: str(Deferral.load(path))),
    "frontier": Kind(write_frontier, lambda path: frontier_table(Frontier.load(path))),
}


def bits(good, draw):
    """A flipped bit, a lost end, a run of zeros, or bytes in the wrong place."""
    bad = bytearray(good)
    place = draw.randrange(len(bad))
    how = draw.randrange(4)
    if how == 0:
        bad[place] ^= 1 << draw.randrange(8)
    elif how == 1:
        del bad[place:]
    elif how == 2:
        bad[place : place + 20] = bytes(20)
    else:
        bad[place:place] = draw.randbytes(8)
    return bytes(bad)


def places(node, path=()):
    """The way to every value of a JSON, but of lists only to the first and the last."""
    keys = node if isinstance(node, dict) else {0, len(node) - 1} if isinstance(node, list) and node else ()
    for key in keys:
        yield (*path, key)
        yield from places(node[key], (*path, key))


def values(good, draw, part=""):
    """One value of a JSON, or of a part of it, is missing, twice there, or another."""
    bad = json.loads(good)
    *way, last = draw.choice([place for place in places(bad) if part in ("", place[0])])
    node = bad
    for key in way:
        node = node[key]
    how = draw.randrange(8)
    if how == 0:
        del node[last]
    elif how == 1 and isinstance(last, str):
        twice = json.dumps({last: node[last]})[1:-1]
        node[last] = "@"
        return json.dumps(bad).replace(f'{json.dumps(last)}: "@"', f"{twice}, {twice}", 1).encode()
    elif how == 2:
        node[last] = "@"
        return json.dumps(bad).replace('"@"', "[" * 100_000, 1).encode()
    else:
        node[last] = copy.deepcopy(draw.choice(VALUES))
    return json.dumps(bad).encode()


def arrays(good, draw):
    """An array of an .npz is of another type or shape."""
    import io

    with np.load(io.BytesIO(good)) as archive:
        bad = dict(archive)
    name = draw.choice(sorted(bad))
    changes = [
        lambda array: array[:-1] if array.ndim else array.reshape(1),
        lambda array: array.astype("U")[..., None],
        lambda array: np.zeros((3, 0)),
        lambda array: np.full(array.shape, np.inf),
        lambda array: np.array("[" * 100_000),
        lambda array: np.full(array.shape, 2**40),
        lambda array: np.full(max(array.size, 1), 0x7FFFFFFF, dtype=np.uint32).view("U1").reshape(array.shape or 1),
        lambda array: array.view(np.uint8) if array.ndim else np.array('{"format_version": 1}'),
    ]
    bad[name] = draw.choice(changes)(bad[name])
    file = io.BytesIO()
    np.savez_compressed(file, **bad)
    return file.getvalue()


def headers(good, draw):
    """The header of a .safetensors has another length or another value."""
    end = 8 + int.from_bytes(good[:8], "little")
    if draw.random() < 0.3:
        return draw.choice([0, 1, end - 9, end - 7, len(good), 2**40, 2**64 - 1]).to_bytes(8, "little") + good[8:]
    header = values(good[8:end], draw)
    return len(header).to_bytes(8, "little") + header + good[end:]


@pytest.mark.parametrize(
    ("kind", "place", "value"),
    [
        *(("shrinking", ("goal", "widths", 0, 0), index) for index in (-1, 1)),
        *(("shrinking", ("goal", "widths", 0, 1), n_heads) for n_heads in (0, 3, 10**15)),
        *(("shrinking", ("goal", "widths", 0, 2), n_neurons) for n_neurons in (-1, 33)),
        *(("shrinking", ("goal", "dropped"), gone) for gone in ([0], [1], [-1])),
        ("shrinking", ("goal", "widths"), []),
        *(("quantizing", ("ranges", LAYER), scale) for scale in (0.0, -1.0, None)),
        *(("quantizing", ("ranges",), ranges) for ranges in ({}, {"nowhere": 1.0}, None)),
    ],
)
def test_numbers_that_no_model_has_are_refused_when_a_run_begins(kind, place, value, tmp_path):
    path = KINDS[kind].write(tmp_path)
    stored = json.loads(path.read_text())
    *way, last = place
    node = next(iter(stored.values()))[0]["progress"]
    for key in way:
        node = node[key]
    node[last] = value
    path.write_text(json.dumps(stored))
    with pytest.raises(
        ValueError, match=f"trainer_state.json of the checkpoint {path.parent} cannot be read. .* Resume"
    ):
        KINDS[kind].read(path)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_damaged_file_is_read_or_refused_in_words(kind, tmp_path):
    path = KINDS[kind].write(tmp_path)
    good = path.read_bytes()
    KINDS[kind].read(path)
    inside = {".json": partial(values, part=KINDS[kind].of_ours), ".npz": arrays, ".safetensors": headers}
    ways = [bits, inside[path.suffix]]
    damages = int(os.environ.get("DAMAGES", KINDS[kind].damages))
    became, unnamed = Counter(), []
    for seed in range(damages):
        draw = random.Random(seed)
        way = ways[seed % len(ways)]
        path.write_bytes(way(good, draw))
        try:
            KINDS[kind].read(path)
            became["read"] += 1
        except ValueError as error:
            became["refused"] += 1
            unnamed += [] if str(path.parent) in str(error) else [f"damage {seed}: {error}"]
        except Exception as error:
            raise AssertionError(f"damage {seed} of {kind}") from error
    assert not unnamed, "the message does not name the file"
    assert became["refused"] > 0
    print(f"\n{kind}: {became['refused']} of {damages} damaged files refused, {became['read']} read")
