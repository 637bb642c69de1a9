"""What the two models of an audit cost: the bytes, and if they are to be timed, the latencies."""

from dataclasses import replace
from typing import Any

from datasets import Dataset

from hf_compalign.measure.audit.opened import Opened
from hf_compalign.measure.audit.options import AuditOptions
from hf_compalign.measure.audit.record import Audit, CostRow
from hf_compalign.measure.footprint import (
    Latency,
    footprint,
    footprint_section,
    latencies_on,
    machine_name,
    timing_device,
)
from hf_compalign.models import FileModel

_TIMED_BATCH = 8


def with_costs(found: Audit, pair: tuple[Opened, Opened], dataset: Dataset, options: AuditOptions) -> Audit:
    """The audit with what both of its models cost."""
    sizes = footprint(pair[0].network, where=pair[0].path), footprint(pair[1].network, where=pair[1].path)
    latencies: tuple[Latency, Latency] | None = None
    if options.latency:
        device = timing_device(files=any(isinstance(side.network, FileModel) for side in pair))
        models: dict[str, tuple[Any, Any]] = {
            name: (side.network, side.processor) for name, side in zip(("reference", "candidate"), pair, strict=True)
        }
        timed = latencies_on(dataset, models, columns=options.columns, batch_sizes=(_TIMED_BATCH,), device=device)
        latencies = timed["reference"][_TIMED_BATCH], timed["candidate"][_TIMED_BATCH]
        found = replace(
            found,
            latency_ms=(latencies[0].median_ms, latencies[1].median_ms),
            machine=f"{machine_name(device)}, batches of {_TIMED_BATCH}",
        )
    return replace(
        found,
        costs=tuple(CostRow(*map(str, row)) for row in footprint_section(*sizes, latencies=latencies).tables[0].rows),
        size_bytes=(sizes[0].size_bytes, sizes[1].size_bytes),
    )
