"""Compress at once, then recover: {magnitude, obs} x {CE, aligned}, the same steps on the same data.

python benchmarks/recover.py --checkpoint MINILM --data SST2 --output OUT [--sparsities 0.5 0.6 0.7] [--seeds 0]

MiniLM, fine-tuned on 6,920 sentences of SST-2, is pruned in one go, by global magnitude or by second-order pruning with
1,024 calibration rows, and trained for one epoch over the same sentences with its zeros held: with cross-entropy alone
by the stock Trainer, or aligned with the original. The last row trains as many steps on labelled sentences and 14,000
phrases without labels mixed, which only an aligned training can use. The seed is that of calibration and training.
"""

import argparse
import copy

import sst2
from sst2 import Sst2, Store
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from hf_compalign import (
    Predictions,
    PruningCallback,
    cache_teacher_logits,
    prune_,
)
from hf_compalign.compress.masks import prunable_weights, sparsity_of
from hf_compalign.data import mix_unlabelled
from hf_compalign.measure.comparison import cie_ratio

CALIBRATION_ROWS = 1024
RUNS = (("magnitude", "CE"), ("magnitude", "aligned"), ("obs", "CE"), ("obs", "aligned"), ("obs", "aligned, transfer"))


class Recovery:
    """The original, its answers to the training data, and the trainings that start from pruned copies of it."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.data = Sst2(options.checkpoint, options.data)
        self.folder = options.output / "pruned"
        path = sst2.original(self.data, options.checkpoint, options.output / "original")
        self.original = AutoModelForSequenceClassification.from_pretrained(path)
        mixed = mix_unlabelled(self.data.train, self.data.transfer, seed=0)
        shared = {"data_collator": self.data.collator, "batch_size": 64}
        self.rows = {
            "CE": self.data.train,
            "aligned": cache_teacher_logits(self.data.train, self.original, **shared),
            "aligned, transfer": cache_teacher_logits(mixed, self.original, **shared),
        }

    def pruned(self, score: str, sparsity: float, seed: int) -> tuple[PreTrainedModel, float]:
        """A pruned copy of the original, kept in the folder, and its exact sparsity."""
        folder = self.folder / f"{score}-{sparsity:g}-{seed}"
        if not (folder / "config.json").is_file():
            model = copy.deepcopy(self.original)
            calibration = self.data.calibration(CALIBRATION_ROWS, seed=seed) if score == "obs" else None
            prune_(model, sparsity, score=score, calibration=calibration)
            model.save_pretrained(folder)
        model = AutoModelForSequenceClassification.from_pretrained(folder)
        return model, sparsity_of(prunable_weights(model))

    def recovered(self, score: str, loss: str, sparsity: float, seed: int) -> Predictions:
        """The answers after one epoch, or as many steps of it where there are more rows."""
        model, achieved = self.pruned(score, sparsity, seed)
        # By magnitude, so much of the weights is just what is 0 already: the callback holds the zeros.
        hold = PruningCallback(achieved, schedule="constant", window=(0, 0))
        sst2.train(model, self.data, self.rows[loss], seed=seed, callbacks=[hold])
        return self.data.answers(model)


def main() -> None:
    """Prune, train, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sst2.add_arguments(parser)
    parser.add_argument("--sparsities", type=float, nargs="+", default=[0.5, 0.6, 0.7])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    options = parser.parse_args()
    recovery = Recovery(options)
    store = Store(options.output / "recover")
    reference = store.get("original", lambda: recovery.data.answers(recovery.original))
    for sparsity in options.sparsities:
        for seed in options.seeds:
            found = {}
            for score, loss in RUNS:
                name = f"{score} + {loss}"
                found[name] = store.get(
                    f"{name}, {sparsity:g}, seed {seed}",
                    lambda score=score, loss=loss: recovery.recovered(score, loss, sparsity, seed),  # noqa: B023
                )
                print(name, sparsity, seed, flush=True)
            print(f"\nsparsity {sparsity:g}, seed {seed}\n", *sst2.table(reference, found), sep="\n")
            answers = [found[name].logits.argmax(-1) for name in ("magnitude + CE", "obs + aligned")]
            ratio = cie_ratio(reference.logits.argmax(-1), *answers, n_resamples=10_000)
            print(f"\nCIE ratio (magnitude + CE) / (obs + aligned): {ratio}\n", flush=True)


if __name__ == "__main__":
    main()
