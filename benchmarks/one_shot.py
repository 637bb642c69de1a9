"""How much of a model's answers survives compression without any training: unstructured and structured.

python benchmarks/one_shot.py --checkpoint MINILM --data SST2 --output OUT [--seeds 0 1 2]

MiniLM, fine-tuned on 6,920 sentences of SST-2, is compressed in one go, with 1,024 of those sentences, without their
labels, for calibration where a method needs any; the seed says which. Each row is the mean over the seeds of what
changed on the 872 test sentences, against the model before, with the least and the most.
"""

import copy
import statistics
import time
from collections.abc import Callable, Iterator

import sst2
from sst2 import Sst2, Store
from tables import head, row
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from hf_compalign import Predictions, audit, prune_, shrink_

CALIBRATION_ROWS = 1024
SPARSITIES = (0.3, 0.5, 0.6, 0.7)
STRUCTURED = {
    "FFN 50 %": {"ffn": 0.5},
    "heads 25 %": {"heads": 0.25},
    "FFN 50 %, heads 25 %": {"ffn": 0.5, "heads": 0.25},
}

Compress = Callable[[PreTrainedModel, object], object]


def methods() -> Iterator[tuple[str, str, bool, Compress]]:
    """What is removed, how, whether calibration data say it, and the function that does it."""
    for sparsity in SPARSITIES:
        for score in ("magnitude", "wanda", "taylor", "obs"):
            calibrated = score != "magnitude"
            yield f"sparsity {sparsity:.0%}", score, calibrated, _pruning(sparsity, score, calibrated)
    yield "2:4", "obs", True, lambda model, rows: prune_(model, 0.5, score="obs", pattern="2:4", calibration=rows)
    for name, budget in STRUCTURED.items():
        yield name, "magnitude", False, lambda model, _, budget=budget: shrink_(model, **budget)
        for reconstruct in (False, True):
            label = "taylor, reconstructed" if reconstruct else "taylor"
            yield name, label, True, _shrinking(budget, reconstruct=reconstruct)


def _pruning(sparsity: float, score: str, calibrated: bool) -> Compress:
    return lambda model, rows: prune_(model, sparsity, score=score, calibration=rows if calibrated else None)


def _shrinking(budget: dict[str, float], *, reconstruct: bool) -> Compress:
    return lambda model, rows: shrink_(model, **budget, calibration=rows, reconstruct=reconstruct)


def main() -> None:
    """Compress, compare, print."""
    parser = sst2.parser(__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()
    data = Sst2(options.checkpoint, options.data)
    path = sst2.original(data, options.checkpoint, options.output / "original")
    original = AutoModelForSequenceClassification.from_pretrained(path)
    store = Store(options.output / "one_shot")
    reference = store.get("original", lambda: data.answers(original))

    def answers(what: str, how: str, compress: Compress, seed: int) -> Predictions:
        def make() -> Predictions:
            model = copy.deepcopy(original)
            began = time.perf_counter()
            compress(model, data.calibration(CALIBRATION_ROWS, seed=seed))
            print(f"({time.perf_counter() - began:.0f} s)", flush=True)
            return data.answers(model)

        return store.get(f"{what}, {how}, seed {seed}".replace(":", " of "), make)

    print(head("removed", "how", "mismatches", "accuracy", "KL"))
    for what, how, calibrated, compress in methods():
        seeds = options.seeds if calibrated else options.seeds[:1]
        found = [audit(reference, answers(what, how, compress, seed)).metrics for seed in seeds]
        counts = [metrics["cie"] for metrics in found]
        spread = f" ({min(counts)} to {max(counts)})" if calibrated else ""
        means = [statistics.mean(metrics[name] for metrics in found) for name in ("accuracy_candidate", "kl")]
        cells = f"{statistics.mean(counts):.0f}{spread}", f"{means[0]:.2%}", f"{means[1]:.3f}"
        print(row(what, how, *cells), flush=True)


if __name__ == "__main__":
    main()
