"""What the loss costs: its share of an optimizer step for each task and term, and the memory that it takes.

python benchmarks/loss_cost.py [--steps 4] [--batch_size 8] [--length 64] [--hidden_size 384] [--layers 6]

A step is the forward pass of a student with random weights, the loss, the backward pass and AdamW. In every step all
terms are timed one after the other on the same logits, from the logits to their gradient, so that whatever else the
machine does hits them and the step alike. The teacher's logits are there already, as from `cache_teacher_logits`.

The memory is what a term takes at its peak on top of the logits of both models, until the gradient of the student's is
there, as a multiple of the bytes of the student's logits. That gradient is 1 of it.
"""

import argparse
import ctypes
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from rich.console import Console
from rich.table import Table
from torch import Tensor

from hf_compalign import AlignmentArguments
from hf_compalign.align import hidden_loss, masked_mean, task_loss, value_loss
from hf_compalign.align.parts import values_of
from hf_compalign.align.terms import TeacherTerms
from hf_compalign.tasks import Items, hidden_states_of, task_of

PIXELS = 128  # the side of an image to segment
SKIPPED = 2  # the first steps warm the caches up
TERMS = ("task", "agreement", "logits", "margin", "kl", "hidden")
OF_CLASSES = ("agreement", "margin", "kl")


@dataclass(frozen=True)
class Case:
    """A task: its class of models, what its config has besides the size, and the labels of a batch."""

    head: str
    config: Mapping[str, Any]
    labels: Callable[[int, int], Tensor]  # of batch size and length
    choices: int = 0
    hidden: bool = True  # whether hidden states are compared


def _classes(n: int) -> Callable[[int, int], Tensor]:
    return lambda batch, length: torch.randint(0, n, (batch,))


def _of_tokens(n: int) -> Callable[[int, int], Tensor]:
    return lambda batch, length: torch.randint(0, n, (batch, length))


CASES = {
    "one class": Case("BertForSequenceClassification", {"num_labels": 2}, _classes(2)),
    "one class of 1,000": Case("BertForSequenceClassification", {"num_labels": 1000}, _classes(1000)),
    "image, one class of 1,000": Case("ViTForImageClassification", {"num_labels": 1000}, _classes(1000)),
    "1,000 labels": Case(
        "BertForSequenceClassification",
        {"num_labels": 1000, "problem_type": "multi_label_classification"},
        lambda batch, length: torch.randint(0, 2, (batch, 1000)).float(),
    ),
    "regression": Case("BertForSequenceClassification", {"num_labels": 1}, lambda batch, length: torch.randn(batch)),
    "tokens, 9 classes": Case("BertForTokenClassification", {"num_labels": 9}, _of_tokens(9)),
    "tokens, 1,000 classes": Case("BertForTokenClassification", {"num_labels": 1000}, _of_tokens(1000)),
    "multiple choice of 4": Case("BertForMultipleChoice", {}, _classes(4), choices=4),
    "question answering": Case(
        "BertForQuestionAnswering", {}, lambda batch, length: torch.randint(0, length, (batch, 2)).sort(1).values
    ),
    "segmentation, 150 classes": Case(
        "SegformerForSemanticSegmentation",
        {"num_labels": 150},
        lambda batch, length: torch.randint(0, 150, (batch, PIXELS, PIXELS)),
        hidden=False,
    ),
    "masked language model": Case("BertForMaskedLM", {}, _of_tokens(30522)),
    "causal language model": Case("LlamaForCausalLM", {"vocab_size": 30522}, _of_tokens(30522)),
    "encoder-decoder": Case("T5ForConditionalGeneration", {"vocab_size": 30522}, _of_tokens(30522), hidden=False),
}


def model_of(case: Case, options: argparse.Namespace) -> Any:
    """A model of a case with random weights."""
    torch.manual_seed(0)
    size = {"hidden_size": options.hidden_size, "num_hidden_layers": options.layers}
    size |= {"num_attention_heads": options.hidden_size // 32, "intermediate_size": 4 * options.hidden_size}
    cls = getattr(transformers, case.head)
    if cls.main_input_name == "pixel_values" and not case.hidden:
        size = {}  # its own
    if cls.config_class.model_type == "t5":
        size = {"d_model": options.hidden_size, "d_kv": 32, "d_ff": 4 * options.hidden_size}
        size |= {"num_layers": options.layers, "num_heads": options.hidden_size // 32}
    return cls(cls.config_class(**size, **case.config)).train()


def batch_of(case: Case, model: Any, options: argparse.Namespace) -> dict[str, Tensor]:
    """Random texts, all of one length, or images."""
    if model.main_input_name == "pixel_values":
        side = getattr(model.config, "image_size", PIXELS)
        return {"pixel_values": torch.randn(options.batch_size, 3, side, side)}
    shape = (options.batch_size, *([case.choices] if case.choices else []), options.length)
    inputs = {"input_ids": torch.randint(1000, 30000, shape), "attention_mask": torch.ones(shape, dtype=torch.long)}
    return inputs | ({"decoder_input_ids": inputs["input_ids"]} if model.config.is_encoder_decoder else {})


def terms_of(task: Any) -> dict[str, Callable[[Items, Tensor], Tensor]]:
    """Each term of the logits as the trainer computes it: (items, the teacher's logits) -> the loss."""
    own: Any = task_loss if task.categorical else value_loss

    def labels_alone(items: Items, answers: Tensor) -> Tensor:
        return masked_mean(values_of([own], items.logits, None, items.labels)[0], items.labeled)

    found: dict[str, Callable[[Items, Tensor], Tensor]] = {"task": labels_alone}
    for name in TERMS[1:5]:
        if task.categorical or name not in OF_CLASSES:
            weights = dict.fromkeys((f"{one}_weight" for one in ("task", "hidden", *TERMS[1:5])), 0.0)
            found[name] = _alone(TeacherTerms(AlignmentArguments(**(weights | {f"{name}_weight": 1.0}))), name)
    return found


def _alone(terms: TeacherTerms, name: str) -> Callable[[Items, Tensor], Tensor]:
    return lambda items, answers: terms.of_items(items, answers, None)[name]


def synchronized() -> float:
    """Seconds, once the device has done what it was asked."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def shares(case: Case, options: argparse.Namespace) -> dict[str, float]:
    """The median share of a step that each term takes."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = model_of(case, options).to(device)
    batch = {name: value.to(device) for name, value in batch_of(case, model, options).items()}
    labels = case.labels(options.batch_size, options.length).to(device)
    task, optimizer = task_of(model), torch.optim.AdamW(model.parameters())
    terms = terms_of(task)
    found: dict[str, list[float]] = {name: [] for name in (*terms, *(["hidden"] if case.hidden else []))}
    for _ in range(options.steps + SKIPPED):
        began = synchronized()
        outputs = model(**batch, output_hidden_states=case.hidden)
        answer, states = task.answer(outputs), hidden_states_of(outputs) if case.hidden else ()
        forward = synchronized() - began
        leaves = [one.detach().requires_grad_() for one in (answer, *states)]
        wanted = [one + 0.1 * torch.randn_like(one) for one in (answer.detach(), *(one.detach() for one in states))]
        seconds, gradient = {}, None
        for name, term in terms.items():
            leaves[0].grad = None
            began = synchronized()
            items = task.items(leaves[0], labels, batch, model.config)
            term(items, task.logits(wanted[0], items.labels)).backward()
            seconds[name] = synchronized() - began
            gradient = leaves[0].grad if name == "logits" else gradient
        if case.hidden:
            began = synchronized()
            values = hidden_loss(leaves[1:], wanted[1:], batch.get("attention_mask"))
            masked_mean(values, torch.ones_like(values, dtype=torch.bool)).backward()
            seconds["hidden"] = synchronized() - began
        began = synchronized()
        answer.backward(gradient)
        optimizer.step()
        optimizer.zero_grad()
        rest = forward + synchronized() - began
        for name, own in seconds.items():
            found[name].append(own / (rest + own))
    return {name: statistics.median(values[SKIPPED:]) for name, values in found.items()}


def copies(classes: int, items: int) -> dict[str, float]:
    """The peak memory of each term of the logits, in copies of the student's."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu":
        ctypes.CDLL(None).mallopt(-3, 65536)  # M_MMAP_THRESHOLD: what is freed goes back to the system at once
    student = torch.randn(1, items, classes, device=device, requires_grad=True)
    teacher = torch.randn(1, items, classes, device=device)
    labels = torch.randint(0, classes, (1, items), device=device)
    found = {}
    terms = terms_of(task_of(transformers.BertForMaskedLM(transformers.BertConfig(num_hidden_layers=0))))
    paper = TeacherTerms(AlignmentArguments(preset="paper", kl_weight=1.0))
    terms["agreement + logits + kl"] = lambda given, answers: sum(paper.of_items(given, answers, None).values())
    terms["task, of the stock Trainer"] = lambda given, answers: task_loss(given.logits, None, given.labels).mean()
    for name, term in terms.items():
        given = Items(student, labels, torch.ones_like(labels, dtype=torch.bool))
        before = _memory("VmRSS", reset=True)
        term(given, teacher).backward()
        found[name] = (_memory("VmHWM") - before) / (student.numel() * student.element_size())
        student.grad = None
    return found


def _memory(name: str, *, reset: bool = False) -> int:
    """Bytes of this process now, or at its peak since the last reset."""
    if torch.cuda.is_available():
        if reset:
            torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated() if name == "VmRSS" else torch.cuda.max_memory_allocated()
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(name))


def main() -> None:
    """Time, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("steps", 4), ("batch_size", 8), ("length", 64), ("hidden_size", 384), ("layers", 6)):
        parser.add_argument(f"--{name}", type=int, default=default)
    for name, default in (("classes", 50_000), ("items", 1024)):
        parser.add_argument(f"--{name}", type=int, default=default, help="of the logits whose memory is measured")
    options = parser.parse_args()

    console = Console()
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads"
    size = f"batch {options.batch_size} x {options.length} tokens, {options.layers} layers of {options.hidden_size}"
    table = Table("share of a step, %", *TERMS, title=f"{size}, median of {options.steps} steps, {device}")
    for name, case in CASES.items():
        found = shares(case, options)
        table.add_row(name, *(f"{100 * found[term]:.2f}" if term in found else "-" for term in TERMS))
    console.print(table)
    table = Table("term", "copies", title=f"peak memory of {options.items:,} items with {options.classes:,} classes")
    for name, value in copies(options.classes, options.items).items():
        table.add_row(name, f"{value:.2f}")
    console.print(table)


if __name__ == "__main__":
    main()
