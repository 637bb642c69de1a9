"""Do attributions improve by themselves, or must they be forced? One pruned model recovered with the term and without.

    python benchmarks/attributions.py --original MODEL --train TRAIN --test TEST --output OUT [--seeds 0 1 2]

MODEL is a fine-tuned classifier of texts; TRAIN and TEST hold texts and labels. Half of its weights are pruned by
second order at once, and then it is trained on 2,000 rows, drawn by the seed, for one epoch: with the labels alone,
with the default loss, and with the default loss and the attribution term at a weight of 1. The term compares the
gradients of the embeddings, as saliency does; layer integrated gradients are what no loss has seen.

The rule: nothing is chosen; all are audited on the first 2,000 rows of TEST, and 100 of these are explained. The
question is answered by the differences to the default loss, with Student's 95 % intervals over the seeds: forcing helps
where that of the term is above 0 for integrated gradients. A run that is there is not run again.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from scipy import stats
from tables import head, row
from torch.utils.data import DataLoader
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainingArguments,
)

from hf_compalign import (
    AlignedDistillationTrainer,
    AlignmentArguments,
    AttributionOptions,
    AuditOptions,
    PruningCallback,
    attribution_agreement,
    audit,
    prune_,
)
from hf_compalign.data import find_label_column, find_text_columns, load_file, tokenized

TRAIN_ROWS, TEST_ROWS, CALIBRATION_ROWS = 2000, 2000, 512
INPUTS = ("input_ids", "attention_mask")
MAX_TOKENS = 64
METHODS = ("layer_integrated_gradients", "saliency")
DEFAULT = "default loss"
ARMS: dict[str, dict[str, Any]] = {
    "labels alone": {"preset": "labels"},
    DEFAULT: {},
    "and gradients": {"attribution_weight": 1.0},
}
MEASURES = ("mismatches", *(f"{method}, {name}" for method in METHODS for name in ("cosine", "spearman")))


def prepared(path: str, rows: Dataset, *, seed: int) -> Dataset:
    """Some rows of the training data as tokens."""
    rows = rows.shuffle(seed=seed).select(range(min(TRAIN_ROWS, len(rows))))
    tokens = tokenized(rows, _tokenizer(path), find_text_columns(rows))
    return tokens.rename_column(find_label_column(rows), "labels").select_columns([*INPUTS, "labels"])


def start(path: str, rows: Dataset, folder: Path) -> Path:
    """The pruned model, kept in the folder and made once."""
    if not (folder / "config.json").is_file():
        model = AutoModelForSequenceClassification.from_pretrained(path).eval()
        calibration = rows.select(range(min(CALIBRATION_ROWS, len(rows)))).select_columns([*INPUTS])
        prune_(model, 0.5, score="obs", calibration=DataLoader(calibration, 32, collate_fn=_padded(path)))
        model.save_pretrained(folder)
    return folder


def _tokenizer(path: str) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(path, model_max_length=MAX_TOKENS)


def _padded(path: str) -> DataCollatorWithPadding:
    return DataCollatorWithPadding(_tokenizer(path))


def recovered(path: str, begin: Path, rows: Dataset, folder: Path, *, arm: str, seed: int) -> PreTrainedModel:
    """The pruned model after its training."""
    original, student = (AutoModelForSequenceClassification.from_pretrained(one) for one in (path, begin))
    args = TrainingArguments(
        str(folder),
        num_train_epochs=1,
        learning_rate=2e-5,
        per_device_train_batch_size=16,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        seed=seed,
    )
    trainer = AlignedDistillationTrainer(
        student,
        args,
        teacher=original,
        alignment=AlignmentArguments(**ARMS[arm]),
        train_dataset=rows,
        processing_class=_tokenizer(path),
        data_collator=_padded(path),
        callbacks=[PruningCallback.holding(student)],
    )
    trainer.train()
    return student.eval()


def measured(path: str, student: PreTrainedModel, rows: Dataset) -> dict[str, float]:
    """How many answers change, and how alike what both models look at is."""
    tokenizer, original = _tokenizer(path), AutoModelForSequenceClassification.from_pretrained(path).eval()
    found = audit(original, student, rows, options=AuditOptions(processing_class=tokenizer))
    both = found.predictions["reference"], found.predictions["candidate"]
    values = {"mismatches": float(found.metrics["cie"])}
    for method in METHODS:
        options = AttributionOptions(method, n_items=100, n_mismatches=0, n_steps=16)
        agreement, _ = attribution_agreement(
            original, student, rows, predictions=both, processing_class=tokenizer, options=options
        )
        values |= {f"{method}, {one.similarity}": one.all.value for one in agreement.rows}
    return values


def main() -> None:
    """Train, explain, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("original", "train", "test"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    train, test = load_file(options.train), load_file(options.test)
    test = test.select(range(min(TEST_ROWS, len(test))))
    found: dict[str, list[dict[str, float]]] = {arm: [] for arm in ARMS}
    for seed in options.seeds:
        rows = prepared(options.original, train, seed=seed)
        begin = start(options.original, rows, options.output / f"start-{seed}")
        for arm, values in found.items():
            path = options.output / f"{arm}-{seed}.json"
            if not path.is_file():
                student = recovered(options.original, begin, rows, options.output / "run", arm=arm, seed=seed)
                path.write_text(json.dumps(measured(options.original, student, test)))
            values.append(json.loads(path.read_text()))
            print(arm, seed, values[-1], flush=True)
    print(head("loss", *MEASURES))
    for arm, values in found.items():
        print(row(arm, *(_cell(values, found[DEFAULT], name) for name in MEASURES)))


def _cell(values: list[dict[str, float]], beside: list[dict[str, float]], name: str) -> str:
    """The mean over the seeds, and the difference to the default loss with its interval."""
    own, other = ([one[name] for one in of] for of in (values, beside))
    form = ".0f" if name == "mismatches" else ".3f"
    mean = f"{np.mean(own):{form}}"
    if own == other:
        return mean
    differences = np.subtract(own, other)
    reach = stats.t.ppf(0.975, len(own) - 1) * stats.sem(differences)
    low, high = differences.mean() - reach, differences.mean() + reach
    return f"{mean} ({differences.mean():+{form}}, {low:+{form}} to {high:+{form}})"


if __name__ == "__main__":
    main()
