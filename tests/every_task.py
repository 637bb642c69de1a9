"""A tiny model of every task, with rows of uneven lengths and a collator that pads them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import zoo
from datasets import Dataset
from torch import nn
from transformers import (
    ASTConfig,
    ASTForAudioClassification,
    GPT2Config,
    GPT2LMHeadModel,
    SegformerConfig,
    SegformerForSemanticSegmentation,
    T5Config,
    T5ForConditionalGeneration,
)

from hf_compalign import read_in_windows

PADDING = 1  # as the configs of the zoo have it
N_LABELS = 3
MULTI = {"problem_type": "multi_label_classification"}


@dataclass(frozen=True)
class Case:
    """How to build a model of a task and rows for it."""

    model: Callable[[int], Any]
    rows: Callable[[int, Any], Dataset]
    labels: tuple[str, ...] = ("labels",)
    cached: bool = True


def padded(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """One batch, every column as long as its longest row."""
    batch = {}
    for name in rows[0]:
        values = [torch.as_tensor(row[name]) for row in rows]
        longest = [max(sizes) for sizes in zip(*(value.shape for value in values), strict=True)]
        fill = {"labels": -100, "input_ids": PADDING}.get(name, 0)
        batch[name] = torch.stack([_filled(value, longest, fill) for value in values])
    return batch


def _filled(value: torch.Tensor, sizes: list[int], fill: int) -> torch.Tensor:
    ends = [end for size, own in zip(reversed(sizes), reversed(value.shape), strict=True) for end in (0, size - own)]
    return F.pad(value, ends, value=fill)


def batch(dataset: Dataset) -> dict[str, torch.Tensor]:
    """All rows as one padded batch."""
    return padded(list(dataset))


def _texts(n: int, rng: Any, *, shortest: int = 3, longest: int = 9) -> dict[str, list[Any]]:
    ids = [rng.integers(4, 40, rng.integers(shortest, longest + 1)).tolist() for _ in range(n)]
    return {"input_ids": ids, "attention_mask": [[1] * len(row) for row in ids]}


def _of_tokens(n: int, rng: Any) -> Dataset:
    columns = _texts(n, rng)
    labels = [[-100, *rng.integers(0, N_LABELS, len(row) - 2).tolist(), -100] for row in columns["input_ids"]]
    return Dataset.from_dict(columns | {"labels": labels})


def _several(n: int, rng: Any) -> list[list[float]]:
    return rng.integers(0, 2, (n, N_LABELS)).astype(float).tolist()


def _spans(n: int, rng: Any, length: int = 10) -> Dataset:
    """Texts filled up to one length, since padding takes part; in every fourth the answer is beyond it."""
    columns = _texts(n, rng, longest=length)
    lengths = [len(row) for row in columns["input_ids"]]
    filled = {
        name: [row + [fill] * (length - len(row)) for row in columns[name]]
        for name, fill in (("input_ids", PADDING), ("attention_mask", 0))
    }
    start = [length if index % 4 == 3 else int(rng.integers(0, own)) for index, own in enumerate(lengths)]
    end = [max(first, own - 1) for first, own in zip(start, lengths, strict=True)]
    return Dataset.from_dict(filled | {"start_positions": start, "end_positions": end})


def _choices(n: int, rng: Any) -> Dataset:
    lengths = rng.integers(3, 8, n)
    ids = [rng.integers(4, 40, (3, length)).tolist() for length in lengths]
    masks = [np.ones((3, length), dtype=int).tolist() for length in lengths]
    return Dataset.from_dict({"input_ids": ids, "attention_mask": masks, "labels": rng.integers(0, 3, n).tolist()})


def _windows(n: int, rng: Any) -> Dataset:
    ids = [rng.integers(4, 40, (rng.integers(1, 4), rng.integers(3, 8))) for _ in range(n)]
    masks = [np.ones_like(row).tolist() for row in ids]
    labels = rng.integers(0, N_LABELS, n).tolist()
    return Dataset.from_dict({"input_ids": [row.tolist() for row in ids], "attention_mask": masks, "labels": labels})


def _masked(n: int, rng: Any) -> Dataset:
    columns = _texts(n, rng)
    labels = [[token if rng.random() < 0.4 else -100 for token in row] for row in columns["input_ids"]]
    return Dataset.from_dict(columns | {"labels": labels})


def _continued(n: int, rng: Any) -> Dataset:
    columns = _texts(n, rng)
    return Dataset.from_dict(columns | {"labels": columns["input_ids"]})


def _translated(n: int, rng: Any) -> Dataset:
    return Dataset.from_dict(_texts(n, rng) | {"labels": _texts(n, rng)["input_ids"]})


def _images(n: int, rng: Any) -> list[Any]:
    return rng.normal(size=(n, 1, 8, 8)).astype(np.float32).tolist()


def _maps(n: int, rng: Any) -> Dataset:
    labels = rng.integers(0, N_LABELS, (n, 8, 8))
    labels[rng.random(labels.shape) < 0.2] = 255
    pixels = rng.normal(size=(n, 3, 8, 8)).astype(np.float32)
    return Dataset.from_dict({"pixel_values": pixels.tolist(), "labels": labels.tolist()})


def _sounds(n: int, rng: Any) -> Dataset:
    values = rng.normal(size=(n, 16, 8)).astype(np.float32).tolist()
    return Dataset.from_dict({"input_values": values, "labels": rng.integers(0, N_LABELS, n).tolist()})


def _gpt2(seed: int) -> Any:
    torch.manual_seed(seed)
    drops = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
    sizes = {"vocab_size": 40, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32}
    return GPT2LMHeadModel(GPT2Config(**sizes, **drops, initializer_range=0.2, pad_token_id=PADDING))


def _t5(seed: int) -> Any:
    torch.manual_seed(seed)
    sizes = {"vocab_size": 40, "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2}
    return T5ForConditionalGeneration(
        T5Config(**sizes, dropout_rate=0.0, pad_token_id=PADDING, decoder_start_token_id=PADDING, eos_token_id=2)
    )


def _ast(seed: int) -> Any:
    torch.manual_seed(seed)
    sizes = {name: zoo.TEXT[name] for name in ("hidden_size", "num_hidden_layers", "num_attention_heads")}
    shape = {"patch_size": 4, "frequency_stride": 4, "time_stride": 4, "max_length": 16, "num_mel_bins": 8}
    config = ASTConfig(**sizes, **shape, intermediate_size=24, initializer_range=0.2, num_labels=N_LABELS)
    return ASTForAudioClassification(config)


def _segformer(seed: int) -> Any:
    torch.manual_seed(seed)
    per_block = {"depths": [1] * 2, "sr_ratios": [2, 1], "hidden_sizes": [8, 16], "patch_sizes": [3, 3]}
    per_block |= {"strides": [2, 2], "num_attention_heads": [1, 2], "mlp_ratios": [2, 2]}
    config = SegformerConfig(
        num_encoder_blocks=2,
        **per_block,
        decoder_hidden_size=16,
        drop_path_rate=0.0,
        classifier_dropout_prob=0.0,
        initializer_range=0.2,
        num_labels=N_LABELS,
    )
    model = SegformerForSemanticSegmentation(config)
    # Its statistics of a batch would differ between one batch and its parts.
    model.decode_head.batch_norm = nn.Identity()
    return model


def _bert(head: str | None = None, **config: Any) -> Callable[[int], Any]:
    return lambda seed: zoo.build("bert", head=head, seed=seed, **config)


CASES = {
    "token-classification": Case(_bert("ForTokenClassification"), _of_tokens),
    "text-multi-label": Case(
        _bert(**MULTI), lambda n, rng: Dataset.from_dict(_texts(n, rng) | {"labels": _several(n, rng)})
    ),
    "image-multi-label": Case(
        lambda seed: zoo.build("vit", seed=seed, hidden_dropout_prob=0.0, **MULTI),
        lambda n, rng: Dataset.from_dict({"pixel_values": _images(n, rng), "labels": _several(n, rng)}),
    ),
    "windows": Case(lambda seed: read_in_windows(zoo.build("bert", seed=seed), length=8, stride=2), _windows),
    "regression": Case(
        _bert(num_labels=1), lambda n, rng: Dataset.from_dict(_texts(n, rng) | {"labels": rng.normal(size=n).tolist()})
    ),
    "regression of two": Case(
        _bert(num_labels=2, problem_type="regression"),
        lambda n, rng: Dataset.from_dict(_texts(n, rng) | {"labels": rng.normal(size=(n, 2)).tolist()}),
    ),
    "multiple-choice": Case(_bert("ForMultipleChoice"), _choices),
    "question-answering": Case(_bert("ForQuestionAnswering"), _spans, ("start_positions", "end_positions")),
    "fill-mask": Case(_bert("ForMaskedLM"), _masked, cached=False),
    "text-generation": Case(_gpt2, _continued, cached=False),
    "text2text-generation": Case(_t5, _translated, cached=False),
    "audio-classification": Case(_ast, _sounds),
    "image-segmentation": Case(_segformer, _maps, cached=False),
}


def rows(name: str, n: int, *, seed: int = 0) -> Dataset:
    """So many rows for the model of a case."""
    return CASES[name].rows(n, np.random.default_rng(seed))
