"""Choose the threshold above which a small file's answers count, with a guarantee on how many differ."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hf_compalign._checks import check_share
from hf_compalign.measure.audit import ModelInfo
from hf_compalign.measure.footprint import Latency
from hf_compalign.measure.predictions import YES_NO, Predictions, SameItems, same_items
from hf_compalign.ship.deferral.choosing import Drawn, check_keepable, lowest_threshold, never_sure
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

    The items of several labels share their text or image, the example, which one of the two models answers as a whole.
    It is as sure as the least sure of all its labels. P is over the items of examples drawn at random, and the bound is
    `hf_compalign.measure.statistics.cluster_bound` in place of Clopper-Pearson's: right whatever the labels of an
    example have to do with each other, given how many of each count. The argument is the same. As t falls no example
    has fewer items that get through and differ, so R only grows, and so does the bound. Let t* be the lowest threshold
    with R(t*) <= budget. A lower one is chosen only if its bound is within the budget, and then so are the bounds of
    all between it and t*, though R exceeds the budget there. Arbitrarily close below t* that has a probability of at
    most 1 - confidence, as for any threshold fixed in advance.

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
        scores: which to try: ``margin``, ``max_probability``, ``energy``. One alone needs fewer items, and of several
            labels the margin is enough: the probability orders them alike, and the energy says little of a no.
        latency: of one pass of the reference and of the candidate, such as `Audit.latency`.

    Raises:
        ValueError: no predictions, other items, labels or inputs on the two sides; items that share examples and are
            not several labels, such as words, since a model in use is not told where words begin; a budget or a
            confidence that is not in (0, 1), an unknown score or none; too few items to show the budget at all; a
            fallback that exceeds it by itself; or a candidate that differs where it is surest, so that no threshold
            keeps it.
    """
    check_share("budget", budget, ends=False)
    check_share("confidence", confidence, ends=False)
    _check({"reference": reference, "candidate": candidate, "fallback": fallback}, latency)
    scores = _checked_scores(scores)
    paired = same_items(reference, [candidate] if fallback is None else [candidate, fallback])
    examples, counted = _examples_of(paired), paired.counted
    reference, candidate, *_ = paired.models
    differ, also = ((one.predicted != reference.predicted)[counted] for one in (candidate, paired.models[-1]))
    behind = also if fallback is not None else np.zeros_like(differ)
    of, level = None if examples is None else examples[counted], 1 - (1 - confidence) / len(scores)
    drawn = Drawn.of(len(differ), of, budget=float(budget), level=level)
    check_keepable(drawn, behind, confidence=confidence, scores=scores)
    # An example is as sure as the least sure of all its items, as in use, whether they count here or not.
    sure = {score: sureness(candidate.logits, score, examples)[counted] for score in scores}
    thresholds = {score: lowest_threshold(drawn, found, differ, behind) for score, found in sure.items()}
    answered = {score: found > thresholds[score] for score, found in sure.items()}
    best = max(scores, key=lambda score: int(answered[score].sum()))
    if not answered[best].any():
        raise ValueError(never_sure(drawn, sure, differ, behind))
    return Deferral(
        score=best,
        threshold=thresholds[best] if math.isfinite(thresholds[best]) else None,
        budget=float(budget),
        confidence=float(confidence),
        bound=drawn.promised,
        n=len(differ),
        answered=int(answered[best].sum()),
        changed=int((answered[best] & differ).sum()),
        mismatches=int(differ.sum()),
        scores=scores,
        reference=ModelInfo.of(reference),
        candidate=ModelInfo.of(candidate),
        data_fingerprint=reference.data_fingerprint or candidate.data_fingerprint,
        latency=latency,
        fallback=None if fallback is None else ModelInfo.of(paired.models[-1]),
        fallback_changed=int(behind.sum()),
        examples=None if of is None else len(drawn.sizes),
        answered_examples=None if of is None else len(np.unique(of[answered[best]])),
    )


def _check(sides: dict[str, Any], latency: Any) -> None:
    for name, side in sides.items():
        if not isinstance(side, Predictions) and not (name == "fallback" and side is None):
            raise ValueError(
                f"The {name} must be Predictions. Got {type(side).__name__}. Ask a model with predict(model, dataset)."
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


def _examples_of(paired: SameItems) -> NDArray[np.int64] | None:
    """The example of each item, [N]; None where each is one.

    Raises:
        ValueError: items share examples and are not several labels, or not all labels of an example.
    """
    reference = paired.models[0]
    examples = next((one.examples for one in paired.models if one.examples is not None), None)
    if examples is None:
        return None
    if reference.label_names != YES_NO or any(one.logits[:, 0].any() for one in paired.models):
        raise ValueError(
            "A deferral is decided example by example: give predictions with one item for each example, or those of "
            "several labels, as predict gives them. Got items that share examples and are answered "
            f"{' or '.join(reference.label_names)}, such as the words of a text: a model in use is not told where "
            "words begin, and special tokens and later pieces of words, which nothing was trained for, would decide."
        )
    _, sizes = np.unique(examples, return_counts=True)
    if sizes.min() < sizes.max():
        raise ValueError(
            "Every example must have an item for each label, since the least sure of them decides. Got "
            f"{sizes.min()} to {sizes.max()} items in an example. Mask out those that do not count, and keep them."
        )
    return examples
