"""What a search is given, opened and checked before anything is tried."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import PreTrainedModel

from hf_compalign.compress.export import check_not_exported
from hf_compalign.data import check_rows
from hf_compalign.measure.audit import AuditOptions, checked_limits
from hf_compalign.measure.predictions import Columns, content_fingerprint, reader_of
from hf_compalign.models import load_processor
from hf_compalign.opening import load_model, model_fingerprint, name_of
from hf_compalign.search.dealing import dealt
from hf_compalign.search.options import SearchOptions
from hf_compalign.search.steps import Step, installed_formats, ladder
from hf_compalign.tasks import Task, task_of

# What a recipe does not depend on, or says in another way.
_UNSAID = ("processing_class", "overwrite", "formats")


@dataclass(frozen=True)
class Setting:
    """A model, its rows, and what to look for.

    Attributes:
        network: the original.
        where: it came from.
        processor: its tokenizer or image processor.
        limits: to be kept.
        rows: to choose and prove on.
        calibration: rows for ranges and cuts.
        train: rows to train on, or None.
        options: the rest; the formats are those to try.
        notes: lines that say which rows were left out.
    """

    network: PreTrainedModel
    where: str
    processor: Any
    limits: Mapping[str, float]
    rows: Dataset
    calibration: Dataset
    train: Dataset | None
    options: SearchOptions
    notes: tuple[str, ...] = ()

    @property
    def task(self) -> Task:
        """Of the model."""
        return task_of(self.network)

    @property
    def asking(self) -> AuditOptions:
        """How models are asked."""
        return AuditOptions(self.options.columns, self.processor)

    @property
    def steps(self) -> list[Step]:
        """All that may be tried."""
        options = self.options
        return [
            *ladder(
                options.formats or (),
                int8=options.int8,
                cuts=options.cuts,
                repairs=options.repair_measurements > 0,
                trains=self.train is not None,
            )
        ]

    def recipe(self) -> dict[str, Any]:
        """All that the search depends on, as plain JSON values."""
        parts = {"dataset": self.rows, "calibration": self.calibration, "train": self.train}
        marks = {name: None if rows is None else self._fingerprint(rows) for name, rows in parts.items()}
        # A tokenizer is nothing to copy.
        options = asdict(replace(self.options, processing_class=None))
        said = {name: value for name, value in options.items() if name not in _UNSAID}
        asked = {"model": model_fingerprint(self.network), "limits": dict(self.limits)}
        return asked | marks | said | {"formats": list(self.options.formats or ())}

    def _fingerprint(self, rows: Dataset) -> str:
        reader = reader_of(self.network, rows, processing_class=self.processor)
        return content_fingerprint(reader, rows, Columns.of(self.options.columns))


def setting_of(
    model: PreTrainedModel | str | Path,
    dataset: Dataset,
    *,
    limits: Mapping[str, float],
    calibration: Dataset | None,
    train: Dataset | None,
    options: SearchOptions,
) -> Setting:
    """Open and check what `compress_model` is given; see there."""
    if not limits:
        raise ValueError("There is nothing to keep. Give a limit, such as limits={'mismatch_rate': 0.01}.")
    limits = checked_limits(limits)
    options = replace(options, formats=tuple(options.formats or installed_formats()))
    if isinstance(model, str | Path):
        check_not_exported(model)
    network = load_model(model)
    processor = options.processing_class or load_processor(name_of(model), task_of(network))
    check_rows(dataset)
    reader = reader_of(network, dataset, processing_class=processor)  # refuses what cannot be audited
    found = dealt(
        reader,
        dataset,
        calibration=calibration,
        train=train,
        columns=Columns.of(options.columns),
        most=options.calibration_rows,
    )
    rows = (found.rows, found.calibration, found.train)
    return Setting(network, name_of(model), processor, limits, *rows, options, found.notes)
