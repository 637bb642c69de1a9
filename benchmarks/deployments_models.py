"""The models of the deployments benchmark: an original, the rows that it has not seen, and its files of every form."""

import argparse
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from datasets import Dataset, concatenate_datasets
from study_grid import PRESETS, Plan, Training
from study_runs import Bench, Place
from study_settings import Sources
from torch import nn
from torch.sparse import to_sparse_semi_structured
from transformers import AutoModelForImageClassification, AutoModelForSequenceClassification, PreTrainedModel

from hf_compalign import Predictions, export_onnx, export_openvino, predict, prune_, shrink_
from hf_compalign.opening import load_model

# What the study has no small plan for.
_SHORT = {"rte": Training(210, 5e-5, 32), "hatexplain": Training(430, 5e-5, 32)}
PLANS: dict[str, Plan] = {name: PRESETS["cpu"][name] for name in ("sst2", "cifar10", "banking77")}
PLANS |= {name: replace(PRESETS["gpu"][name], reference=how) for name, how in _SHORT.items()}
CALIBRATION_ROWS = 512
CUTS = {"a quarter cut": {"ffn": 0.25, "heads": 0.25}, "half cut": {"ffn": 0.5, "heads": 0.5}}
FALLBACK = "OpenVINO bf16"
IMAGES = 2000


@dataclass(frozen=True)
class Form:
    """A form of the model: which cut, and what writes the file; None: none, it runs in PyTorch."""

    cut: str = ""
    export: Callable[..., Any] | None = None
    options: tuple[tuple[str, Any], ...] = ()
    calibrated: bool = False


def _openvino(cut: str = "", *, precision: str = "bf16", int8: bool = False) -> Form:
    options = (("precision", precision), *((("quantize", "static"),) if int8 else ()))
    return Form(cut, export_openvino, options, calibrated=int8)


FORMS = {
    "PyTorch": Form(),
    "PyTorch bf16": Form(),
    "ONNX Runtime": Form(export=export_onnx),
    "ONNX Runtime INT8 dynamic": Form(export=export_onnx, options=(("quantize", "dynamic"),)),
    "ONNX Runtime INT8": Form(export=export_onnx, options=(("quantize", "static"),), calibrated=True),
    "OpenVINO": _openvino(precision="f32"),
    FALLBACK: _openvino(),
    "OpenVINO INT8 f32": _openvino(precision="f32", int8=True),
    "OpenVINO INT8 bf16": _openvino(int8=True),
} | {
    f"{cut}, OpenVINO {name}": _openvino(cut, int8=int8)
    for cut in CUTS
    for name, int8 in (("bf16", False), ("INT8 bf16", True))
}
# The small files that get the fallback behind them.
DEFERRING = ("ONNX Runtime INT8", "OpenVINO INT8 bf16", *(name for name in FORMS if "cut" in name))


# What there is instead where a GPU is: form -> (precision, compiled, 2:4 sparse).
ON_GPU = {
    "PyTorch": (torch.float32, False, False),
    "PyTorch bf16": (torch.bfloat16, False, False),
    "PyTorch fp16": (torch.float16, False, False),
    "PyTorch bf16, compiled": (torch.bfloat16, True, False),
    "PyTorch fp16, 2:4": (torch.float16, False, True),
}


class Models:
    """One setting: its original, its rows, and the files, each made once and kept."""

    def __init__(self, name: str, options: argparse.Namespace) -> None:
        sources = Sources(options.checkpoint, options.data, PLANS[name].train_rows)
        self.name, self.folder = name, options.output / "deployments" / name
        self._bench = Bench(Place(options.output, sources, "deployments"), name, PLANS[name], 0)
        self.folder.mkdir(parents=True, exist_ok=True)

    @cached_property
    def collator(self) -> Any:
        """Rows -> a batch."""
        return self._bench.data.collator

    @cached_property
    def halves(self) -> tuple[Dataset, Dataset]:
        """The rows that no training saw, dealt in two: to fit on, and to measure on."""
        data = self._bench.data
        # Of SST-2 the unseen phrases alone: the sentences of its test part are other data.
        parts = [data.tests["unseen"]] if "unseen" in data.tests else [data.validation, *data.tests.values()]
        rows = concatenate_datasets(parts).shuffle(seed=0)
        return rows.select(range(len(rows) // 2)), rows.select(range(len(rows) // 2, len(rows)))

    def measured_on(self) -> Dataset:
        """The second half, as any collator takes it: the pixels of images are flat in the study's rows."""
        rows = self.halves[1]
        if "pixel_values" not in rows.column_names:
            return rows
        return rows.select(range(IMAGES)).with_transform(_shaped)

    def original(self) -> PreTrainedModel:
        """A fresh copy."""
        kind = AutoModelForImageClassification if self.name == "cifar10" else AutoModelForSequenceClassification
        return kind.from_pretrained(self._bench.reference).eval()

    def opened(self, name: str) -> Any:
        """A form as a model."""
        form = FORMS[name]
        if form.export is None:
            return self.original().bfloat16() if name.endswith("bf16") else self.original()
        folder = self.folder / name.replace(", ", "-").replace(" ", "-")
        if not folder.is_dir():
            more = {"calibration": self._calibration()} if form.calibrated else {}
            print(form.export(self._cut(form.cut), folder, **dict(form.options), **more), flush=True)
        return load_model(next(file for file in folder.iterdir() if file.suffix in (".onnx", ".xml")))

    def on_gpu(self, name: str) -> PreTrainedModel:
        """One of `ON_GPU`."""
        precision, is_compiled, is_sparse = ON_GPU[name]
        model = self.original()
        if is_sparse:
            prune_(model, 0.5, score="obs", pattern="2:4", calibration=self._calibration())
        model = model.to("cuda", precision)
        if is_sparse:
            for layer in (one for one in model.modules() if isinstance(one, nn.Linear) and min(one.weight.shape) >= 32):
                layer.weight = nn.Parameter(to_sparse_semi_structured(layer.weight), requires_grad=False)
        if is_compiled:
            model.compile()
        return model

    def _calibration(self) -> list[dict[str, torch.Tensor]]:
        return [*self._bench.data.calibration(CALIBRATION_ROWS, seed=0)]

    def _cut(self, cut: str) -> PreTrainedModel:
        model = self.original()
        if cut:
            shrink_(model, **CUTS[cut], calibration=self._calibration())
        return model

    def answers(self, name: str) -> tuple[Predictions, Predictions]:
        """Of a form, on both halves; kept."""
        found = []
        for half, rows in enumerate(self.halves):
            path = self.folder / "answers" / f"{name}-{half}.npz"
            if not path.is_file():
                path.parent.mkdir(exist_ok=True)
                predict(self.opened(name), rows, data_collator=self.collator, batch_size=32).save(path)
            found.append(Predictions.load(path))
        return found[0], found[1]


def _shaped(batch: dict[str, Any]) -> dict[str, Any]:
    pixels = torch.as_tensor(np.stack(batch["pixel_values"]), dtype=torch.float32)
    return {"pixel_values": [*pixels.view(-1, 3, 32, 32)], "labels": [int(label) for label in batch["labels"]]}
