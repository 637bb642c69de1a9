"""Prove on rows that nothing was chosen on."""

from collections.abc import Callable
from typing import Any

from hf_compalign._formats import percent
from hf_compalign.measure.footprint import footprint
from hf_compalign.models import runtime_of
from hf_compalign.search.record import ORIGINAL, Search, Tried
from hf_compalign.search.workshop import Workshop
from hf_compalign.ship.deferral import DeferringModel
from hf_compalign.ship.deployments import Deployment, DeploymentOptions, Deployments, compare_deployments
from hf_compalign.ship.repair import Part, chosen_of, fixed_sequence

Report = Callable[[str], None]


def judged_in_turn(
    found: Search, shop: Workshop, judged: Part, report: Report
) -> tuple[tuple[Deployment, ...], Tried | None]:
    """The files of the sequence on the rows that prove, and the one that is chosen; None if the first fails.

    The order is fixed before, so that the bound of the last that keeps the limits holds without a correction; see
    `fixed_sequence`.
    """
    sequence = found.sequence
    if not sequence:
        return (), None

    def judge(one: Tried) -> Deployment:
        row = _judged(one, shop.model(one, found.fallback), judged)
        kept = "keeps" if row.passed else "does not keep"
        bound = percent(row.mismatch_rate_bound)
        report(f"proof  {one.name}: {row.mismatches} of {row.n} changed, at most {bound}; it {kept} the limits")
        return row

    rows = fixed_sequence(sequence, judge)
    chosen = chosen_of(rows)
    return tuple(rows), sequence[rows.index(chosen)] if chosen.passed else None


def _judged(one: Tried, network: Any, judged: Part) -> Deployment:
    return Deployment.of(
        one.name,
        judged.audit(network),
        runtime=runtime_of(network),
        size_bytes=footprint(network).size_bytes,
        answered_rate=network.traffic.answered_rate if isinstance(network, DeferringModel) else 1.0,
    )


def compared(found: Search, chosen: Tried, shop: Workshop, judged: Part) -> Deployments:
    """The original, the chosen file and, where it defers, the file behind it, timed on the rows that prove."""
    models = {ORIGINAL: shop.setting.network, chosen.name: shop.model(chosen, found.fallback)}
    if chosen.deferral is not None and found.fallback is not None:
        models[found.fallback.name] = shop.opened(found.fallback.step)
    options = shop.setting.options
    how = DeploymentOptions(
        options.columns,
        shop.setting.processor,
        timed_batch_sizes=sorted({1, options.batch_size}),
        n_runs=options.n_runs,
        memory=False,
    )
    return compare_deployments(judged.reference, models, judged.rows, limits=judged.limits, options=how)
