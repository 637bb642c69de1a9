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
    SameItems,
    ids_of,
    predict,
    rows_of_items,
    same_items,
    task_of_rows,
)
from hf_compalign.measure.slices.features import Features
from hf_compalign.measure.statistics import one_of_each

_SEED = 0
# A column of its own for a moment.
_WHOLE = "_whole_texts"


def asked(
    reference: Predictions | PreTrainedModel | str | Path,
    candidate: Predictions | PreTrainedModel | str | Path,
    dataset: Dataset,
    *,
    columns: Columns | None,
) -> tuple[Features, NDArray[np.bool_], bool]:
    """What is known of each item that counts, whether its answers differ, bool [N], and whether it is one of several.

    Where items share examples, such as the words of a text, one of each example is drawn at random: long texts are not
    to be found for having more words that may change.

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
    (first, second), counted = paired.models, _drawn(paired)
    task = task_of_rows(dataset, columns)
    names = ids_of(dataset, task, columns).tolist()
    places = np.array(rows_of_items(first.ids.tolist(), names, first.examples))[counted]
    changed = first.predicted[counted] != second.predicted[counted]
    likeliest = np.argsort(-first.logits[counted].astype(np.float32), axis=1, kind="stable")[:, :2]
    rows, columns = _whole_texts(dataset.with_format(None).select(places), columns)
    return Features(rows, task, columns, likeliest, first.label_names), changed, first.examples is not None


def _drawn(paired: SameItems) -> NDArray[np.int64]:
    """The items that count, of each example one, in their order."""
    examples = paired.models[0].examples
    if examples is None:
        return paired.counted
    return np.sort(one_of_each(np.random.default_rng(_SEED).permutation(paired.counted), examples))


def _whole_texts(rows: Dataset, columns: Columns) -> tuple[Dataset, Columns]:
    """The rows with lists of words as texts, and where these are."""
    name = find_word_column(rows, columns.text)
    if name is None:
        return rows, columns
    texts = [" ".join(words or ()) for words in rows[name]]
    whole = rows.add_column(_WHOLE, texts).remove_columns(name).rename_column(_WHOLE, name)
    return whole, replace(columns, text=(name,))
