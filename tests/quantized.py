"""Tiny models to quantize by any scheme, and how they are prepared, quantized and compared."""

import sys
from collections.abc import Iterable
from typing import Any

import pytest
import tiny
import zoo
from transformers import PreTrainedModel

from hf_compalign.compress.quantize import SCHEMES, calibrate_, prepare_, quantizable_layers, quantize_

ONNX = "onnxruntime-w8a8"
CONVERTED = [name for name in SCHEMES if name != ONNX]
# A scheme, the module of its library that an import fails at, and the extra that brings it.
LIBRARIES = [("torchao-w8", "torchao", "torchao"), ("quanto-w8", "optimum.quanto", "optimum")]


def by_scheme(cases: Iterable[Any]) -> list[Any]:
    """Schemes, or tuples with one, as parameters of a test that computes with the small weights.

    The first time in an environment that those of four bits are unpacked, quanto compiles what does it, which is slow.
    """
    found = []
    for case in cases:
        values = case if isinstance(case, tuple) else (case,)
        found.append(pytest.param(*values, marks=[pytest.mark.slow] if "quanto-w4" in values else []))
    return found


def needs(name: str) -> None:
    """Skip where the library of a scheme is not installed."""
    backend = SCHEMES[name].backend
    if backend != "onnxruntime":
        pytest.importorskip("torchao" if backend == "torchao" else "optimum.quanto")


def build(kind: str = "bert", **changes: Any) -> PreTrainedModel:
    """A tiny model whose rows torchao's groups of 32 divide."""
    return zoo.build(kind, **({"hidden_dim": 32} if kind == "distilbert" else {"intermediate_size": 32}), **changes)


def prepared(name: str, model: PreTrainedModel | None = None, *, calibrated: bool = True) -> PreTrainedModel:
    """The model, or a BERT, with all layers of a scheme prepared and, where it has ranges, calibrated."""
    model = build() if model is None else model
    prepare_(model, SCHEMES[name], list(quantizable_layers(model, SCHEMES[name])))
    if SCHEMES[name].calibrated and calibrated:
        calibrate_(model, [zoo.inputs(model)])
    return model


def quantized(name: str, model: PreTrainedModel | None = None) -> PreTrainedModel:
    """The model, or a BERT, quantized by a scheme."""
    model = build() if model is None else model
    quantize_(model, name, calibration=[zoo.inputs(model)] if SCHEMES[name].calibrated else None)
    return model


def check_alike(one: PreTrainedModel, other: PreTrainedModel) -> None:
    """Two models answer the same inputs alike, up to rounding."""
    batch = zoo.inputs(other)
    assert tiny.distance(zoo.answer(one, batch), zoo.answer(other, batch)) < tiny.ROUNDING


def take_away(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a library look like one that is not installed."""
    for loaded in [one for one in sys.modules if one == module or one.startswith(f"{module}.")]:
        monkeypatch.delitem(sys.modules, loaded)
    monkeypatch.setitem(sys.modules, module, None)
