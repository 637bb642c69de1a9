"""The rows that files are searched on, and those that judge what was found."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from datasets import Dataset

from hf_compalign._formats import plural
from hf_compalign.measure.audit import Audit, AuditOptions, Verdict, audit
from hf_compalign.measure.predictions import Columns, Predictions, parts_of
from hf_compalign.measure.statistics import upper_bound
from hf_compalign.tasks import Task

_SEED = 0
# How many standard deviations a one-sided 95 % bound is away, of many.
_DEVIATIONS = 1.645


@dataclass(frozen=True)
class Part:
    """Some rows of a dataset, and what files are held against on them.

    Attributes:
        rows: what the files are asked.
        reference: its answers.
        limits: for the audit.
        options: for the audit.
    """

    rows: Dataset
    reference: Predictions
    limits: Mapping[str, float]
    options: AuditOptions

    def audit(self, candidate: Any) -> Audit:
        """Hold a model against the reference."""
        return audit(self.reference, candidate, self.rows, limits=self.limits, options=self.options)

    @cached_property
    def best(self) -> Audit:
        """That of a model without a mismatch."""
        return audit(self.reference, self.reference, limits=self.limits)

    def expects(self, found: Audit) -> tuple[Verdict, ...]:
        """What the audit of a file on other rows lets expect of it here, with a margin of one standard deviation.

        With a rate r of m items there, k = ceil(r n + sqrt(r (1 - r) n (1 + n / m))) of the n items here count: the
        root is the standard deviation of their number from r n, as both parts are samples. Where items share examples,
        the bound there tells that deviation, and is scaled to the items here.
        """
        expected = _expected if found.n_examples is None else _expected_of_examples
        return tuple(
            expected(verdict, n=_size(self.best, verdict.name), m=_size(found, verdict.name))
            for verdict in found.limits
        )


def split(
    dataset: Dataset,
    reference: Predictions,
    *,
    share: float,
    task: Task,
    limits: Mapping[str, float],
    options: AuditOptions,
) -> tuple[Part, Part]:
    """The rows to search on, drawn at random but always the same ones, and the others, which judge.

    Raises:
        ValueError: the reference answered other rows, one part has no row, or the other part has too few items to show
            that a limit is kept.
    """
    n = round(share * len(dataset))
    if not 0 < n < len(dataset):
        raise ValueError(
            f"A search is on some rows and judged on others, and search_share={share:g} of "
            f"{plural(len(dataset), 'row')} leaves none to {'judge' if n else 'search'} on. Give more rows."
        )
    order = np.random.default_rng(_SEED).permutation(len(dataset))
    places = [sorted(part.tolist()) for part in (order[:n], order[n:])]
    answers = parts_of(reference, dataset, places, task=task, columns=Columns.of(options.columns))
    searched, judged = (
        Part(dataset.select(rows), own, limits, options) for rows, own in zip(places, answers, strict=True)
    )
    _check_enough_items(judged, share)
    return searched, judged


def _check_enough_items(judged: Part, share: float) -> None:
    """Even a file without a mismatch may not pass on few items; say so before the export."""
    best = judged.best
    for one in best.limits:
        if not one.passed:
            of = f" of {plural(best.n_examples, 'example')}" if best.n_examples else ""
            needed = math.isfinite(one.needed)
            more = f"Give at least {rows_needed(one.needed, share):,} {one.of_what}s, or" if needed else "Give"
            raise ValueError(
                f"The limit {one.name}={one.limit:g} cannot be shown to be kept on so few items: "
                f"{best.n:,}{of} judge, the others are searched on (search_share={share:g}), and even for the "
                f"reference itself the 95 % upper bound is {one.upper_bound:.5f}. {more} a limit above that."
            )


def rows_needed(judged: float, share: float) -> int:
    """How many rows leave so many to judge on.

    >>> rows_needed(299, 0.5), rows_needed(300, 0.25)
    (597, 400)
    """
    n = math.ceil(round((judged - 0.5) / (1 - share), 6))  # fewer do not suffice, however they are rounded
    while n - round(share * n) < judged:
        n += 1
    return n


def _size(found: Audit, limit: str) -> int:
    """How many items a limit is on: those with a label, except for the mismatches."""
    return found.n if limit == "mismatch_rate" else found.n_labeled


def _expected_of_examples(verdict: Verdict, *, n: int, m: int) -> Verdict:
    doubt = verdict.upper_bound - verdict.value
    margin = doubt / _DEVIATIONS * math.sqrt(1 + m / n) if verdict.value else 0.0
    # The doubt about many mismatches falls with the root of the items, that about none with the items.
    bound = min(1.0, verdict.value + margin + doubt * max(m / n, math.sqrt(m / n)))
    return replace(verdict, upper_bound=bound, passed=bound <= verdict.limit)


def _expected(verdict: Verdict, *, n: int, m: int) -> Verdict:
    rate = verdict.value
    count = math.ceil(round(rate * n + math.sqrt(rate * (1 - rate) * n * (1 + n / m)), 6))
    bound = upper_bound(min(count, n), n)
    return replace(verdict, upper_bound=bound, passed=bound <= verdict.limit)
