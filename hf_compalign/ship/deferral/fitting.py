"""Choose the threshold above which a small file's answers count, with a guarantee on how many differ."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hf_compalign._checks import check_share
from hf_compalign._formats import percent, plural
from hf_compalign.measure.audit import ModelInfo
from hf_compalign.measure.footprint import Latency
from hf_compalign.measure.predictions import Predictions, same_items
from hf_compalign.measure.statistics import items_needed, most_within, upper_bound
from hf_compalign.ship.deferral.record import Deferral
from hf_compalign.ship.deferral.scores import SCORES, check_score, sureness


def fit_deferral(
    reference: Predictions,
    candidate: Predictions,
    *,
    fallback: Predictions | None = None,
    budget: float = 0.01,
    confidence: float = 0.95,
    scores: Sequence[str] = tuple(SCORES),
    latency: tuple[Latency, Latency] | None = None,
) -> Deferral:
    """Let the candidate answer where it is sure enough that its answers are the reference's, and defer the rest.

    It finds the lowest threshold t on a score s of the candidate such that, with the given confidence,

        R(t) = P(s > t and the answers differ) <= budget

    where P is over all items, deferred ones too. It lets through the k highest-scored items that differ, and k is the
    largest number out of n whose one-sided Clopper-Pearson bound is within the budget. Since R only grows as t falls,
    a bound for each t by itself suffices for the t that is chosen: Theorem 1 of Risk-Controlling Prediction Sets
    (https://huggingface.co/papers/2101.02703), or the fixed-sequence test of Learn then Test
    (https://huggingface.co/papers/2110.01052) from the highest threshold down. Several scores share the doubt evenly
    (Bonferroni), so that the best of them, which answers most, keeps the guarantee. All items count for it, and none is
    set aside to choose the score. CATs (https://huggingface.co/papers/2104.08803) and Fast yet Safe
    (https://huggingface.co/papers/2405.20915) do the like for early exits of one model.

    With a ``fallback`` that answers the deferred items, in place of the reference, the guarantee is for the pair: what
    the fallback answers otherwise counts against the budget at any threshold, whoever answers it.

    The guarantee is for items like these: drawn as these were, and not used to train, calibrate or repair the
    candidate. What differs there counts, even if the reference is wrong.

    >>> rng = np.random.default_rng(0)
    >>> exact = rng.normal(size=(2000, 2)) * 3
    >>> rounded = exact + rng.normal(size=(2000, 2)) / 4
    >>> of = [-100] * 2000, [str(item) for item in range(2000)], ["no", "yes"]
    >>> found = fit_deferral(Predictions(exact, *of), Predictions(rounded, *of))
    >>> found.score, found.mismatches, found.changed, found.answered
    ('margin', 47, 10, 1910)

    Args:
        reference: its answers, as `hf_compalign.predict` gives them.
        candidate: its answers to the same items.
        fallback: the answers of the model that gets the deferred items, such as a file of the reference in bfloat16;
            by default that is the reference.
        budget: the largest acceptable share of all items that get another answer than the reference's.
        confidence: of the guarantee.
        scores: which to try: ``margin``, ``max_probability``, ``energy``. One alone needs fewer items.
        latency: of one pass of the reference and of the candidate, such as `Audit.latency`.

    Raises:
        ValueError: no predictions, other items, labels or inputs on the two sides; a budget or a confidence that is
            not in (0, 1), an unknown score or none; too few items to show the budget at all; a fallback that exceeds it
            by itself; or a candidate that differs where it is surest, so that no threshold keeps it.
    """
    check_share("budget", budget, ends=False)
    check_share("confidence", confidence, ends=False)
    _check({"reference": reference, "candidate": candidate, "fallback": fallback}, latency)
    scores = _checked_scores(scores)
    paired = same_items(reference, [candidate] if fallback is None else [candidate, fallback])
    reference, candidate, *_ = paired.models
    differ, also = ((one.predicted != reference.predicted)[paired.counted] for one in (candidate, paired.models[-1]))
    behind = also if fallback is not None else np.zeros_like(differ)
    n, level = len(differ), 1 - (1 - confidence) / len(scores)
    most = most_within(budget, n, level)
    if most < 0:
        raise ValueError(_too_few(n, budget, confidence, scores))
    spent = int(behind.sum())
    if spent > most:
        raise ValueError(_spent_by_the_fallback(spent, most, n, budget))
    sure = {score: sureness(candidate.logits, score)[paired.counted] for score in scores}
    thresholds = {score: _threshold(found, differ & ~behind, most - spent) for score, found in sure.items()}
    answered = {score: found > thresholds[score] for score, found in sure.items()}
    best = max(scores, key=lambda score: int(answered[score].sum()))
    if not answered[best].any():
        raise ValueError(_never_sure(sure, differ, budget, level))
    return Deferral(
        score=best,
        threshold=thresholds[best] if math.isfinite(thresholds[best]) else None,
        budget=float(budget),
        confidence=float(confidence),
        bound=upper_bound(most, n, level),
        n=n,
        answered=int(answered[best].sum()),
        changed=int((answered[best] & differ).sum()),
        mismatches=int(differ.sum()),
        scores=scores,
        reference=ModelInfo.of(reference),
        candidate=ModelInfo.of(candidate),
        data_fingerprint=reference.data_fingerprint or candidate.data_fingerprint,
        latency=latency,
        fallback=None if fallback is None else ModelInfo.of(paired.models[-1]),
        fallback_changed=spent,
    )


def _threshold(sure: NDArray[np.float64], differ: NDArray[np.bool_], most: int) -> float:
    """The lowest threshold with at most so many differing items above it; -inf if there are no more of them."""
    highest = np.sort(sure[differ])[::-1]
    return float(highest[most]) if most < len(highest) else -math.inf


def _check(sides: dict[str, Any], latency: Any) -> None:
    for name, side in sides.items():
        if not isinstance(side, Predictions) and not (name == "fallback" and side is None):
            raise ValueError(
                f"The {name} must be Predictions. Got {type(side).__name__}. Ask a model with predict(model, dataset)."
            )
    if sides["reference"].examples is not None:
        raise ValueError(
            "A deferral is decided example by example, and these items share examples: the words of a text, say, or "
            "several labels. Give predictions with one item for each example."
        )
    if latency is not None and not (isinstance(latency, tuple) and [*map(type, latency)] == [Latency, Latency]):
        raise ValueError(
            f"latency must be two of Latency, the reference's first. Got {latency!r}. "
            "interleaved_latency_ms measures them, and so does an audit with AuditOptions(latency=True)."
        )


def _checked_scores(scores: Any) -> tuple[str, ...]:
    if not isinstance(scores, list | tuple) or not scores:
        hint = f" Did you mean [{scores!r}]?" if isinstance(scores, str) else ""
        raise ValueError(f"scores must be a list of {', '.join(SCORES)}. Got {scores!r}.{hint}")
    for score in scores:
        check_score(score)
    return tuple(dict.fromkeys(scores))


def _too_few(n: int, budget: float, confidence: float, scores: tuple[str, ...]) -> str:
    doubt = 1 - confidence
    level = 1 - doubt / len(scores)
    fewer = ""
    if len(scores) > 1:
        alone = items_needed(budget, level=confidence)
        fewer = f" One score alone, such as scores=[{scores[0]!r}], needs {plural(int(alone), 'item')}."
    return (
        f"A budget of {100 * budget:g} % cannot be shown to be kept on so few items: with {plural(n, 'item')} and a "
        f"confidence of {100 * confidence:g} % you can show at most {percent(upper_bound(0, n, level))}. Give at least "
        f"{plural(int(items_needed(budget, level=level)), 'item')}, or a budget above that.{fewer}"
    )


def _spent_by_the_fallback(spent: int, most: int, n: int, budget: float) -> str:
    return (
        f"The fallback by itself exceeds the budget of {100 * budget:g} %: it answers {spent} of {plural(n, 'item')} "
        f"otherwise than the reference, and {most} may. Take one that is closer, such as the reference itself."
    )


def _never_sure(sure: dict[str, NDArray[np.float64]], differ: NDArray[np.bool_], budget: float, level: float) -> str:
    """What would let the candidate answer the items that it is surest of."""
    n = len(differ)
    fewest = min(int(differ[found == found.max()].sum()) for found in sure.values())
    least = upper_bound(fewest, n, level)
    more = f"A budget above {percent(least)} lets it answer some." if least < 1 else "No budget lets it answer any."
    return (
        f"No threshold keeps a budget of {100 * budget:g} %: of {plural(n, 'item')} the candidate answers "
        f"{int(differ.sum())} otherwise than the reference, and those that it is surest of are among them. "
        f"{more} Repair the candidate, or ship the reference."
    )
