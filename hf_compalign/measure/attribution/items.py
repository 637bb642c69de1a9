"""Which items are explained, and which number of a model's answer to its row is the logit of each."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from datasets import Dataset
from numpy.typing import ArrayLike, NDArray

from hf_compalign.measure.attribution.options import AttributionOptions
from hf_compalign.measure.predictions import YES_NO, Columns, Reader, RowItems
from hf_compalign.measure.statistics import one_of_each


@dataclass(frozen=True)
class Logit:
    """One number of the reference's answer to a row.

    Attributes:
        row: of the dataset.
        column: which of the reference's classes or labels it is of.
        place: the token that answers, counted without padding; None where the whole row does.
        answer: what it speaks for, among the answers to its item.
    """

    row: int
    column: int
    place: int | None
    answer: int


def items_asked(reader: Reader, dataset: Dataset, columns: Columns) -> RowItems:
    """The items of the rows, in the order of `predict`."""
    # Words alone are told from tokens.
    prepared = reader.prepared(dataset, columns) if reader.task.label_depth == 1 else dataset
    return reader.items(dataset, prepared, columns)


def logits_of_items(items: RowItems, chosen: Iterable[int], answers: ArrayLike) -> list[Logit]:
    """The logit of each chosen item: of the class that is its answer, among the ``answers`` [N] to all; of a label z.

    A label is answered with (0, z), so that z speaks for yes and against no. Similarities are the same for -z.
    """
    rows, classes = items.rows.tolist(), np.asarray(answers).tolist()
    if items.places is None:
        return [Logit(rows[item], classes[item], None, classes[item]) for item in chosen]
    places = items.places.tolist()
    if items.task.yes_or_no:
        return [Logit(rows[item], places[item], None, YES_NO.index("yes")) for item in chosen]
    return [Logit(rows[item], classes[item], places[item], classes[item]) for item in chosen]


def drawn(
    changed: NDArray[np.bool_], counted: NDArray[np.int64], items: RowItems, options: AttributionOptions
) -> tuple[list[int], list[int]]:
    """Items drawn from all that count, one of each example, and as many more mismatches as are wanted.

    Examples are drawn first, long ones as often as short ones, and then one item of each. No two of the mismatches are
    of one example either: where the drawn item of an example is none, another item of it may count for them alone.
    """
    rng = np.random.default_rng(options.seed)
    order = rng.permutation(counted)
    if items.examples is not None:
        turns = rng.permutation(items.rows.max() + 1)
        order = order[np.argsort(turns[items.rows[order]], kind="stable")]
    sample = one_of_each(order, items.rows)[: options.n_items]
    found = sample[changed[sample]]
    others = order[changed[order] & ~np.isin(items.rows[order], items.rows[found])]
    n_missing = max(0, options.n_mismatches - len(found))
    return sample.tolist(), one_of_each(others, items.rows)[:n_missing].tolist()
