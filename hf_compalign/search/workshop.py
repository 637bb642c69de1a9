"""Makes the files of a search, and keeps them: a search that was killed finds them again."""

import copy
import re
import shutil
from functools import cached_property
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from hf_compalign._folders import staged_folder
from hf_compalign._formats import plural
from hf_compalign.compress import load_compressed
from hf_compalign.compress.shrink import shrink_
from hf_compalign.measure.audit import answers_of
from hf_compalign.measure.predictions import Columns, Predictions, reader_of
from hf_compalign.models import computes_in, exported_files
from hf_compalign.opening import load_model
from hf_compalign.search.record import Tried
from hf_compalign.search.recovering import recover
from hf_compalign.search.setting import Setting
from hf_compalign.search.steps import Step
from hf_compalign.ship import EXPORTERS
from hf_compalign.ship.deferral import DeferringModel
from hf_compalign.ship.repair import Part, RepairOptions, repair_int8

_BATCH = 32


class Workshop:
    """Makes models and files, each once, and asks them.

    Args:
        setting: the model, its rows, and the options of the search.
        folder: where everything is kept.
        searched: the rows that are searched on, which files are asked and repaired on.
    """

    def __init__(self, setting: Setting, folder: Path, searched: Part) -> None:
        self.setting, self.folder, self.searched = setting, folder, searched
        self._opened: dict[Step, Any] = {}

    @cached_property
    def batches(self) -> list[dict[str, Any]]:
        """The rows for ranges and cuts, as the model takes them."""
        setting = self.setting
        reader = reader_of(setting.network, setting.calibration, processing_class=setting.processor)
        return reader.batches(setting.calibration, Columns.of(setting.options.columns), size=_BATCH)

    def weights(self, step: Step) -> PreTrainedModel:
        """The model that a step's file is of."""
        if not step.cut:
            return self.setting.network
        folder = self.folder / "weights" / _slug(step.weights)
        if not folder.is_dir():
            model = self._trained(step) if step.trained else self._cut(step.cut)
            with staged_folder(folder) as stage:
                model.save_pretrained(stage)
        return load_compressed(folder)

    def _cut(self, share: float) -> PreTrainedModel:
        model = copy.deepcopy(self.setting.network)
        shrink_(model, heads=share, ffn=share, calibration=self.batches)
        return model

    def _trained(self, step: Step) -> PreTrainedModel:
        student, folder = self.weights(step.untrained), self.folder / "training" / _slug(step.weights)
        return recover(student, self.setting, self.searched.rows, folder)

    def path(self, step: Step) -> Path:
        """The file of a step."""
        folder = self.folder / "files" / _slug(step.name)
        if not folder.is_dir():
            how: dict[str, Any] = {"processing_class": self.setting.processor}
            if step.file_format == "openvino":
                how["precision"] = "bf16" if computes_in("bf16") else "f32"
            if step.int8:
                how |= {"quantize": "static", "calibration": self.batches}
            if step.repaired:
                self._repair(step, folder, how)
            else:
                EXPORTERS[step.file_format](self.weights(step), folder, **how)
        (path,) = exported_files(folder)
        return path

    def _repair(self, step: Step, folder: Path, how: dict[str, Any]) -> None:
        options, searched = self.setting.options, self.searched
        done = repair_int8(
            self.weights(step),
            folder,
            limits=searched.limits,
            dataset=searched.rows,
            file_format=step.file_format,
            reference=searched.reference,
            options=RepairOptions(
                columns=options.columns, max_measurements=options.repair_measurements, timed_batch_sizes=(), **how
            ),
        )
        if not done.export.quantized_layers:
            shutil.rmtree(folder)
            raise ValueError(
                f"within {plural(options.repair_measurements, 'file')} none with a layer in INT8 keeps the limits"
            )

    def opened(self, step: Step) -> Any:
        """The file of a step as a model."""
        if step not in self._opened:
            self._opened[step] = load_model(self.path(step))
        return self._opened[step]

    def answers(self, step: Step) -> Predictions:
        """The answers of a step's file to the rows that are searched on."""
        path = self.folder / "answers" / f"{_slug(step.name)}.npz"
        if not path.is_file():
            answers_of(self.opened(step), self.searched.rows, self.setting.asking).save(path)
        return Predictions.load(path)

    def model(self, one: Tried, behind: Tried | None) -> Any:
        """What was tried, as a model: a file, or two of them."""
        network = self.opened(one.step)
        if one.deferral is None or behind is None:
            return network
        return DeferringModel(network, self.opened(behind.step), one.deferral)


def _slug(name: str) -> str:
    return "-".join(re.findall(r"[a-z0-9]+", name.lower()))
