"""Which groups pay for compression, and what alignment gives back: HateXplain, 50 % pruned, CE alone against aligned.

python benchmarks/hatexplain.py --checkpoint MINILM --data HATEXPLAIN --output OUT [--seeds 0 1 2]

MiniLM is fine-tuned for two epochs on 6,000 posts (normal, offensive, hate speech), then half of its weights are pruned
by global magnitude during one more epoch over the same posts, with cross-entropy alone or aligned with the original:
the same steps, the same seeds. A second fine-tuning from another seed, not compressed, is the floor. All are audited on
the 3,846 posts of the validation and test files, which no training saw and nothing was chosen on; the groups are those
that the annotators named as targets, and the length of the post.
"""

from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import sst2
import tables
from datasets import Dataset, concatenate_datasets
from sst2 import Store
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    PreTrainedTokenizerBase,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)

from hf_compalign import (
    AlignedDistillationTrainer,
    Audit,
    Predictions,
    PruningCallback,
    audit,
    cache_teacher_logits,
    predict,
)
from hf_compalign.data import load_file, tokenized
from hf_compalign.measure.attribution import AttributionOptions
from hf_compalign.measure.audit import AuditOptions
from hf_compalign.measure.groups import MIN_GROUP_SIZE, group_membership, number_bins, text_length
from hf_compalign.measure.statistics import cie_ratio, mean_estimate
from hf_compalign.report.page import write_report

ROWS = 6_000
MAX_TOKENS = 64
BATCH_SIZE = 32
SPARSITY = 0.5
LABELS = ("normal", "offensive", "hatespeech")
LOSSES = ("CE", "aligned")


class HateXplain:
    """The posts, tokenized, to train on; and those to audit on, as they are."""

    def __init__(self, checkpoint: str, folder: Path) -> None:
        self.tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(checkpoint)
        self.tokenizer.model_max_length = MAX_TOKENS
        posts = load_file(str(folder / "train.parquet")).shuffle(seed=0).select(range(ROWS))
        self.train = tokenized(posts, self.tokenizer, ("text",)).rename_column("label", "labels").remove_columns("text")
        self.test = concatenate_datasets(
            [load_file(str(folder / f"{name}.parquet")) for name in ("validation", "test")]
        )


class Models:
    """The trained models, each kept in a folder and made once."""

    def __init__(self, checkpoint: str, data: HateXplain, folder: Path) -> None:
        self.checkpoint, self.data, self.folder = checkpoint, data, folder

    def fine_tuned(self, seed: int) -> Path:
        """Two epochs from the pretrained encoder; seed 0 is the original."""
        return self._kept(f"fine-tuned-{seed}", self.checkpoint, self.data.train, seed=seed, epochs=2)

    def pruned(self, loss: str, seed: int) -> Path:
        """One more epoch of the original, while half of its weights go."""
        original = self.fine_tuned(0)
        rows = self._with_teacher(original) if loss == "aligned" else self.data.train
        callbacks = [PruningCallback(SPARSITY)]
        return self._kept(f"{loss}-{seed}", original, rows, seed=seed, epochs=1, callbacks=callbacks)

    @cache  # noqa: B019 - there is one of these
    def _with_teacher(self, original: Path) -> Dataset:
        model = AutoModelForSequenceClassification.from_pretrained(original)
        collator = DataCollatorWithPadding(self.data.tokenizer)
        return cache_teacher_logits(self.data.train, model, data_collator=collator, batch_size=64)

    def _kept(self, name: str, start: str | Path, rows: Dataset, **how: Any) -> Path:
        folder = self.folder / name
        if not (folder / "config.json").is_file():
            train(start, rows, self.data.tokenizer, folder, **how)
        return folder


def train(
    start: str | Path,
    rows: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    *,
    seed: int,
    epochs: int,
    callbacks: Sequence[TrainerCallback] = (),
) -> None:
    """Train and save a model; aligned where the rows have the original's logits."""
    set_seed(seed)  # of the new head
    model = AutoModelForSequenceClassification.from_pretrained(start, id2label=dict(enumerate(LABELS)))
    args = TrainingArguments(
        str(folder),
        num_train_epochs=epochs,
        learning_rate=5e-5,
        per_device_train_batch_size=BATCH_SIZE,
        save_strategy="no",
        disable_tqdm=True,
        seed=seed,
    )
    trainer_class = AlignedDistillationTrainer if "teacher_logits" in rows.column_names else Trainer
    collator = DataCollatorWithPadding(tokenizer)
    trainer = trainer_class(
        model, args, train_dataset=rows, data_collator=collator, processing_class=tokenizer, callbacks=list(callbacks)
    )
    trainer.train()
    trainer.save_model()


class Audits:
    """What the audits say; the answers of every model are kept."""

    def __init__(self, models: Models, folder: Path, n_items: int) -> None:
        self.models, self.data = models, models.data
        self.store = Store(folder / "answers")
        rows = self.data.test
        words = number_bins(text_length(rows, "text"))
        self.groups = {"target": group_membership(rows, "target_groups"), "words": words}
        self.options = AttributionOptions(n_items=n_items, n_mismatches=n_items)

    def answers(self, name: str) -> Predictions:
        """Of a model in its folder, on all posts."""
        return self.store.get(name, lambda: predict(self.models.folder / name, self.data.test, batch_size=64))

    def audit(self, name: str) -> Audit:
        """Of a model against the original, with everything that there is."""
        return audit(
            self.models.folder / "fine-tuned-0",
            self.models.folder / name,
            self.data.test,
            groups=self.groups,
            floor=self.answers("fine-tuned-1"),
            attribution=self.options,
            options=AuditOptions(batch_size=64, contents=True),
        )

    def by_group(self, seeds: Sequence[int]) -> Iterator[str]:
        """Who pays: per group the rates of both losses, means over the seeds, and their difference."""
        reference = self.answers("fine-tuned-0")
        found = {}
        for loss in LOSSES:
            predicted = np.stack([self.answers(f"{loss}-{seed}").predicted for seed in seeds])
            changed = predicted != reference.predicted
            lost = changed & (reference.predicted == reference.labels)
            # The share of the seeds: an item is drawn with all its seeds, as they are no independent items.
            found[loss] = np.stack([changed.mean(0), lost.mean(0), (predicted == reference.labels).mean(0)], axis=1)
        compared = ("aligned", "CE - aligned")
        yield tables.head("group", "n", "mismatches: CE", *compared, "NFR: CE", *compared)
        for name, members in self._members():
            cells = [name, f"{len(members):,}"]
            for column in range(2):
                rates = [found[loss][members, column] for loss in LOSSES]
                difference = mean_estimate(rates[0] - rates[1], n_resamples=10_000)
                cells += [f"{rate.mean():.2%}" for rate in rates]
                cells.append(f"{difference.value:.2%} ({difference.low:.2%} to {difference.high:.2%})")
            yield tables.row(*cells)

    def _members(self) -> Iterator[tuple[str, np.ndarray]]:
        n = len(self.data.test)
        yield "all", np.arange(n)
        for attribute, membership in self.groups.items():
            names = sorted({name for of in membership for name in of})
            for name in names:
                members = np.flatnonzero([name in of for of in membership])
                if len(members) >= MIN_GROUP_SIZE:
                    yield f"{attribute}: {name}", members
        yield "target: none", np.flatnonzero([not of for of in self.groups["target"]])


def main() -> None:
    """Train, audit, print."""
    parser = sst2.parser(__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--attribution_items", type=int, default=200)
    options = parser.parse_args()
    models = Models(options.checkpoint, HateXplain(options.checkpoint, options.data), options.output)
    names = [models.pruned(loss, seed).name for seed in options.seeds for loss in LOSSES]
    models.fine_tuned(1)
    audits = Audits(models, options.output, options.attribution_items)
    print(*audits.by_group(options.seeds), sep="\n", flush=True)
    reference = audits.answers("fine-tuned-0")
    others = {name: audits.answers(name) for name in (*names, "fine-tuned-1")}
    print("", *tables.answers(reference, others), sep="\n", flush=True)
    for seed in options.seeds:
        pair = [audits.answers(f"{loss}-{seed}").predicted for loss in LOSSES]
        print(f"CIE ratio CE / aligned, seed {seed}: {cie_ratio(reference.predicted, *pair, n_resamples=10_000)}")
    found = {name: audits.audit(name) for name in names}
    for name, one in found.items():
        one.save(options.output / f"{name}.json")
        print(f"\n{name}\n\n{one}", flush=True)
    for loss in LOSSES:
        first = f"{loss}-{options.seeds[0]}"
        others = [found[name] for name in names if name != first]
        write_report(options.output / f"{loss}.html", [found[first], *others], title=f"HateXplain, 50 % pruned, {loss}")


if __name__ == "__main__":
    main()
