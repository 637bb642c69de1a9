"""The tables that the benchmarks print, in Markdown: what changes of the answers, and how long models take."""

from collections.abc import Iterator, Mapping

import torch
from torch import nn

from hf_compalign import Audit, Predictions, audit
from hf_compalign.measure.footprint import Latency, interleaved_latency_ms

BATCHES = (1, 8)


def row(*cells: object) -> str:
    """A line of a table."""
    return f"| {' | '.join(map(str, cells))} |"


def head(*titles: str) -> str:
    """The first two lines of a table."""
    return f"{row(*titles)}\n{'|---' * len(titles)}|"


def mismatches(found: Audit) -> str:
    """Their number, and their rate with its 95 % interval."""
    low, high = found.metrics["mismatch_rate_interval"]
    return f"{found.metrics['cie']}: {found.metrics['mismatch_rate']:.2%} ({low:.2%} to {high:.2%})"


def answers(reference: Predictions, candidates: Mapping[str, Predictions]) -> Iterator[str]:
    """What each candidate changes of the reference's answers."""
    yield head("model", "accuracy", "mismatches", "lost", "KL")
    for name, predictions in candidates.items():
        found = audit(reference, predictions)
        metrics = found.metrics
        yield row(
            name, f"{metrics['accuracy_candidate']:.2%}", mismatches(found), metrics["cie_u"], f"{metrics['kl']:.3f}"
        )


def spread(time: Latency, *, digits: int = 1) -> str:
    """Median and quartiles in milliseconds."""
    return f"{time.median_ms:.{digits}f} ({time.low_ms:.{digits}f} to {time.high_ms:.{digits}f})"


def random_tokens(batch_size: int, length: int) -> dict[str, torch.Tensor]:
    """A batch, all of one length: how long a model takes does not depend on what the tokens say."""
    ids = torch.randint(1000, 30_000, (batch_size, length), generator=torch.Generator().manual_seed(0))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def latencies(models: Mapping[str, nn.Module], sizes: Mapping[str, int], *, length: int, n_runs: int) -> Iterator[str]:
    """Bytes, and latency side by side; how many times faster than the first."""
    yield f"\n{length} tokens, {torch.get_num_threads()} threads, {n_runs} passes each in turn"
    yield head("model", "bytes", "batch", "median ms (quartiles)", "times faster")
    for batch_size in BATCHES:
        batch = random_tokens(batch_size, length)
        times = interleaved_latency_ms({name: (model, batch) for name, model in models.items()}, n_runs=n_runs)
        first = next(iter(times.values())).median_ms
        for name, time in times.items():
            yield row(name, f"{sizes[name]:,}", batch_size, spread(time), f"{first / time.median_ms:.2f}")
