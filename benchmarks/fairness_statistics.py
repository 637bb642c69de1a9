"""How fairness.py measures what alignment may improve beside the number of mismatches, with intervals over the items.

Every statistic is a function of sums over the items, so that one draw of the items judges all models. An item is drawn
with all its seeds, which are no independent items: it counts with the share of its seeds. Intervals are percentiles of
a paired bootstrap. The draws of a largest difference or of a sum of absolute values (gaps, ECE) lie too high, so of
these only the differences between two models have intervals in the tables.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from hf_compalign import Predictions
from hf_compalign.measure.groups import MIN_GROUP_SIZE
from hf_compalign.measure.statistics import Estimate, estimate, mean_estimate, resampled_sums

Array = NDArray[np.float64]
Arm = Sequence[Predictions]  # the answers of one arm, seed by seed

RESAMPLES = 2000
N_BINS = 15


def estimates(columns: Array, statistic: Callable[[Array], Array]) -> list[Estimate]:
    """The statistic [S] of the sums [K] of the columns [N, K], with the intervals of its draws."""
    draws = statistic(resampled_sums(columns, n_resamples=RESAMPLES)[:, 0])
    values = statistic(columns.sum(axis=0))
    return [estimate(value, drawn) for value, drawn in zip(values.tolist(), draws.T, strict=True)]


def changed(reference: Predictions, arm: Arm) -> Array:
    """The share of the seeds that answer otherwise than the reference, [N]."""
    return np.mean([one.predicted != reference.predicted for one in arm], axis=0)


def cie_ratio(reference: Predictions, first: Arm, second: Arm) -> Estimate:
    """Mismatches of the first arm for each of the second, over all seeds."""
    columns = np.column_stack([changed(reference, first), changed(reference, second)])
    with np.errstate(divide="ignore", invalid="ignore"):
        return estimates(columns, lambda sums: sums[..., :1] / sums[..., 1:])[0]


def large(members: Array) -> Array:
    """The columns of the groups [N, G] that have enough items to be judged."""
    return members[:, members.sum(axis=0) >= MIN_GROUP_SIZE]


def mismatches_by_group(reference: Predictions, first: Arm, second: Arm, members: Array) -> list[Estimate]:
    """The gap (largest rate of a group - smallest), the largest rate, and the gap in units of the rate of all items.

    Each of both arms, and first - second.
    """
    groups = large(members).astype(np.float64)
    n_groups = groups.shape[1]
    counted = np.hstack([groups, np.ones((len(groups), 1))])  # and all items
    columns = np.hstack([counted, *(counted * changed(reference, arm)[:, np.newaxis] for arm in (first, second))])

    def statistic(sums: Array) -> Array:
        counts, *arms = np.split(sums, 3, axis=-1)
        rates = np.stack(arms) / counts
        worst = rates[..., :n_groups].max(axis=-1)
        gap = worst - rates[..., :n_groups].min(axis=-1)
        with np.errstate(divide="ignore", invalid="ignore"):
            pairs = [(*pair, pair[0] - pair[1]) for pair in (gap, worst, gap / rates[..., -1])]
        return np.stack([value for pair in pairs for value in pair], axis=-1)

    return estimates(columns, statistic)


def equalized_odds(reference: Predictions, first: Arm, second: Arm, members: Array) -> list[Estimate]:
    """How much the equalized odds difference of the reference grows in both arms, and first - second.

    Each class against the rest: the larger of the spreads of the true and false positive rates over the groups with
    enough items for the rate, and of the classes the largest. The rates are means over the seeds.
    """
    labels, n_classes = reference.labels, reference.logits.shape[1]
    groups = large(members)
    # One column for each group and class, first of the items with the label, then of the others.
    positive = labels[:, np.newaxis] == np.arange(n_classes)
    out_of = np.stack([positive, ~positive])[:, :, np.newaxis] & groups[:, :, np.newaxis]
    enough = out_of.sum(axis=1) >= MIN_GROUP_SIZE
    parts = [out_of.astype(np.float64)]
    for arm in ((reference,), first, second):
        answered = np.mean([one.predicted[:, np.newaxis] == np.arange(n_classes) for one in arm], axis=0)
        parts.append(out_of * answered[:, np.newaxis])
    columns = np.stack(parts).transpose(2, 0, 1, 3, 4)

    def statistic(sums: Array) -> Array:
        found = sums.reshape(*sums.shape[:-1], *columns.shape[1:])
        out_of, answered = found[..., :1, :, :, :], found[..., 1:, :, :, :]
        rates = np.divide(answered, out_of, out=np.full_like(answered, np.nan), where=out_of > 0)
        highest = np.where(enough, rates, -np.inf).max(axis=-2)
        spread = (highest - np.where(enough, rates, np.inf).min(axis=-2)).max(axis=(-1, -2))
        before, first, second = np.moveaxis(spread, -1, 0)
        return np.stack([first - before, second - before, first - second], axis=-1)

    return estimates(columns.reshape(len(labels), -1), statistic)


def calibration_errors(arms: Mapping[str, Arm], *, against: str) -> dict[str, tuple[Estimate, Estimate]]:
    """Each arm's expected calibration error, the mean over its seeds, and that minus the error of one of them."""
    columns = [_excess(one) for arm in arms.values() for one in arm]
    seeds = np.repeat(np.arange(len(arms)), [len(arm) for arm in arms.values()])
    n, place = len(columns[0]), list(arms).index(against)

    def statistic(sums: Array) -> Array:
        by_model = np.abs(sums.reshape(*sums.shape[:-1], len(seeds), N_BINS)).sum(axis=-1) / n
        errors = np.stack([by_model[..., seeds == arm].mean(axis=-1) for arm in range(len(arms))], axis=-1)
        return np.concatenate([errors, errors - errors[..., [place]]], axis=-1)

    found = estimates(np.hstack(columns), statistic)
    return dict(zip(arms, zip(found[: len(arms)], found[len(arms) :], strict=True), strict=True))


def _excess(answers: Predictions) -> Array:
    """Confidence - right, in the column of the item's bin, [N, N_BINS]."""
    confidence = answers.probabilities.max(axis=-1)
    bins = np.minimum((confidence * N_BINS).astype(int), N_BINS - 1)
    excess = confidence - (answers.predicted == answers.labels)
    return np.where(bins[:, np.newaxis] == np.arange(N_BINS), excess[:, np.newaxis], 0.0)


def accuracy(arm: Arm) -> float:
    """The share of right answers, over all seeds."""
    return float(np.mean([one.predicted == one.labels for one in arm]))


def confidence(arm: Arm) -> float:
    """The mean probability of the answer, over all seeds."""
    return float(np.mean([one.probabilities.max(axis=-1) for one in arm]))


def logit_norm(arm: Arm) -> float:
    """The mean length of the logits around their own mean, over all seeds: what the softmax sees of them."""
    logits = np.stack([one.logits for one in arm]).astype(np.float64)
    return float(np.linalg.norm(logits - logits.mean(axis=-1, keepdims=True), axis=-1).mean())


def likeness(first: Array, second: Array) -> tuple[Estimate, Estimate, Estimate]:
    """Means of similarities [seeds, N] of two arms over seeds and items, and second - first; nan does not count."""
    one, other = np.nanmean(first, axis=0), np.nanmean(second, axis=0)
    return (
        mean_estimate(one, n_resamples=RESAMPLES),
        mean_estimate(other, n_resamples=RESAMPLES),
        mean_estimate(other - one, n_resamples=RESAMPLES),
    )
