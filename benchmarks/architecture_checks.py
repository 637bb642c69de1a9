"""What each function of hf_compalign promises, checked with a tiny model; `architectures.py` tries them all."""

import copy
import math
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tiny_models as tiny
import torch
from datasets import Dataset
from torch.utils.data import DataLoader
from transformers import PreTrainedModel, TrainingArguments

from hf_compalign import AlignedDistillationTrainer, export_onnx, load_compressed, predict, prune_, quantize_, shrink_
from hf_compalign.compress import prunable_weights
from hf_compalign.compress.quantize import quantization_of
from hf_compalign.compress.shrink import mask_
from hf_compalign.measure.attribution import AttributionOptions, explain
from hf_compalign.measure.predictions import reader_of
from hf_compalign.models import default_collator, input_names, known_inputs

ROUNDING = 1e-4  # of the largest logit


class WrongError(Exception):
    """A function gave another result than it promises."""


def check(holds: Any, what: str) -> None:
    if not holds:
        raise WrongError(what)


@dataclass(frozen=True)
class Case:
    """A tiny model of a type, with rows."""

    kind: str

    def model(self, seed: int = 0) -> PreTrainedModel:
        """Built anew."""
        return tiny.build(self.kind, seed=seed)

    @property
    def processor(self) -> Any:
        """The tokenizer or image processor."""
        return tiny.processor(self.kind)

    @property
    def rows(self) -> Dataset:
        """Raw texts or images."""
        return tiny.rows(self.kind)

    def prepared(self, model: PreTrainedModel) -> Dataset:
        """The rows as the model reads them, labels too."""
        read = reader_of(model, self.rows, processing_class=self.processor).prepared(self.rows)
        known = input_names(model)
        inputs = ({name: value for name, value in row.items() if name in known} for row in read)
        return Dataset.from_list(list(inputs)).add_column("labels", self.rows["label"])

    def batches(self, model: PreTrainedModel) -> DataLoader:
        """The rows in batches, to calibrate with."""
        return DataLoader(self.prepared(model), 4, collate_fn=default_collator(self.processor))

    def logits(self, model: Any, batch_size: int = 12) -> np.ndarray:
        """What a model or file answers, checked."""
        found = predict(model, self.rows, processing_class=self.processor, batch_size=batch_size).logits
        check(found.shape == (len(self.rows), tiny.N_LABELS), f"logits of the shape {found.shape}")
        check(np.isfinite(found).all(), "logits that are not finite")
        return found


def apart(one: np.ndarray, other: np.ndarray) -> float:
    """The largest difference, as a share of the largest value."""
    return float(np.abs(one - other).max() / np.abs(other).max())


def heads(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The matrices that make the logits."""
    return {
        name: value.clone()
        for name, value in model.named_parameters()
        if value.ndim > 1 and tiny.N_LABELS in value.shape
    }


def predicts(case: Case) -> None:
    """The logits are those of the model's own forward pass."""
    model = case.model()
    found = case.logits(model)
    batch = next(iter(DataLoader(case.prepared(model), 12, collate_fn=default_collator(case.processor))))
    with torch.no_grad():
        own = model(**known_inputs(model, batch)).logits
    check(apart(found, own.numpy()) < ROUNDING, "other logits than those of the model")


def aligns(case: Case) -> None:
    """Three steps of training with a teacher: losses are finite, and every layer that has a gradient moves."""
    model, teacher = case.model(), case.model(seed=1)
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    with tempfile.TemporaryDirectory() as folder:
        args = TrainingArguments(
            folder, max_steps=3, per_device_train_batch_size=4, learning_rate=1e-3, logging_steps=1, use_cpu=True
        )
        trainer = AlignedDistillationTrainer(
            model,
            args,
            teacher=teacher,
            train_dataset=case.prepared(model),
            eval_dataset=case.prepared(model),
            data_collator=default_collator(case.processor),
        )
        trainer.train()
        found = trainer.evaluate()
    losses = [line["loss"] for line in trainer.state.log_history if "loss" in line] + [found["eval_loss"]]
    check(len(losses) == 4 and np.isfinite(losses).all(), f"losses of {losses}")
    check(0 <= found["eval_mismatch_rate"] <= 1, "no mismatch rate")
    moved = {name for name, value in model.named_parameters() if not torch.equal(value, before[name])}
    check({*heads(model)} <= moved and len(moved) > len(before) / 2, "weights that did not move")


def prunes(case: Case, **options: Any) -> None:
    """Half of the weights of the layers are 0, the head is as it was, and the answers are finite."""
    model = case.model()
    before = heads(model)
    summary = prune_(model, 0.5, **options)
    for name, value in before.items():
        check(torch.equal(value, model.get_parameter(name)), f"the head {name} was pruned")
    weights = prunable_weights(model)
    zeros = sum(int((weight == 0).sum()) for weight in weights.values())
    share = zeros / sum(weight.numel() for weight in weights.values())
    check(abs(share - 0.5) < 0.02 and summary.sparsity == share, f"a sparsity of {share:.1%}")
    case.logits(model)


def prunes_obs(case: Case) -> None:
    """The same, with the remaining weights corrected."""
    prunes(case, score="obs", calibration=case.batches(case.model()))


def shrinks(case: Case) -> None:
    """Half of the heads and neurons are gone, and the model answers like the one with them masked; opened again too."""
    model = case.model()
    masked = copy.deepcopy(model)
    summary = shrink_(model, heads=0.5, ffn=0.5)
    mask_(masked, summary.plan)
    check(summary.parameters[1] < summary.parameters[0], "as many parameters as before")
    found = case.logits(model)
    check(apart(found, case.logits(masked)) < ROUNDING, "other answers than the masked model's")
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        check(apart(case.logits(load_compressed(folder)), found) < ROUNDING, "other answers when opened again")


def simulated(case: Case) -> PreTrainedModel:
    model = case.model()
    quantize_(model, "onnxruntime-w8a8")
    return model


def quantizes(case: Case) -> None:
    """The logits are near those in float, and the head is not among the quantized layers."""
    model = simulated(case)
    layers = quantization_of(model).layers
    check(not {name.rpartition(".")[0] for name in heads(model)} & {*layers}, "a head that is quantized")
    distance = apart(case.logits(model), case.logits(case.model()))
    check(0 < distance < 0.3, f"logits {distance:.2g} of the largest away from float")


def exports(case: Case) -> None:
    """The ONNX file answers like the model, for other numbers and lengths of rows than it was traced with."""
    model = case.model()
    with tempfile.TemporaryDirectory() as folder:
        path = export_onnx(model, Path(folder) / "onnx").path
        for size in (1, 5, 12):
            distance = apart(case.logits(path, size), case.logits(model, size))
            check(distance < ROUNDING, f"logits {distance:.2g} of the largest apart in batches of {size}")


def exports_int8(case: Case) -> None:
    """The INT8 file quantizes the layers of the simulation and answers like it: most rows ten times nearer than float.

    A number on the edge between two levels goes one way here and the other way there, and moves its row.
    """
    model = simulated(case)
    with tempfile.TemporaryDirectory() as folder:
        found = export_onnx(model, Path(folder) / "onnx", quantize="dynamic")
        file = case.logits(found.path)
    mine = case.logits(model)
    near, far = (np.abs(other - mine).max(1) for other in (file, case.logits(case.model())))
    check({*found.quantized_layers} == {*quantization_of(model).layers}, "other layers than those of the simulation")
    check(np.median(near / far) < 0.1, f"{np.median(near / far):.2g} times as far from the simulation as float is")


def attributes(case: Case) -> None:
    """Both models have a finite score for each word or cell, and not all are 0."""
    few = case.rows.select(range(4))
    options = AttributionOptions(n_steps=8, batch_size=4)
    found = explain(case.model(), case.model(seed=1), few, processing_class=case.processor, options=options)
    for row, one in zip(few, found, strict=True):
        n = len(row["text"].split()) if "text" in row else math.prod(one.shape)
        for scores in (one.reference, one.candidate):
            check(len(scores) == n and np.isfinite(scores).all() and np.any(scores), f"the scores {scores}")


COLUMNS: dict[str, Callable[[Case], None]] = {
    "predict": predicts,
    "align": aligns,
    "prune": prunes,
    "prune, obs": prunes_obs,
    "shrink": shrinks,
    "INT8, simulated": quantizes,
    "ONNX": exports,
    "ONNX, INT8": exports_int8,
    "attribution": attributes,
}
