"""Two models' answers beside the rows that they were asked."""

from dataclasses import replace
from pathlib import Path

import numpy as np
from datasets import Dataset
from numpy.typing import NDArray
from transformers import PreTrainedModel

from hf_compalign.data import check_rows, find_word_column
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

    Where items share examples, such as the words of a text, these N are the examples, and the answers to one differ
    where those to any of its items do.

    Raises:
        ValueError: whatever `predict` refuses, or the dataset does not hold the items of the predictions.
    """
    check_rows(dataset)
    columns = Columns.of(columns)
    both = [
        one if isinstance(one, Predictions) else predict(one, dataset, columns=columns)
        for one in (reference, candidate)
    ]
    paired = same_items(both[0], [both[1]])
    counted, (first, second) = paired.counted, paired.models
    task, shared = task_of_rows(dataset, columns), first.examples is not None
    names = ids_of(dataset, task, columns).tolist()
    places = np.array(rows_of_items(first.ids[counted].tolist(), names, parts=shared))
    changed = first.predicted[counted] != second.predicted[counted]
    likeliest = None
    if shared:
        places, of = np.unique(places, return_inverse=True)
        changed = np.bincount(of, weights=changed) > 0
    else:
        likeliest = np.argsort(-first.logits[counted].astype(np.float32), axis=1, kind="stable")[:, :2]
    rows, columns = _whole_texts(dataset.with_format(None).select(places), columns)
    return Features(rows, task, columns, likeliest, first.label_names), changed


def _whole_texts(rows: Dataset, columns: Columns) -> tuple[Dataset, Columns]:
    """The rows with lists of words as texts, and where these are."""
    name = find_word_column(rows, columns.text)
    if name is None:
        return rows, columns
    texts = [" ".join(words or ()) for words in rows[name]]
    return rows.remove_columns(name).add_column(name, texts), replace(columns, text=(name,))
