"""Tiny models from configs, and data made on the spot."""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    PreTrainedTokenizerFast,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    ViTConfig,
    ViTForImageClassification,
)

VOCABULARY = 40
WORDS = ["[PAD]", "[UNK]", "bad", "good", "film", "book", "the", "a"]  # of `reviews`
NAMED = {"id2label": {0: "neg", 1: "pos"}, "label2id": {"neg": 0, "pos": 1}, "n_labels": 2}

# Two kernels, two shapes of a layer or two places in memory add the same float32 terms in another order, and each sum
# rounds to 24 bits. Over the layers of a tiny model that moves its answers by about a millionth of the largest of
# them. A wrong head, a lost bias or swapped units move them a thousand times as far, as test_cutting.py shows.
ROUNDING = 1e-5


def bert(*, seed: int = 0, n_labels: int = 3, dropout: float = 0.0, **config: Any) -> BertForSequenceClassification:
    torch.manual_seed(seed)
    settings = {
        "vocab_size": VOCABULARY,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "max_position_embeddings": 32,
        "num_labels": n_labels,
        "hidden_dropout_prob": dropout,
        "attention_probs_dropout_prob": dropout,
        # Large enough that the models of two seeds answer differently.
        "initializer_range": 0.2,
    }
    return BertForSequenceClassification(BertConfig(**(settings | config)))


def vit(*, seed: int = 0, n_labels: int = 3, **config: Any) -> ViTForImageClassification:
    torch.manual_seed(seed)
    settings = {
        "image_size": 8,
        "patch_size": 4,
        "num_channels": 1,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "num_labels": n_labels,
        "initializer_range": 0.2,
    }
    return ViTForImageClassification(ViTConfig(**(settings | config)))


def texts(
    n: int = 24, *, n_labels: int = 3, seed: int = 0, length: int = 6, labels: bool = True, unknown: int = 0
) -> Dataset:
    """Rows of random tokens, all of one length; the label is the first token modulo the number of labels.

    Of every `unknown` rows, the first has the label -100.
    """
    rng = np.random.default_rng(seed)
    ids = rng.integers(1, VOCABULARY, size=(n, length))
    columns: dict[str, Any] = {"input_ids": ids.tolist(), "attention_mask": np.ones_like(ids).tolist()}
    if labels:
        known = np.arange(n) % unknown > 0 if unknown else True
        columns["labels"] = np.where(known, ids[:, 0] % n_labels, -100).tolist()
    return Dataset.from_dict(columns)


def tokenizer(*words: str) -> PreTrainedTokenizerFast:
    """The words given, or those of `reviews`, separated by spaces."""
    vocabulary = {word: index for index, word in enumerate(words or WORDS)}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]", model_max_length=32)


def reviews(**columns: Any) -> Dataset:
    """Five raw texts of different lengths for a model that is `NAMED`."""
    rows = ["the good film", "a bad book", "good", "the film the film", "a bad film bad book"]
    return Dataset.from_dict({"text": rows, "label": [1, 0, 1, 0, 0]} | columns)


def images(n: int = 24, *, n_labels: int = 3, seed: int = 0) -> Dataset:
    """Rows of 1 x 8 x 8 noise whose mean tells the label."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, n_labels, size=n)
    pixels = rng.normal(size=(n, 1, 8, 8)) + labels[:, None, None, None]
    return Dataset.from_dict({"pixel_values": pixels.astype(np.float32).tolist(), "labels": labels.tolist()})


def batch(rows: Dataset, *names: str) -> dict[str, torch.Tensor]:
    """All rows as one batch, of the columns named or of all."""
    return {name: torch.tensor(rows[name][:]) for name in names or rows.column_names}


def arguments(folder: Any, **settings: Any) -> TrainingArguments:
    """Two epochs on batches of 4, quiet, on the CPU; saves, logs and evaluates where steps to do so are given."""
    quiet: dict[str, Any] = {"disable_tqdm": True, "use_cpu": True, "seed": 3}
    for event in ("save", "logging", "eval"):
        quiet[f"{event}_strategy"] = "steps" if f"{event}_steps" in settings else "no"
    steps = {"per_device_train_batch_size": 4, "per_device_eval_batch_size": 4, "num_train_epochs": 2}
    return TrainingArguments(output_dir=str(folder), **(quiet | steps | {"learning_rate": 1e-3} | settings))


def trainer(folder: Any, model: torch.nn.Module, *callbacks: Any, **settings: Any) -> Trainer:
    """A stock Trainer of 12 optimizer steps on texts, with others to evaluate on."""
    data = {"train_dataset": texts(), "eval_dataset": texts(10, seed=5)}
    return Trainer(model, arguments(folder, **settings), callbacks=list(callbacks), **data)


class Batches(Trainer):
    """Notes the inputs of every training step, and the random state before it."""

    def training_step(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        self.seen = [*getattr(self, "seen", []), (inputs["input_ids"].clone(), torch.get_rng_state())]
        return super().training_step(model, inputs, *args, **kwargs)


class Watch(TrainerCallback):
    """Keeps something of the model at every step, once the callbacks before it have acted."""

    def __init__(self, look: Callable[[Any], Any]) -> None:
        self.look = look
        self.seen: list[Any] = []

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        model.eval()
        self.seen.append(self.look(model))
        model.train()


class Stop(TrainerCallback):
    """Ends the training after a step: in good order, or by an interrupt."""

    def __init__(self, step: int, *, interrupt: bool = False) -> None:
        self.step = step
        self.interrupt = interrupt

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            if self.interrupt:
                raise KeyboardInterrupt
            control.should_training_stop = True


@contextmanager
def unchanged(model: torch.nn.Module, *, config: bool = True) -> Iterator[None]:
    """What is done inside leaves the weights, to the bit, as they were; and the config, which a Trainer adds to."""
    settings, weights = model.config.to_dict(), copy.deepcopy(model.state_dict())
    yield
    now = model.state_dict()
    assert list(now) == list(weights)
    assert all(torch.equal(now[name].nan_to_num(), value.nan_to_num()) for name, value in weights.items())
    assert not config or model.config.to_dict() == settings


def differing(n, *where):
    """n answers that differ from a reference of zeros at the given items."""
    answers = np.zeros(n, dtype=int)
    answers[list(where)] = 1
    return answers


def without_equal_tensors(model: torch.nn.Module) -> torch.nn.Module:
    """An exported file holds equal tensors once, such as biases of 0, which its parameters would then lack."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def flat(model: torch.nn.Module) -> torch.Tensor:
    """All parameters of a model as one vector."""
    return torch.cat([parameter.detach().reshape(-1) for parameter in model.parameters()])


def distance(actual: Any, expected: Any) -> float:
    """The largest difference of two tensors, arrays or lists of one shape, as a share of the largest expected value.

    What is computed in another shape, place or order must be closer than ROUNDING. Weights, masks, files, states of
    optimizers and trainings that are resumed are compared with torch.equal.
    """
    one, other = (torch.as_tensor(values, dtype=torch.float64).detach() for values in (actual, expected))
    assert one.shape == other.shape
    return float((one - other).abs().max() / other.abs().max())
