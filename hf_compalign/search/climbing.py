"""Try one step after the other, leaving out what cannot be the best any more."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import numpy as np

from hf_compalign._formats import decimals, megabytes, percent
from hf_compalign.measure.audit import audit
from hf_compalign.measure.footprint import footprint
from hf_compalign.measure.predictions import Predictions
from hf_compalign.models import runtime_of
from hf_compalign.search.record import Search, Tried
from hf_compalign.search.steps import Step
from hf_compalign.search.timing import times_faster
from hf_compalign.search.workshop import Workshop
from hf_compalign.ship.deferral import Deferral, DeferringModel, fit_deferral
from hf_compalign.ship.deployments import Deployment
from hf_compalign.ship.repair import Part
from hf_compalign.tasks import LABELERS

# Of the smallest limit, how much a file that defers may change itself: more leaves it more answers, less is safer.
BUDGET_SHARES = (1.0, 0.8, 0.6, 0.3)
# A file in INT8 that is not faster than this, against the same in float, is not worth what it changes.
_FASTER = 1.03
# How often the limit a cut may change for a stronger one to be tried, with the original behind it.
_MUCH = 5
# Why a step is left out.
_NOT_FASTER = "INT8 is no faster than float here, and changes more"
_NOT_WORTH = "a weaker cut already changes too much"
_NO_TRAINING = "it keeps the limits without training"
_NOTHING_LEFT = "with so large a budget it answers everything itself"
_NO_REPAIR = "INT8 without a repair keeps the limits, or would not be the best even if it did"


class Climber:
    """Tries steps on the rows that are searched on.

    Args:
        shop: makes the files.
        judged: the rows that will prove, of which nothing but their number is used.
        found: what an earlier search, cut short, has tried.
        report: called with each line of what is done.
        save: called with everything tried so far, after each step.
    """

    def __init__(
        self,
        shop: Workshop,
        judged: Part,
        found: Search,
        *,
        report: Callable[[str], None],
        save: Callable[[Search], None],
    ) -> None:
        self.found = found
        self._shop, self._searched, self._judged = shop, shop.searched, judged
        self._report, self._save = report, save

    def climb(self, steps: Iterable[Step]) -> Search:
        """Try these steps, except for those that were tried or cannot be the best."""
        for step in steps:
            if self.found.of(step) is not None or step.name in self.found.left_out:
                continue
            reason = why_not(step, self.found)
            if reason is None:
                try:
                    self._try(step)
                except (ValueError, ImportError) as error:
                    reason = " ".join(str(error).split())
            if reason is not None:
                self._leave_out(step.name, reason)
            self._save(self.found)
        return self.found

    def _try(self, step: Step) -> None:
        network, answers = self._shop.opened(step), self._shop.answers(step)
        alone = self._measured(step, step.name, answers, network)
        pairs = [] if alone.promises else self._deferring(alone, answers)
        # Together: a search that is killed in between tries the step again.
        for one in [alone, *pairs]:
            self._report(_line(one, self.found))
            self.found = replace(self.found, tried=(*self.found.tried, one))

    def _measured(
        self, step: Step, name: str, answers: Predictions, network: Any, deferral: Deferral | None = None
    ) -> Tried:
        """On its answers, and timed beside the original."""
        setting, options = self._shop.setting, self._shop.setting.options
        audited = audit(self._searched.reference, answers, limits=self._searched.limits)
        row = Deployment.of(
            name,
            audited,
            runtime=runtime_of(network),
            size_bytes=footprint(network).size_bytes,
            answered_rate=1.0 if deferral is None else deferral.answered_rate,
        )
        times = times_faster(
            setting.network, network, self._searched.rows, processor=setting.processor, options=options
        )
        return Tried(step, replace(row, speedup={options.batch_size: times}), self._judged.expects(audited), deferral)

    def _deferring(self, alone: Tried, answers: Predictions) -> list[Tried]:
        """The file with that of the whole model behind it, at several budgets; those that can be the best."""
        behind, options = self.found.fallback, self._shop.setting.options
        wanted = options.deferral and options.objective == "latency" and self._shop.setting.task in LABELERS
        if not wanted or behind is None or alone.step == behind.step:
            return []
        theirs, pairs = self._shop.answers(behind.step), []
        for share in BUDGET_SHARES:
            budget = share * min(self._searched.limits.values())
            name = f"{alone.name}, deferring at {percent(budget)}"
            try:
                rule = fit_deferral(self._searched.reference, answers, fallback=theirs, budget=budget)
            except ValueError as error:
                self._leave_out(name, str(error))
                break  # smaller budgets are harder still
            if rule.answered_rate == 1:
                self._leave_out(name, _NOTHING_LEFT)
                continue
            least = 1 / self.found.speedup(alone) + (1 - rule.answered_rate) / self.found.speedup(behind)
            if self.found.best is not None and least >= self.found.cost(self.found.best):
                self._leave_out(name, f"it answers {percent(rule.answered_rate)} itself: no faster than what there is")
                break  # and answer less
            network = DeferringModel(self._shop.opened(alone.step), self._shop.opened(behind.step), rule)
            pairs.append(self._measured(alone.step, name, joined(rule, answers, theirs), network, rule))
        return pairs

    def _leave_out(self, name: str, reason: str) -> None:
        self._report(f"left out  {name}: {reason}")
        self.found = replace(self.found, left_out={**self.found.left_out, name: reason})


def why_not(step: Step, found: Search) -> str | None:
    """Why a step cannot be the best any more, by what was tried before; None if it can."""
    if found.objective == "latency" and step.int8 and step.cut and not _is_int8_faster(step.whole, found):
        return _NOT_FASTER
    if step.repaired:
        plain = found.of(replace(step, repaired=False))
        if plain is None or plain.promises or (found.best is not None and found.cost(plain) >= found.cost(found.best)):
            return _NO_REPAIR
    weaker = (found.of(one.step.in_float) for one in found.tried if 0 < one.step.cut < step.cut)
    if any(_is_too_much(one, found) for one in weaker if one is not None and one.step.trained == step.trained):
        return _NOT_WORTH
    return _why_not_trained(step, found) if step.trained else None


def _why_not_trained(step: Step, found: Search) -> str | None:
    plain = found.of(step.untrained)
    if plain is not None and plain.promises:
        return _NO_TRAINING
    # Of a training that was of no use there is no INT8 either.
    reason = found.left_out.get(step.in_float.name)
    return None if reason == _NO_TRAINING else reason


def _is_too_much(one: Tried, found: Search) -> bool:
    """Whether a cut leaves too little to a file that is cut more; for the fewest bytes nothing stands behind it."""
    limit = min(verdict.limit for verdict in one.expected)
    return not one.promises if found.objective == "bytes" else one.mismatch_rate > _MUCH * limit


def _is_int8_faster(step: Step, found: Search) -> bool:
    """Whether it was for the model as it is, or nobody knows."""
    int8, in_float = found.of(step), found.of(step.in_float)
    return int8 is None or in_float is None or found.speedup(int8) >= _FASTER * found.speedup(in_float)


def joined(rule: Deferral, candidate: Predictions, reference: Predictions) -> Predictions:
    """The answers of a pair, from those of both files to the same rows."""
    itself = rule.answers(candidate.logits, candidate.examples)
    return replace(candidate, logits=np.where(itself[:, None], candidate.logits, reference.logits))


def _line(one: Tried, found: Search) -> str:
    row = one.measured
    kept = "promises to keep the limits" if one.promises else "does not"
    return (
        f"tried  {one.name}: {row.mismatches} of {row.n} changed, {decimals(found.speedup(one), digits=2)} times as "
        f"fast, {megabytes(row.size_bytes, digits=1)} MB; {kept}"
    )
