"""Compare two footprints, as a section and as plain text."""

from hf_compalign._formats import decimals, percent, plural, ratio
from hf_compalign._tables import Section, Table, as_text, plain
from hf_compalign.measure.footprint.measuring import Footprint
from hf_compalign.measure.footprint.record import Latency, quartiles, wide_spread

_NUMBERS = {
    "parameters": "parameters",
    "parameters that are not 0": "nonzero_parameters",
    "FLOPs per item": "flops_per_item",
    "bytes": "size_bytes",
    "bytes after zlib": "compressed_size_bytes",
}


def footprint_table(
    reference: Footprint, candidate: Footprint, *, latencies: tuple[Latency, Latency] | None = None
) -> str:
    """What both models cost, with the ratios candidate / reference, and what the zeros are worth.

    Both must be counted on the same inputs. The ``latencies`` are those of one call of
    `hf_compalign.measure.footprint.interleaved_latency_ms`. Without them there is no ratio of times: two models timed
    at two moments cannot be compared.
    """
    found = footprint_section(reference, candidate, latencies=latencies)
    return "\n".join([*map(as_text, found.tables), "", *map(plain, found.notes)]).rstrip()


def footprint_section(
    reference: Footprint,
    candidate: Footprint,
    *,
    latencies: tuple[Latency, Latency] | None = None,
    sides: tuple[str, str] = ("reference", "candidate"),
) -> Section:
    """The contents of `footprint_table`: rows for what was measured of both ``sides``, and how to read them."""
    rows, notes = [], []
    for title, name in _NUMBERS.items():
        first, second = getattr(reference, name), getattr(candidate, name)
        if first is not None and second is not None:
            rows.append((title, decimals(first, digits=0), decimals(second, digits=0), ratio(first, second)))
    both = latencies or (reference.latency, candidate.latency)
    if both[0] and both[1]:
        times = ratio(both[0].median_ms, both[1].median_ms) if latencies else ""
        rows.append(("latency (ms)", quartiles(both[0]), quartiles(both[1]), times))
        how = ", both models in turn."
        if not latencies:
            how = (
                f" ({_conditions(reference)}; {_conditions(candidate)}). The models were not timed side by side, so "
                "there is no ratio: interleaved_latency_ms does that."
            )
        notes.append(f"Latency: median and quartiles of one forward pass{how}")
        notes += filter(None, [wide_spread({sides[0]: both[0], sides[1]: both[1]})])
    table = Table("Costs", ("costs", *sides, "ratio"), rows)
    return Section("costs", "Size and latency", (table,), (*notes, *_about_zeros(candidate)))


def _about_zeros(candidate: Footprint) -> list[str]:
    zeros = _share(candidate.parameters - candidate.nonzero_parameters, candidate)
    # Every model has a few zeros: new biases, the embedding of the padding.
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
            "torch.sparse.to_sparse_semi_structured and time them there. It saves nothing anywhere else."
        )
    return notes


def _share(n: int, footprint: Footprint) -> str:
    return percent(n / max(footprint.parameters, 1), digits=0)


def _conditions(footprint: Footprint) -> str:
    return f"{plural(footprint.batch_size or 0, 'item')}, {footprint.device}, CPU threads: {footprint.threads}"
