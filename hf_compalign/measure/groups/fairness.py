"""The fairness measures of both models, whom they leave out, and how large the candidate's may be."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from hf_compalign.measure.groups.gaps import BOUND_LEVEL, MOST_WEIGHTS, gap_lower_bound
from hf_compalign.measure.groups.options import GroupOptions
from hf_compalign.measure.groups.record import FairnessRow
from hf_compalign.measure.groups.sharing import CountedRates
from hf_compalign.measure.groups.table import MODELS, CountedGroups
from hf_compalign.measure.statistics import PARITY, RATES, Array, divided, estimate, parity

DIFFERENCES = tuple(measure for measure in PARITY if measure.endswith("difference"))

_NO_BOUNDS = (math.nan, math.nan)

Masks = Mapping[str, NDArray[np.bool_]]  # rate -> which groups count for which class [G, C]


class _LeftOut(NamedTuple):
    n_classes: int
    groups: tuple[str, ...]


def fairness(found: CountedGroups, options: GroupOptions) -> tuple[FairnessRow, ...]:
    """Each measure as the worst over the classes, then class by class."""
    comparable = {name: out_of >= options.min_group_size for name, out_of in found.out_of.items()}
    there = {name: out_of > 0 for name, out_of in found.out_of.items()}
    occurring = np.flatnonzero(found.occurs.any(axis=0))
    reference, candidate = (parity(found.rates[model], comparable) for model in MODELS)
    everyone = [parity(found.rates[model], there) for model in MODELS]
    bounds = _bounds(found, comparable, {name: candidate[name][0] for name in DIFFERENCES}, options)
    rows = []
    for measure, needed in PARITY.items():
        columns = [reference[measure], candidate[measure], *(model[measure] for model in everyone)]
        skipped = np.any([comparable[name].sum(axis=0) < 2 for name in needed], axis=0)
        out = ~np.all([comparable[name] for name in needed], axis=0)
        kept = occurring
        if len(occurring) > options.most_classes:
            where = [np.flatnonzero(of == most)[:1] for most, of in columns[:2]]
            kept = np.unique(np.concatenate(where))
        worst = [of for of, _ in columns]
        of_worst = _LeftOut(int(skipped[occurring].sum()), _names(found, out[:, occurring].any(axis=1)))
        rows.append(_row((measure, None), worst, of_worst, bounds.get(measure, _NO_BOUNDS)))
        for label in kept.tolist():
            of_class = _LeftOut(int(skipped[label]), _names(found, out[:, label]))
            rows.append(_row((measure, label), [of[label] for _, of in columns], of_class))
    return tuple(rows)


def _row(
    what: tuple[str, int | None],
    values: Sequence[Any],
    left_out: _LeftOut,
    bounds: tuple[float, float] = _NO_BOUNDS,
) -> FairnessRow:
    """From the values of both models over the groups that count, and over all."""
    before, after, before_all, after_all = map(float, values)
    return FairnessRow(
        *what,
        reference=before,
        candidate=after,
        change=after - before,
        n_skipped=left_out.n_classes,
        left_out=left_out.groups,
        reference_all_groups=before_all,
        candidate_all_groups=after_all,
        lower_bound=bounds[0],
        upper_bound=bounds[1],
    )


def _names(found: CountedGroups, which: Array) -> tuple[str, ...]:
    return tuple(found.table.names[place] for place in np.flatnonzero(which).tolist())


def _bounds(
    found: CountedGroups, comparable: Masks, values: Mapping[str, float], options: GroupOptions
) -> dict[str, tuple[float, float]]:
    """One-sided 95 % lower and upper bounds of the candidate's differences, the worst over the classes."""
    enough = {name: groups.sum(axis=0) > 1 for name, groups in comparable.items()}
    drawn = _drawn_gaps(found, comparable, enough, options)
    sets = {
        name: [
            _rates(found, name, label, np.flatnonzero(comparable[name][:, label]))
            for label in np.flatnonzero(enough[name]).tolist()
        ]
        for name in RATES
    }
    bounds = {}
    for measure, value in values.items():
        upper = math.nan
        if not math.isnan(value):
            largest = np.max([drawn[name] for name in PARITY[measure]], axis=0)
            upper = max(value, estimate(value, largest, level=2 * BOUND_LEVEL - 1).high)
        bounds[measure] = gap_lower_bound([one for name in PARITY[measure] for one in sets[name]]), upper
    return bounds


def _rates(found: CountedGroups, name: str, label: int, groups: Array) -> CountedRates:
    """Of the candidate, for one class and these groups."""
    if found.answers.kinds.contents is not None:
        return found.answers.rates(name, label, groups)
    n = found.out_of[name][groups, label]
    return CountedRates(np.rint(found.rates["candidate"][name][groups, label] * n).astype(np.int64), n)


def _drawn_gaps(
    found: CountedGroups, comparable: Masks, enough: Masks, options: GroupOptions
) -> dict[str, NDArray[np.float64]]:
    """Rate -> draws [R] of the candidate's largest gap of any class; -inf without a class of two groups.

    As for `resampled_gaps`, each item or example has a weight from the unit exponential, and each group one more that
    counts against the model: for a class it adds to the highest rate, and to what the lowest is out of.
    """
    classes = np.flatnonzero(np.any([*enough.values()], axis=0))
    kinds, sums = found.answers.kinds, _sums(found, classes)
    n_groups = kinds.members.shape[1]
    of_labeled = kinds.members.multiply(found.answers.labeled[:, np.newaxis]).tocsr()
    most = {"selection_rate": (kinds.members, 1), "tpr": (sums[2], len(classes)), "fpr": (of_labeled, 1)}
    largest = {name: kinds.largest(of).reshape(n_groups, width) for name, (of, width) in most.items()}
    generator = np.random.default_rng(options.seed)
    parts: dict[str, list[Array]] = {name: [] for name in RATES}
    step = max(1, MOST_WEIGHTS // max(1, kinds.n_drawn + n_groups * len(classes)))
    for start in range(0, options.n_resamples, step):
        n_draws = min(step, options.n_resamples - start)
        weights = kinds.weights(n_draws, generator)
        extra = generator.standard_exponential((n_draws, n_groups, 1))
        shape = (n_draws, n_groups, len(classes))
        selected, labeled_selected, positives, hits = ((weights @ of).reshape(shape) for of in sums)
        n = (weights @ kinds.members)[..., np.newaxis]
        labeled = ((weights * found.answers.labeled) @ kinds.members)[..., np.newaxis]
        counts = {"selection_rate": (selected, n), "tpr": (hits, positives)}
        counts["fpr"] = (labeled_selected - hits, labeled - positives)
        for name, (k, out_of) in counts.items():
            taken, more = comparable[name][:, classes], extra * largest[name]
            high = np.where(taken, divided(k + more, out_of + more), -np.inf).max(axis=1, initial=-np.inf)
            low = np.where(taken, divided(k, out_of + more), np.inf).min(axis=1, initial=np.inf)
            gaps = np.where(enough[name][classes], high - low, -np.inf)
            parts[name].append(gaps.max(axis=1, initial=-np.inf))
    return {name: np.concatenate(drawn) for name, drawn in parts.items()}


def _sums(found: CountedGroups, classes: Array) -> list[sparse.csr_array]:
    """What adds kinds up by group and class [T, G * classes].

    They are for items by their answer, labeled items by their answer, items by their label, and right answers.
    """
    answers = found.answers
    members = answers.kinds.members
    pairs = members.tocoo()
    place = np.full(found.occurs.shape[1] + 1, -1)
    place[classes] = np.arange(len(classes))
    sums = []
    for kinds, counted in (
        (answers.answer, np.ones_like(answers.labeled)),
        (answers.answer, answers.labeled),
        (answers.label, answers.labeled),
        (answers.label, answers.label == answers.answer),
    ):
        columns = place[kinds][pairs.row]
        kept = counted[pairs.row] & (columns >= 0)
        cells = pairs.col[kept] * len(classes) + columns[kept]
        shape = (members.shape[0], members.shape[1] * len(classes))
        sums.append(sparse.csr_array((np.ones(len(cells)), (pairs.row[kept], cells)), shape=shape))
    return sums
