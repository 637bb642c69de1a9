"""Slices that were found before, checked on another candidate."""

from pathlib import Path

from datasets import Dataset
from transformers import PreTrainedModel

from hf_compalign.measure.predictions import Columns, Predictions
from hf_compalign.measure.slices.asking import asked
from hf_compalign.measure.slices.record import Slices
from hf_compalign.measure.slices.testing import tested


def check_slices(
    slices: Slices,
    reference: Predictions | PreTrainedModel | str | Path,
    candidate: Predictions | PreTrainedModel | str | Path,
    dataset: Dataset,
    *,
    columns: Columns | None = None,
) -> Slices:
    """Whether a candidate changes more answers in given slices than elsewhere; other arguments as for `find_slices`.

    Nothing is looked for, so all items test. A slice fails where answers are shown to change more often than elsewhere,
    at the same false discovery rate. Slices that were found with this very candidate on these very rows say nothing
    new.

    Raises:
        ValueError: there are no slices, or the dataset lacks what tells one.
    """
    if not slices.rows:
        raise ValueError("There is no slice to check: none was found. Leave it out.")
    features, changed, of_examples = asked(reference, candidate, dataset, columns=columns)
    conditions = [row.condition for row in slices.rows]
    members = [features.members(condition) for condition in conditions]
    rows = tested(conditions, members, changed, level=slices.level)
    return Slices(tuple(rows), 0, len(changed), len(rows), slices.level, checked=True, of_examples=of_examples)
