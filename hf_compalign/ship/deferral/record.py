"""Which answers of a small file count, as plain data: printed, saved and loaded without torch."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hf_compalign._checks import check_share
from hf_compalign._exported import record_name
from hf_compalign._formats import count, decimals, interval, percent, plural, ratio
from hf_compalign._saved import Saved
from hf_compalign.data import row_fingerprint
from hf_compalign.measure.audit import ModelInfo
from hf_compalign.measure.footprint import Latency, quartiles
from hf_compalign.measure.statistics import rate
from hf_compalign.ship.deferral.scores import check_score, sureness
from hf_compalign.ship.deferral.traffic import Answered

DEFERRAL_NAME = "deferral.json"


@dataclass(frozen=True)
class Deferral(Answered, Saved):
    """The result of `hf_compalign.fit_deferral`; ``print`` says what it means.

    Saved as ``deferral.json`` in the candidate's folder, or as ``<name>.deferral.json`` beside the exported file
    ``<name>``, it is found by `DeferringModel`.

    Attributes:
        score: how sure the candidate is, see `hf_compalign.ship.deferral.sureness`.
        threshold: the candidate answers where its score is greater, and defers the rest; None: it answers everything.
        budget: the largest acceptable share of all items that the candidate answers itself and otherwise than the
            reference.
        confidence: that the share is within the budget, over the choice of the items.
        bound: what the share is shown to be within with that confidence; at most the budget, and just that where items
            share examples.
        n: items that the threshold was chosen on.
        answered: those of them that the candidate answers itself: of items that share an example, all or none.
        changed: those of the answered ones that the reference answers otherwise.
        mismatches: how many of all items the candidate answers otherwise.
        scores: those that were tried. Each was judged at a confidence of 1 - (1 - confidence) / their number.
        data_fingerprint: of the inputs; empty when unknown.
        latency: of one pass of the reference and of the candidate; None when unknown.
        fallback: the model that gets the deferred items, where that is not the reference.
        fallback_changed: how many of all items it answers otherwise than the reference; they count in the bound.
        examples: how many the items are of, such as texts with several labels each; None where each item is one.
        answered_examples: those of them that the candidate answers itself; None likewise.
    """

    kind = "hf_compalign.deferral"

    score: str
    threshold: float | None
    budget: float
    confidence: float
    bound: float
    n: int
    answered: int
    changed: int
    mismatches: int
    scores: tuple[str, ...]
    reference: ModelInfo
    candidate: ModelInfo
    data_fingerprint: str = ""
    latency: tuple[Latency, Latency] | None = None
    fallback: ModelInfo | None = None
    fallback_changed: int = 0
    examples: int | None = None
    answered_examples: int | None = None

    def __post_init__(self) -> None:
        check_score(self.score)
        check_share("budget", self.budget, ends=False)
        check_share("confidence", self.confidence, ends=False)
        if not (0 <= self.changed <= self.answered <= self.n and self.changed <= self.mismatches <= self.n):
            raise ValueError(
                "changed cannot be more than answered or mismatches, and these not more than n. Got "
                f"changed={self.changed}, answered={self.answered}, mismatches={self.mismatches} and n={self.n}."
            )
        known = {self.examples is None, self.answered_examples is None}
        if len(known) > 1 or not 0 <= (self.answered_examples or 0) <= (self.examples or 0) <= self.n:
            raise ValueError(
                "examples and answered_examples are known together, the first at most n and the second at most the "
                f"first. Got examples={self.examples}, answered_examples={self.answered_examples} and n={self.n}."
            )

    @property
    def behind(self) -> ModelInfo:
        """The model that gets the deferred items."""
        return self.reference if self.fallback is None else self.fallback

    @property
    def expected_ms(self) -> float | None:
        """What a pass of the pair costs: candidate + (1 - answered_rate) * reference; None without latencies.

        It is right on average for batches of one, and where the time of the reference grows with the rows it is given.
        Few rows often take longer than that: time the `DeferringModel` where it matters.
        """
        if self.latency is None:
            return None
        reference, candidate = self.latency
        return candidate.median_ms + (1 - self.answered_rate) * reference.median_ms

    @property
    def decided(self) -> tuple[int, int]:
        """How many examples the candidate answers itself, of all; an item may be one."""
        if self.examples is None or self.answered_examples is None:
            return self.answered, self.n
        return self.answered_examples, self.examples

    def answers(
        self, logits: NDArray[np.floating[Any]], examples: NDArray[np.integer[Any]] | None = None
    ) -> NDArray[np.bool_]:
        """Which items the candidate answers itself, bool [N], from its logits [N, C].

        Of items that share ``examples`` [N], all or none: an example is as sure as the least sure of them.
        """
        # Logits that are nan are greater than nothing, so they are deferred.
        sure = sureness(logits, self.score, examples)
        return sure > (-math.inf if self.threshold is None else self.threshold)

    def check_candidate(self, name: str, fingerprint: str) -> None:
        """Refuse it for another candidate than the one that it was fitted for.

        Raises:
            ValueError: the fingerprints differ.
        """
        if self.candidate.model_fingerprint != fingerprint:
            raise ValueError(
                f"The deferral of {name} was fitted for {self.candidate.model or 'another'} "
                f"({self.candidate.model_fingerprint or 'unknown'}), and the weights of {name} are others "
                f"({fingerprint}). Its threshold says nothing about them. Fit it anew with "
                "fit_deferral(predict(original, rows), predict(file, rows))."
            )

    def pair_fingerprint(self, candidate: str, reference: str) -> str:
        """16 hex digits of both models, from theirs, and of which answers count."""
        rule = f"{self.score} {self.threshold!r}"
        return row_fingerprint({"candidate": candidate, "reference": reference, "rule": rule})

    @classmethod
    def of(cls, given: "Deferral | str | Path") -> "Deferral":
        """One as it is, or what `save` wrote at that path."""
        return given if isinstance(given, cls) else cls.load(given)  # type: ignore[arg-type]  # else it is a path

    def __str__(self) -> str:
        name, (answered, of) = self.score.replace("_", " "), self.decided
        where = f"whatever its {name}" if self.threshold is None else f"where its {name} is above {self.threshold:.4g}"
        what, here = "item", f"Here {count(self.changed)} do"
        if self.examples is not None:
            what, here = "example", f"Of {plural(self.n, 'item')} {count(self.changed)} do here"
            where += "" if self.threshold is None else " for each of their labels"
        lines = [
            f"The candidate answers {count(answered)} of {plural(of, what)} itself, {where}: "
            f"{percent(self.answered_rate)}, 95 % interval {interval(self.answered_rate_interval)}.",
            f"With {100 * self.confidence:g} % confidence, at most {percent(self.bound)} of all items get another "
            f"answer than the reference's (budget {100 * self.budget:g} %).",
            f"{here} ({percent(rate(self.changed, self.n))}), and {count(self.mismatches)} "
            f"where the candidate answers all ({percent(rate(self.mismatches, self.n))}).",
        ]
        if self.fallback is not None:
            lines.append(f"The model behind it answers {count(self.fallback_changed)} otherwise, which count in this.")
        return "\n".join(lines + self._cost())

    def _cost(self) -> list[str]:
        if self.latency is None or self.expected_ms is None:
            return []
        reference, candidate = self.latency
        return [
            f"A pass takes about {decimals(self.expected_ms, digits=2)} ms: {quartiles(candidate)} of the candidate, "
            f"and {percent(1 - self.answered_rate)} of the reference's {quartiles(reference)}.",
            f"That is {ratio(self.expected_ms, reference.median_ms)} times as fast as the reference alone, if that "
            "one's time grows with the rows it is given.",
        ]


def deferral_name(path: str | Path) -> str:
    """The place of a file's deferral.

    >>> deferral_name("openvino/openvino_model.xml"), deferral_name("model.safetensors")
    ('openvino/openvino_model.deferral.json', 'deferral.json')
    """
    return record_name(path, DEFERRAL_NAME)
