"""Compress a text classifier in a training loop of your own, with Accelerate and without a Trainer.

The original is a fine-tuned model; a copy of it is pruned while it learns to keep the original's answers:

    python examples/run_no_trainer.py --teacher_name_or_path my-org/my-classifier --train_file train.csv \
        --validation_file validation.csv --sparsity 0.5 --output_dir outputs/own

With several processes: `accelerate launch --num_processes 2` and the same flags. The loop spells out what
`AlignedDistillationTrainer(alignment=AlignmentArguments(preset="paper"))` and `PruningCallback` do; they also resume,
evaluate, log and save checkpoints.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DataLoaderConfiguration
from datasets import Dataset
from torch.utils.data import DataLoader
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    HfArgumentParser,
    get_scheduler,
    set_seed,
)

from hf_compalign import audit, predict
from hf_compalign.align import Weighting, agreement_loss, logits_loss, masked_mean, task_loss
from hf_compalign.compress import prunable_weights, sparsity_of
from hf_compalign.compress.callbacks import SCHEDULES
from hf_compalign.compress.prune import check_sparsity, compute_masks, magnitude
from hf_compalign.data import find_text_columns, label_column_of, load_file, tokenized, with_label_ids
from hf_compalign.labels import IGNORED, names_of
from hf_compalign.models import position_limit

TERMS = {"task": task_loss, "agreement": agreement_loss, "logits": logits_loss}


@dataclass
class Arguments:
    """What to train, on what, and how."""

    teacher_name_or_path: str = field(metadata={"help": "The original: a fine-tuned classifier with its tokenizer."})
    train_file: str = field(metadata={"help": "Training data: parquet, csv or json."})
    validation_file: str = field(metadata={"help": "Data for the audit: parquet, csv or json."})
    output_dir: str = field(metadata={"help": "Where the pruned model goes."})
    text_column_names: list[str] | None = field(
        default=None, metadata={"help": "The text column, or the two of a pair."}
    )
    label_column_name: str | None = field(default=None, metadata={"help": "The label column."})
    max_seq_length: int = field(default=128, metadata={"help": "Longer texts are truncated to so many tokens."})
    per_device_train_batch_size: int = field(default=8, metadata={"help": "Items of a process in one forward pass."})
    gradient_accumulation_steps: int = field(default=1, metadata={"help": "Batches of a process in an optimizer step."})
    num_train_epochs: int = field(default=3, metadata={"help": "Passes over the training data."})
    learning_rate: float = field(default=5e-5, metadata={"help": "The highest; it falls to 0 in a straight line."})
    weights: list[float] = field(
        default_factory=lambda: [1.0, 1.0, 1.0], metadata={"help": f"Weights of the losses: {', '.join(TERMS)}."}
    )
    sparsity: float = field(default=0.5, metadata={"help": "The share of the weights to prune, in [0, 1)."})
    seed: int = field(default=42, metadata={"help": "Of the order of the training data."})

    def __post_init__(self) -> None:
        check_sparsity(self.sparsity)
        if len(self.weights) != len(TERMS):
            raise ValueError(f"weights must be {len(TERMS)} numbers, for {', '.join(TERMS)}. Got {self.weights}.")


class Pruning:
    """Masks that follow a schedule over the first half of the training and are held from there on."""

    def __init__(self, model: torch.nn.Module, sparsity: float, *, n_steps: int) -> None:
        self.weights = prunable_weights(model)
        self.sparsity = sparsity
        self.final_step = math.ceil(n_steps / 2)
        self.every = max(1, self.final_step // 20)
        self.masks: dict[str, torch.Tensor] = {}

    def after(self, step: int) -> None:
        """Apply the masks, and choose more weights where the schedule says so; after each optimizer step."""
        self._apply()  # the step has moved the pruned weights, which must not be judged as if they were back
        if step == self.final_step or (step < self.final_step and step % self.every == 0):
            share = self.sparsity * SCHEDULES["cubic"](step / self.final_step)
            scores = {name: magnitude(weight) for name, weight in self.weights.items()}
            self.masks = compute_masks(scores, share, pattern="global")
            self._apply()

    @torch.no_grad()
    def _apply(self) -> None:
        for name, mask in self.masks.items():
            self.weights[name].mul_(mask)


def steps_of(batches: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """The batches of each optimizer step; the last step may have fewer."""
    rest = iter(batches)
    while step := list(islice(rest, size)):
        yield step


def counted(labels: torch.Tensor) -> torch.Tensor:
    """Which items count for each term, bool [K, B]: the teacher answers all, and not all need have a label."""
    everyone = torch.ones_like(labels, dtype=torch.bool)
    return torch.stack([labels != IGNORED if name == "task" else everyone for name in TERMS])


def backward(
    accelerator: Accelerator, student: Any, teacher: Any, *, weighting: Weighting, batches: Sequence[Any]
) -> torch.Tensor:
    """The gradient of one optimizer step, and its losses [K]: means over all items of all batches and processes."""
    items = torch.cat([counted(batch["labels"]) for batch in batches], dim=1).sum(1)
    # DDP averages the gradients over the processes: each divides its sums by its share of all items.
    counts = accelerator.reduce(items.float(), "sum") / accelerator.num_processes
    losses = torch.zeros_like(counts)
    for index, batch in enumerate(batches, start=1):
        labels = batch["labels"]
        inputs = {name: values for name, values in batch.items() if name != "labels"}
        with torch.no_grad():
            wanted = teacher(**inputs).logits
        # The gradients of all but the last batch stay in their process.
        with nullcontext() if index == len(batches) else accelerator.no_sync(student):
            logits = student(**inputs).logits
            terms = [
                masked_mean(term(logits, wanted, labels), mask, count)
                for term, mask, count in zip(TERMS.values(), counted(labels), counts, strict=True)
            ]
            accelerator.backward(weighting(torch.stack(terms), batches=len(batches)))
        losses += torch.stack(terms).detach()
    return accelerator.reduce(losses, "mean")


def train(accelerator: Accelerator, student: Any, teacher: Any, *, loader: DataLoader, args: Arguments) -> None:
    """The loop over the optimizer steps."""
    optimizer = torch.optim.AdamW(student.parameters(), lr=args.learning_rate)
    model, optimizer, loader = accelerator.prepare(student, optimizer, loader)
    n_steps = args.num_train_epochs * math.ceil(len(loader) / args.gradient_accumulation_steps)
    scheduler = get_scheduler("linear", optimizer, num_warmup_steps=0, num_training_steps=n_steps)
    # RandomWeighting, RoundRobinWeighting and SoftAdaptWeighting can take its place.
    weighting = Weighting(args.weights).to(accelerator.device)
    pruning = Pruning(student, args.sparsity, n_steps=n_steps)
    teacher.to(accelerator.device).eval()
    model.eval()  # without dropout, which would keep the student from the teacher's answers at random
    epochs = (steps_of(loader, args.gradient_accumulation_steps) for _ in range(args.num_train_epochs))
    for step, batches in enumerate(chain.from_iterable(epochs), start=1):
        losses = backward(accelerator, model, teacher, weighting=weighting, batches=batches)
        accelerator.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
        pruning.after(step)
        weighting.step(losses, step)
        told = ", ".join(f"{name} {loss:.6f}" for name, loss in zip(TERMS, losses.tolist(), strict=True))
        accelerator.print(f"step {step} of {n_steps}: {told}, sparsity {sparsity_of(pruning.weights):.4f}")


def main(argv: Sequence[str] | None = None) -> None:
    """Load, train, save, audit."""
    (args,) = HfArgumentParser(Arguments).parse_args_into_dataclasses(argv)
    accelerator = Accelerator(dataloader_config=DataLoaderConfiguration(use_seedable_sampler=True))
    set_seed(args.seed)
    tokenizer = AutoTokenizer.from_pretrained(args.teacher_name_or_path)
    tokenizer.model_max_length = min(args.max_seq_length, tokenizer.model_max_length)
    teacher, student = (AutoModelForSequenceClassification.from_pretrained(args.teacher_name_or_path) for _ in range(2))

    def prepared(path: str) -> Dataset:
        rows = load_file(path)
        label = label_column_of(rows, args.label_column_name)
        texts = find_text_columns(rows, args.text_column_names, labels=label)
        rows = with_label_ids(rows.select_columns([*texts, label]), label, names_of(teacher.config.id2label))
        return tokenized(rows, tokenizer, texts, longest=position_limit(teacher)).remove_columns(list(texts))

    with accelerator.main_process_first():  # the others read what it has computed
        train_rows, validation_rows = prepared(args.train_file), prepared(args.validation_file)
    collator = DataCollatorWithPadding(tokenizer)
    loader = DataLoader(train_rows, args.per_device_train_batch_size, shuffle=True, collate_fn=collator)
    train(accelerator, student, teacher, loader=loader, args=args)

    if accelerator.is_main_process:
        student.save_pretrained(args.output_dir)
        tokenizer.save_pretrained(args.output_dir)
        models = (teacher, AutoModelForSequenceClassification.from_pretrained(args.output_dir))
        answers = (predict(model, validation_rows, data_collator=collator) for model in models)
        print(audit(*answers))
    accelerator.end_training()


if __name__ == "__main__":
    main()
