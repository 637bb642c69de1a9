"""What a search would do, and about how long it would take, without doing it."""

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from datasets import Dataset
from transformers import PreTrainedModel

from hf_compalign._formats import count, decimals, percent
from hf_compalign._tables import Table, as_text
from hf_compalign.measure.footprint import first_batch
from hf_compalign.measure.statistics import cluster_bound, upper_bound
from hf_compalign.models import evaluating, forward_logits
from hf_compalign.search.options import SearchOptions
from hf_compalign.search.setting import Setting, setting_of
from hf_compalign.search.steps import Step

_BATCH = 32
# Rough measures of two-core CPUs: what a step takes in passes of the original over a batch, and in seconds.
_EXPORT_SECONDS, _INT8_SECONDS = 15.0, 20.0
_PASSES_OF_INT8, _PASSES_OF_A_CUT, _PASSES_OF_A_TRAINING_STEP, _SHARE_OF_A_FILE = 3.0, 8.0, 4.0, 0.5


@dataclass(frozen=True)
class Plan:
    """What a search may try; ``print`` shows it as a table.

    Attributes:
        steps: name -> about how many seconds it takes, if it is not left out.
        rows: what the rows are for -> how many there are.
        least: the smallest upper bound that the rows that prove can show: of a file without a mismatch.
        notes: lines that say which rows were left out.
    """

    steps: Mapping[str, float]
    rows: Mapping[str, int]
    least: float
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        table = Table("Steps", ("step", "minutes"), [(name, _minutes(one)) for name, one in self.steps.items()])
        rows = ", ".join(f"{count(n)} to {what}" for what, n in self.rows.items())
        return "\n".join(
            [
                *self.notes,
                f"Rows: {rows}. At best they show at most {percent(self.least)} with 95 % confidence.",
                as_text(table),
                f"About {_minutes(sum(self.steps.values()))} minutes, and less where steps are left out.",
            ]
        )


def plan_of(
    model: PreTrainedModel | str | Path,
    dataset: Dataset,
    *,
    limits: Mapping[str, float],
    calibration: Dataset | None = None,
    train: Dataset | None = None,
    options: SearchOptions | None = None,
) -> Plan:
    """What `compress_model` would do with the same arguments. The times are a rough guess from one pass of the model.

    Raises:
        ImportError, ValueError: as `compress_model`.
    """
    options = options or SearchOptions()
    setting = setting_of(model, dataset, limits=limits, calibration=calibration, train=train, options=options)
    seconds, searched = _seconds_of_a_pass(setting), round(options.search_share * len(setting.rows))
    judged = len(setting.rows) - searched
    rows = {"choose": searched, "prove": judged, "calibrate": len(setting.calibration)}
    if setting.train is not None:
        rows["train"] = len(setting.train)
    asked = {"the original's answers": seconds * len(setting.rows) / _BATCH}
    tried = {step.name: _seconds(step, setting, seconds, searched) for step in setting.steps}
    # Where items share examples, that of as many in each.
    least = cluster_bound([0] * judged, [1] * judged) if setting.task.shares_examples else upper_bound(0, judged)
    return Plan(asked | tried, rows, least, setting.notes)


def _seconds_of_a_pass(setting: Setting) -> float:
    batch = first_batch(
        setting.network, setting.rows, size=_BATCH, processing_class=setting.processor, columns=setting.options.columns
    )
    with evaluating(setting.network):
        forward_logits(setting.network, batch)  # the first is slower
        start = time.perf_counter()
        forward_logits(setting.network, batch)
    return time.perf_counter() - start


def _seconds(step: Step, setting: Setting, seconds: float, searched: int) -> float:
    options = setting.options
    calibrating = seconds * math.ceil(len(setting.calibration) / _BATCH)
    timing = 4 * options.n_runs * seconds * options.batch_size / _BATCH
    found = _EXPORT_SECONDS + timing + _SHARE_OF_A_FILE * seconds * searched / _BATCH
    if step.int8:
        found += _INT8_SECONDS + _PASSES_OF_INT8 * calibrating
    if step.cut and not step.int8:  # INT8 is of the same cut
        found += _PASSES_OF_A_CUT * calibrating
    if step.trained and not step.int8:
        found += _PASSES_OF_A_TRAINING_STEP * seconds * options.train_steps * options.train_batch_size / _BATCH
    return found * options.repair_measurements if step.repaired else found


def _minutes(seconds: float) -> str:
    return decimals(seconds / 60, digits=1)
