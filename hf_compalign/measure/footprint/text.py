"""Two footprints side by side, as rows and as plain text."""

from collections.abc import Sequence

from hf_compalign._formats import decimals, percent, plural, ratio
from hf_compalign._tables import Table, as_text
from hf_compalign.measure.footprint.latency import Latency
from hf_compalign.measure.footprint.measuring import Footprint

Row = tuple[str, str, str, str]


def footprint_table(
    reference: Footprint, candidate: Footprint, *, latencies: tuple[Latency, Latency] | None = None
) -> str:
    """What both models cost, with the ratios candidate / reference, and what the zeros are worth.

    Args:
        reference: of the original.
        candidate: of the compressed model, counted on the same inputs.
        latencies: of both from one call of `hf_compalign.measure.footprint.interleaved_latency_ms`. Only then is
            there a ratio of them: what was timed at two different moments says little about the models.
    """
    table = cost_table(footprint_rows(reference, candidate, latencies=latencies))
    return "\n".join([as_text(table), "", *footprint_notes(reference, candidate, latencies=latencies)]).rstrip()


def cost_table(rows: Sequence[Row], sides: tuple[str, str] = ("reference", "candidate")) -> Table:
    """What two models cost, as a table."""
    return Table("Costs", ("costs", *sides, "ratio"), rows)


def footprint_rows(
    reference: Footprint, candidate: Footprint, *, latencies: tuple[Latency, Latency] | None = None
) -> list[Row]:
    """Rows of (what, reference, candidate, ratio); what was not measured of both is left out."""
    rows = [
        _row("parameters", reference.parameters, candidate.parameters),
        _row("parameters that are not 0", reference.nonzero_parameters, candidate.nonzero_parameters),
        _row("FLOPs per item", reference.flops_per_item, candidate.flops_per_item),
        _row("bytes", reference.size_bytes, candidate.size_bytes),
        _row("bytes after zlib", reference.compressed_size_bytes, candidate.compressed_size_bytes),
    ]
    first, second = latencies or (reference.latency, candidate.latency)
    if first and second:
        times = ratio(first.median_ms, second.median_ms) if latencies else ""
        rows.append(("latency (ms)", _quartiles(first), _quartiles(second), times))
    return [row for row in rows if row is not None]


def footprint_notes(
    reference: Footprint, candidate: Footprint, *, latencies: tuple[Latency, Latency] | None = None
) -> list[str]:
    """What one must know to read the rows, a sentence or two each."""
    notes = []
    if latencies:
        notes.append("Latency: median and quartiles of one forward pass, both models in turn.")
    elif reference.latency and candidate.latency:
        notes.append(
            f"Latency: median and quartiles of one forward pass ({_conditions(reference)}; {_conditions(candidate)}). "
            "The models were not timed side by side, so there is no ratio: interleaved_latency_ms does that."
        )
    return [*notes, *_about_zeros(candidate)]


def _about_zeros(candidate: Footprint) -> list[str]:
    zeros = _share(candidate.parameters - candidate.nonzero_parameters, candidate)
    # Every model has a few: new biases, the embedding of the padding.
    if zeros == "0 %":
        return []
    notes = [
        f"{zeros} of the compressed model's parameters are 0. They are stored and multiplied like the others: "
        "zeros make the model neither smaller nor faster."
    ]
    if candidate.compressed_size_bytes is not None:
        notes.append("Only a compressed archive or download takes fewer bytes for them.")
    if candidate.semi_structured_parameters:
        notes.append(
            f"{_share(candidate.semi_structured_parameters, candidate)} of the parameters are in linear layers that "
            "keep to the 2:4 pattern. NVIDIA GPUs from Ampere on have kernels for it: convert the layers with "
            "torch.sparse.to_sparse_semi_structured and time them there. Anywhere else it saves nothing."
        )
    return notes


def _share(n: int, footprint: Footprint) -> str:
    return percent(n / max(footprint.parameters, 1), digits=0)


def _row(title: str, first: float | None, second: float | None) -> Row | None:
    if first is None or second is None:
        return None
    return title, decimals(first, digits=0), decimals(second, digits=0), ratio(first, second)


def _quartiles(latency: Latency) -> str:
    return f"{latency.median_ms:.2f} ({latency.low_ms:.2f} to {latency.high_ms:.2f})"


def _conditions(footprint: Footprint) -> str:
    return f"{plural(footprint.batch_size or 0, 'item')}, {footprint.device}, CPU threads: {footprint.threads}"
