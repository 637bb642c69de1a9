"""Two models' answers beside the rows that they were asked."""

from pathlib import Path

import numpy as np
from datasets import Dataset
from numpy.typing import NDArray
from transformers import PreTrainedModel

from hf_compalign.data import check_rows
from hf_compalign.measure.predictions import (
    Columns,
    Predictions,
    ids_of,
    predict,
    rows_of_items,
    same_items,
    task_of_rows,
)
from hf_compalign.measure.slices.features import Features


def asked(
    reference: Predictions | PreTrainedModel | str | Path,
    candidate: Predictions | PreTrainedModel | str | Path,
    dataset: Dataset,
    *,
    columns: Columns | None,
) -> tuple[Features, NDArray[np.bool_]]:
    """What is known of each item that counts, and whether its answers differ, bool [N].

    Raises:
        ValueError: whatever `predict` refuses, the dataset does not hold the items of the predictions, or these share
            examples.
    """
    check_rows(dataset)
    columns = Columns.of(columns)
    both = [
        one if isinstance(one, Predictions) else predict(one, dataset, columns=columns)
        for one in (reference, candidate)
    ]
    if both[0].examples is not None:
        raise ValueError(
            "Slices are of items that are examples of their own, and these share examples: the words of a text, say, "
            "or several labels. Leave slices out."
        )
    paired = same_items(both[0], [both[1]])
    counted, (first, second) = paired.counted, paired.models
    task = task_of_rows(dataset, columns)
    names = ids_of(dataset, task, columns).tolist()
    rows = dataset.with_format(None).select(rows_of_items(first.ids[counted].tolist(), names))
    likeliest = np.argsort(-first.logits[counted].astype(np.float32), axis=1, kind="stable")[:, :2]
    changed = first.predicted[counted] != second.predicted[counted]
    return Features(rows, task, columns, likeliest, first.label_names), changed
