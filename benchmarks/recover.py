"""Compress at once, then recover: {magnitude, obs} x {CE, aligned}, the same steps on the same data.

python benchmarks/recover.py --checkpoint MINILM --data SST2 --output OUT [--sparsities 0.5 0.6 0.7] [--seeds 0]
    [--learning_rate 5e-5] [--transfer]

MiniLM, fine-tuned on 6,920 sentences of SST-2, is pruned in one go, by global magnitude or by second-order pruning with
1,024 calibration rows, and trained for one epoch over the same sentences with its zeros held: with cross-entropy alone
by the stock Trainer, or aligned with the original. With --transfer one more row trains as many steps on the sentences
and 14,000 phrases without labels mixed, which only an aligned training can use. The seed is that of calibration and
training. The row "obs + nothing" is the start, before any training.
"""

import argparse
import copy
from functools import cache

import sst2
import tables
from datasets import Dataset
from sst2 import Sst2, Store
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from hf_compalign import (
    Predictions,
    PruningCallback,
    cache_teacher_logits,
    prune_,
)
from hf_compalign.compress import prunable_weights, sparsity_of
from hf_compalign.data import mix_unlabeled
from hf_compalign.measure.statistics import cie_ratio

CALIBRATION_ROWS = 1024
RUNS = (("obs", "nothing"), ("magnitude", "CE"), ("magnitude", "aligned"), ("obs", "CE"), ("obs", "aligned"))


class Recovery:
    """The original, its answers to the training data, and the trainings that start from pruned copies of it."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.data = Sst2(options.checkpoint, options.data)
        self.folder = options.output / "pruned"
        path = sst2.original(self.data, options.checkpoint, options.output / "original")
        self.original = AutoModelForSequenceClassification.from_pretrained(path)
        self.learning_rate = options.learning_rate

    @cache  # noqa: B019 - there is one of these
    def rows(self, loss: str) -> Dataset:
        """What a training runs on: an aligned one has the original's logits beside the tokens."""
        if loss == "CE":
            return self.data.train
        transfer = loss == "aligned, transfer"
        rows = mix_unlabeled(self.data.train, self.data.transfer, seed=0) if transfer else self.data.train
        return cache_teacher_logits(rows, self.original, data_collator=self.data.collator, batch_size=64)

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
        if loss == "nothing":
            return self.data.answers(model)
        # By magnitude, so much of the weights is just what is 0 already: the callback holds the zeros.
        hold = PruningCallback(achieved, schedule="constant", begin=0, end=0)
        sst2.train(model, self.data, self.rows(loss), seed=seed, learning_rate=self.learning_rate, callbacks=[hold])
        return self.data.answers(model)


def main() -> None:
    """Prune, train, compare, print."""
    parser = sst2.parser(__doc__)
    parser.add_argument("--sparsities", type=float, nargs="+", default=[0.5, 0.6, 0.7])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--learning_rate", type=float, default=5e-5)
    parser.add_argument("--transfer", action="store_true")
    options = parser.parse_args()
    recovery = Recovery(options)
    store = Store(options.output / "recover" / f"{options.learning_rate:g}")
    runs = [*RUNS, *([("obs", "aligned, transfer")] if options.transfer else [])]
    reference = store.get("original", lambda: recovery.data.answers(recovery.original))

    def answers(score: str, loss: str, sparsity: float, seed: int) -> Predictions:
        return store.get(
            f"{score} + {loss}, {sparsity:g}, seed {seed}", lambda: recovery.recovered(score, loss, sparsity, seed)
        )

    for sparsity in options.sparsities:
        for seed in options.seeds:
            found = {f"{score} + {loss}": answers(score, loss, sparsity, seed) for score, loss in runs}
            print(f"\nsparsity {sparsity:g}, seed {seed}\n", *tables.answers(reference, found), sep="\n")
            pair = [found[name].logits.argmax(-1) for name in ("magnitude + CE", "obs + aligned")]
            ratio = cie_ratio(reference.logits.argmax(-1), *pair, n_resamples=10_000)
            print(f"\nCIE ratio (magnitude + CE) / (obs + aligned): {ratio}\n", flush=True)


if __name__ == "__main__":
    main()
