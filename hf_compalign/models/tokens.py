"""Which tokens a model takes: how many in a text, and which ids."""

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from datasets import Dataset
from numpy.typing import NDArray
from torch import Tensor, nn

from hf_compalign.models.file import FileModel, file_models

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_IDS = "input_ids"
# Column of ids -> what the config calls their number.
_NUMBERS = {_IDS: "vocab_size", "token_type_ids": "type_vocab_size"}
# What architectures call their table of positions. Others have relative or computed ones, for texts of any length.
_TABLES = {"position_embeddings", "embed_positions", "wpe", "positions_embed", "char_position_embeddings"}
_BLOCK_ROWS = 10_000


class _Positions(NamedTuple):
    limit: int  # tokens
    padding: int | None  # the id of tokens that take no position


def position_limit(model: "PreTrainedModel") -> int | None:
    """How many tokens a text may have; None if the model's positions are relative or computed."""
    return min((positions.limit for positions in _positions(model)), default=None)


def check_tokens(dataset: Dataset, model: "PreTrainedModel") -> None:
    """Raise a ValueError that names the first row whose tokens the model cannot take."""
    names = [name for name in _NUMBERS if name in dataset.column_names]
    positions = _positions(model)
    rows = dataset.select_columns(names).with_format("arrow")
    for start in range(0, len(rows) if names else 0, _BLOCK_ROWS):
        block = rows[start : start + _BLOCK_ROWS]
        for name in names:
            texts, owners = _texts(block[name])
            found = _problem(name, *_flat(texts, name), model=model, positions=positions)
            if found is not None:
                raise ValueError(f"Row {start + int(owners[found[0]])} {found[1]}")


@contextmanager
def explaining_tokens(model: "PreTrainedModel", batch: Mapping[str, Any]) -> Iterator[None]:
    """Say which tokens of the batch the model cannot take, where it fails on the CPU for that reason."""
    try:
        yield
    except (IndexError, RuntimeError) as error:
        problem = token_problem(model, batch)
        if problem is None:
            raise
        raise ValueError(problem) from error


def token_problem(model: "PreTrainedModel", batch: Mapping[str, Any]) -> str | None:
    """What a model cannot take in a batch on the CPU, or None."""
    for name in _NUMBERS:
        ids = batch.get(name)
        if isinstance(ids, Tensor) and ids.device.type == "cpu" and ids.ndim > 1:
            texts = ids.flatten(0, -2)  # a row of multiple choice, or of windows, has several
            lengths = np.full(len(texts), texts.shape[1])
            found = _problem(name, texts.flatten().numpy(), lengths, model=model, positions=_positions(model))
            if found is not None:
                return f"Row {found[0] * len(ids) // len(texts)} of a batch {found[1]}"
    return None


def _positions(model: "PreTrainedModel") -> list[_Positions]:
    named = getattr(model.config, "max_position_embeddings", None) or np.inf
    found = []
    modules = [pair for part in (model, *map(_skeleton, file_models(model))) for pair in part.named_modules()]
    for name, table in modules:
        if name.rpartition(".")[2] in _TABLES and isinstance(table, nn.Embedding):
            padding = table.padding_idx
            n_positions = min(named, table.num_embeddings - getattr(table, "offset", 0))
            # Where padding has a position of its own, as in RoBERTa, texts begin behind it.
            found.append(_Positions(int(n_positions) - (0 if padding is None else padding + 1), padding))
    return found


def _skeleton(model: FileModel) -> nn.Module:
    """A model of the file's architecture without weights, or the file itself if transformers does not know it."""
    import transformers

    architecture = getattr(transformers, model.architectures[0], None)
    if architecture is None:
        return model
    with torch.device("meta"):
        skeleton: nn.Module = architecture(copy.deepcopy(model.config))
    return skeleton


def _texts(column: Any) -> tuple[Any, NDArray[Any]]:
    """The texts of an Arrow column of ids, and the row of each: multiple choice has several in a row."""
    texts = column.combine_chunks()
    owners = np.arange(len(texts))
    if hasattr(getattr(texts.type, "value_type", None), "value_type"):
        size = getattr(texts.type, "list_size", None)
        return texts.flatten(), np.repeat(owners, size or texts.value_lengths().fill_null(0).to_numpy())
    return texts, owners


def _flat(rows: Any, name: str) -> tuple[NDArray[Any], NDArray[Any]]:
    """The ids of all rows of an Arrow array one after the other, and the length of each row."""
    ids = rows.flatten().to_numpy(zero_copy_only=False) if hasattr(rows, "flatten") else np.array([""])
    if ids.size and ids.dtype.kind not in "iu":
        raise ValueError(f"The column {name!r} must hold lists of whole numbers. Got {rows.type}.")
    size = getattr(rows.type, "list_size", None)
    return ids, rows.value_lengths().fill_null(0).to_numpy() if size is None else np.full(len(rows), size)


def _problem(
    name: str, ids: NDArray[Any], lengths: NDArray[Any], *, model: "PreTrainedModel", positions: list[_Positions]
) -> tuple[int, str] | None:
    """The first row that is wrong, and how; None where all are right."""
    n_ids = getattr(model.config, _NUMBERS[name], None)
    if n_ids and ids.size and not 0 <= ids.min() <= ids.max() < n_ids:
        place = int(np.argmax((ids < 0) | (ids >= n_ids)))
        row = int(np.searchsorted(np.cumsum(lengths), place, side="right"))
        return row, (
            f"holds {ids[place]} in {name!r}, which must lie in [0, {n_ids}) for this {type(model).__name__}. It was "
            "made for another model: use the tokenizer saved beside this one."
        )
    if name != _IDS:
        return None
    if not lengths.all():
        return int(np.argmin(lengths)), "has no tokens. Leave it out, or use a tokenizer that adds special tokens."
    for limit, padding in positions:
        if lengths.max(initial=0) > limit:
            owners = np.repeat(np.arange(len(lengths)), lengths)
            counts = np.bincount(owners, weights=ids != padding if padding is not None else None)
            if counts.max() > limit:
                row = int(np.argmax(counts > limit))
                return row, (
                    f"has {int(counts[row])} tokens, and the model has positions for {limit}. Tokenize with "
                    f"truncation=True, max_length={limit}."
                )
    return None
