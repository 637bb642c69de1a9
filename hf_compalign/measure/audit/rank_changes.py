"""Two rerankers side by side: the orders in which they put the rows of each query."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hf_compalign._checks import check_whole
from hf_compalign._formats import count, decimals, interval, percent
from hf_compalign.measure.predictions import Values
from hf_compalign.measure.statistics import Estimate, kendall_tau, mean_estimate, ranked, rate_among, top_overlap


@dataclass(frozen=True)
class RankComparison:
    """How two models rank the same rows; ``print`` shows it.

    Attributes:
        n: queries.
        n_rows: their rows, all together.
        n_tied: queries in which a model gives two rows the same score.
        mismatches: queries with another row in the first place.
        mismatch_rate_interval: 95 %, Wilson's, over queries.
        mismatch_rate_upper_bound: one-sided, 95 %, Clopper-Pearson, over queries.
        tau: the mean of Kendall's tau-b of all queries, with the 95 % interval of a bootstrap that draws queries.
        taus: that of each query, by its name; nan, and not in the mean, where a model gives all rows the same score.
        top: the k of the overlap.
        overlap: the mean share of the first k rows that stay among them, with such an interval, of the queries with
            more than k rows; nan where there are none.
    """

    n: int
    n_rows: int
    n_tied: int
    mismatches: int
    mismatch_rate: float
    mismatch_rate_interval: tuple[float, float]
    mismatch_rate_upper_bound: float
    tau: Estimate
    taus: dict[Any, float] = field(repr=False)
    top: int
    overlap: Estimate

    def __str__(self) -> str:
        lines = [
            f"{count(self.mismatches)} of {count(self.n)} queries have another row in the first place: "
            f"{percent(self.mismatch_rate)} ({interval(self.mismatch_rate_interval)}; at most "
            f"{percent(self.mismatch_rate_upper_bound)}).",
            f"Kendall's tau {_told(self.tau)}; overlap of the first {self.top} {_told(self.overlap)}.",
        ]
        if self.n_tied:
            lines.append(f"Queries with equal scores: {count(self.n_tied)}; those are ranked in the order of the rows.")
        return "\n".join(lines)


def compare_ranks(reference: Values, candidate: Values, *, queries: Iterable[Any], top: int = 10) -> RankComparison:
    """Compare the orders in which two rerankers put the rows of each query, such as two cross-encoders.

    A reranker is a regression, one score for a query and a passage (https://huggingface.co/papers/1901.04085), but
    nobody reads its scores: what is read is their order, and first of all what comes first. So a mismatch is a query
    with another row in the first place. Rows with equal scores are ranked in the order of the reference's rows, on both
    sides alike; tau-b takes them for ties.

    >>> before = Values([0.9, 0.2, 0.1, 0.3], ["a", "b", "c", "d"])
    >>> after = Values([0.8, 0.3, 0.4, 0.2], ["a", "b", "c", "d"])
    >>> found = compare_ranks(before, after, queries=["q", "q", "r", "r"], top=1)
    >>> found.mismatches, found.taus, found.overlap.value
    (1, {'q': 1.0, 'r': -1.0}, 0.5)

    Args:
        reference: its scores, as `hf_compalign.measure.predictions.predict_values` gives them; higher is better.
        candidate: the scores of the same rows.
        queries: the query of each of the reference's rows, in their order: a text, or a number.
        top: how many of the first rows the overlap is about.

    Raises:
        ValueError: a query is missing or has a single row; there are fewer queries or more than rows; several numbers
            for a row; other rows or inputs on the two sides.
    """
    check_whole("top", top, least=1)
    if reference.examples is not None:
        raise ValueError(
            f"A reranker gives each row one score. Got several for each of {len(np.unique(reference.examples))} rows. "
            "Give the values of a model with num_labels=1."
        )
    rows = _by_query(reference, queries)
    before, after = reference.values, candidate.aligned_to(reference).values
    pairs = {query: (before[places], after[places]) for query, places in rows.items()}
    flipped = rate_among([ranked(one)[0] != ranked(other)[0] for one, other in pairs.values()])
    taus = {query: kendall_tau(one, other) for query, (one, other) in pairs.items()}
    return RankComparison(
        n=len(rows),
        n_rows=len(reference),
        n_tied=sum(any(len(np.unique(scores)) < len(scores) for scores in both) for both in pairs.values()),
        mismatches=flipped.k,
        mismatch_rate=flipped.value,
        mismatch_rate_interval=flipped.interval,
        mismatch_rate_upper_bound=flipped.bounds[1],
        tau=mean_estimate([*taus.values()]),
        taus=taus,
        top=int(top),
        overlap=mean_estimate([top_overlap(one, other, top=top) for one, other in pairs.values()]),
    )


def _by_query(scored: Values, queries: Iterable[Any]) -> dict[Any, NDArray[np.int64]]:
    """The places of the rows of each query, in the order in which the queries come."""
    names = [*queries]
    if len(names) != len(scored):
        raise ValueError(
            f"queries must name the query of each of the {len(scored)} rows, in the order of the reference's. Got "
            f"{len(names)}. Give the column of the dataset that was predicted: queries=dataset['query']."
        )
    places: dict[Any, list[int]] = {}
    for place, name in enumerate(names):
        if not isinstance(name, str) and (not isinstance(name, Real) or math.isnan(name)):
            raise ValueError(
                f"Each row must have a query, a text or a number. Got {name!r:.80} for the row "
                f"{str(scored.ids[place])!r}. Name its query, or leave the row out before predicting."
            )
        places.setdefault(name, []).append(place)
    alone = [name for name, rows in places.items() if len(rows) < 2]
    if alone:
        raise ValueError(
            f"A query needs two rows or more to rank. {len(alone)} of {len(places)} have a single one, such as "
            f"{alone[0]!r:.80}. Give all rows of a query, or leave these queries out before predicting."
        )
    return {name: np.array(rows) for name, rows in places.items()}


def _told(found: Estimate) -> str:
    return f"{decimals(found.value)} ({interval((found.low, found.high), decimals)})"
