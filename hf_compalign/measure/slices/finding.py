"""Look for slices on one half of the items, and test them on the other."""

from pathlib import Path

import numpy as np
from datasets import Dataset
from transformers import PreTrainedModel

from hf_compalign.measure.predictions import Columns, Predictions
from hf_compalign.measure.slices.asking import asked
from hf_compalign.measure.slices.features import Features, Mask
from hf_compalign.measure.slices.options import SliceOptions
from hf_compalign.measure.slices.record import Condition, Slices
from hf_compalign.measure.slices.testing import tested
from hf_compalign.measure.statistics import excess_p_value

_SUSPICIOUS = 0.05  # the largest p-value, on the half that is searched, of a candidate
_ALIKE = 0.8  # two candidates that share more than this of their items are one


def find_slices(
    reference: Predictions | PreTrainedModel | str | Path,
    candidate: Predictions | PreTrainedModel | str | Path,
    dataset: Dataset,
    *,
    columns: Columns | None = None,
    options: SliceOptions | None = None,
) -> Slices:
    """Find the parts of the data where the candidate changed more answers than elsewhere.

    A part is what a condition names: texts with a word, or of some length; the value of a column, or a number above or
    below some threshold; bright, contrasting or colorful images; the two likeliest classes of the reference, which
    part the space of its logits. Where the reference was unsure, answers always change more: the margins of an audit
    show that.

    The items are split at random. On one half all conditions are compared, and the most suspicious become candidates.
    On the other half, which nothing was chosen on, each is tested against all other items, by Fisher's exact test,
    one-sided. Of those that are found, at most ``options.level`` are wrong on average: Benjamini and Hochberg's
    control of the false discovery rate (https://doi.org/10.1111/j.2517-6161.1995.tb02031.x).

    >>> from datasets import Dataset
    >>> texts = [f"{'good' if row % 2 else 'not bad'} film {row}" for row in range(400)]
    >>> def answering(changed):
    ...     logits = [[0.0, -1.0 if "not" in text and changed else 1.0] for text in texts]
    ...     return Predictions(logits, [0] * 400, [str(row) for row in range(400)], ["no", "yes"])
    >>> rows = Dataset.from_dict({"id": [str(row) for row in range(400)], "text": texts})
    >>> found = find_slices(answering(False), answering(True), rows)
    >>> [(str(row), row.mismatch_rate, row.rest_rate) for row in found.rows]
    [("contains 'not'", 1.0, 0.0)]

    Where items share examples, such as the words of a text, one of each example is drawn at random, so that no slice is
    found for having more items that may change. It takes many examples then to find one.

    Args:
        reference: the model to preserve, or its `Predictions`; as for `hf_compalign.predict`.
        candidate: the model that should answer like it: the same.
        dataset: the rows that they are asked.
        columns: where to find what in a raw dataset. All columns beside the inputs and the ids may tell slices.
        options: sizes, levels and the seed.

    Returns:
        The slices, with their numbers on the half that they were not found on. `Slices.save` keeps them, to be checked
        on the next candidate.

    Raises:
        ValueError: whatever `predict` refuses, or the dataset does not hold the items of the predictions.
    """
    options = options or SliceOptions()
    features, changed, of_examples = asked(reference, candidate, dataset, columns=columns)
    order = np.random.default_rng(options.seed).permutation(len(changed))
    searched = np.zeros(len(changed), dtype=bool)
    searched[order[: len(order) // 2]] = True
    chosen = _candidates(features, changed, searched, options)
    members = [mask[~searched] for mask in chosen.values()]
    rows = tested([*chosen], members, changed[~searched], level=options.level)
    return Slices(
        rows=tuple(row for row in rows if row.worse),
        n_searched=int(searched.sum()),
        n_tested=int((~searched).sum()),
        n_candidates=len(chosen),
        level=options.level,
        of_examples=of_examples,
    )


def _candidates(features: Features, changed: Mask, searched: Mask, options: SliceOptions) -> dict[Condition, Mask]:
    """The most suspicious conditions and their items, without those that are nearly the same as a better one."""
    conditions = [*features.conditions(options.min_size)]
    n, total = int(searched.sum()), int((changed & searched).sum())
    counts = []
    for condition in conditions:  # one at a time: all of them may take more memory than there is
        mask = features.members(condition) & searched
        counts.append((mask.sum(), (mask & changed).sum()))
    sizes, hits = np.array(counts, dtype=np.int64).reshape(-1, 2).T
    p_values = excess_p_value(hits, sizes, total, n)
    large = (sizes >= options.min_size) & (n - sizes >= options.min_size)
    chosen: dict[Condition, Mask] = {}
    for place in np.argsort(p_values, kind="stable").tolist():
        if len(chosen) == options.most or p_values[place] > _SUSPICIOUS:
            break
        mask = features.members(conditions[place])
        if large[place] and not any(_alike(mask[searched], other[searched]) for other in chosen.values()):
            chosen[conditions[place]] = mask
    return chosen


def _alike(one: Mask, other: Mask) -> bool:
    return bool((one & other).sum() > _ALIKE * (one | other).sum())
