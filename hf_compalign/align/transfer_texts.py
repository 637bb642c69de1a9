"""Texts that only a teacher can answer: of two, with tokens left out, masked or replaced."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

Columns = dict[str, Tensor]

TEXT_KINDS = ("splice", "drop", "mask", "replace")

_IDS, _MASK = "input_ids", "attention_mask"
# What a text can lose at most: of its tokens, those that are left out, masked or replaced.
_MOST_TOUCHED = 0.5
_NEIGHBORS = 10
_BLOCK = 256  # tokens whose neighbors are looked for at once


def compact(columns: Columns, kept: Tensor, padding: Mapping[str, int]) -> Columns:
    """The kept tokens of each text, [N, L], at its beginning, and padding behind them.

    >>> kept = torch.tensor([[False, True, True]])
    >>> compact({"input_ids": torch.tensor([[5, 6, 7]])}, kept, {"input_ids": 0})["input_ids"].tolist()
    [[6, 7, 0]]
    """
    order = kept.logical_not().byte().argsort(dim=1, stable=True)
    kept = kept.gather(1, order)
    return {name: values.gather(1, order).where(kept, padding[name]) for name, values in columns.items()}


@dataclass(frozen=True)
class Tokens:
    """What of a model's tokens is not to be touched, and what stands for none.

    Attributes:
        special: ids that give a text its structure, padding included.
        padding: what the columns of a batch hold where there is no token.
        mask: the id of the mask token, if there is one.
        left: whether texts are padded at their beginning, where a batch does not show it.
        longest: how many tokens the models take, if that is limited.
        n_ids: how many ids the tokenizer has; None where that is not known.
    """

    special: tuple[int, ...]
    padding: Mapping[str, int]
    mask: Any = None
    left: bool = False
    longest: int | None = None
    n_ids: int | None = None

    def ordinary(self, columns: Columns) -> Tensor:
        """[N, L] of bool: the tokens that are words."""
        ids = columns[_IDS]
        return (columns[_MASK] != 0) & ~torch.isin(ids, torch.tensor(self.special, dtype=ids.dtype, device=ids.device))


class Texts:
    """The tokens of batches, and the inputs made of them.

    Args:
        tokens: of student and teacher.
        inputs: the names of what the two models take.
        embedding: of the teacher's tokens, for "replace".
    """

    def __init__(self, tokens: Tokens, inputs: frozenset[str] = frozenset(), embedding: Any = None) -> None:
        self.tokens = tokens
        self.padding = tokens.padding
        self._inputs = inputs
        self._embedding = embedding

    def read(self, batch: Mapping[str, Any]) -> Columns:
        """The columns that `made` works on, [B, L], with the padding behind the texts.

        Raises:
            ValueError: the batch has no ids of tokens, or further inputs token by token.
        """
        ids = batch.get(_IDS)
        if not isinstance(ids, Tensor) or ids.ndim != 2:
            got = f"{list(ids.shape)}" if isinstance(ids, Tensor) else "none"
            raise ValueError(
                f"transfer makes texts of texts, from {_IDS!r} [B, L]. Got {got} in a batch of {', '.join(batch)}. "
                "Give tokens instead of embeddings, or leave transfer out."
            )
        further = [
            name
            for name, values in batch.items()
            if name in self._inputs - {*self.padding} and isinstance(values, Tensor) and values.shape[:2] == ids.shape
        ]
        if further:
            raise ValueError(
                f"transfer moves tokens, and {', '.join(further)} of the batch would not follow them. Got "
                f"{', '.join(batch)}; {', '.join(self.padding)} do follow. Leave transfer out for this model."
            )
        columns = {name: batch[name] for name in self.padding if name in batch}
        columns.setdefault(_MASK, (ids != self.padding[_IDS]).to(ids))
        return compact(columns, columns[_MASK] != 0, self.padding)

    def made(self, kind: str, columns: Columns, rows: Tensor, partners: Tensor, generator: Generator) -> Columns:
        """The inputs that take the places of ``rows``, [K, L]."""
        if kind == "splice":
            return splice(columns, rows, partners, torch.rand(2, len(rows), generator=generator), self.tokens)
        own = _at(columns, rows)
        ordinary = self.tokens.ordinary(own)
        touched, draws = _touched(ordinary, generator)
        if kind == "drop":
            # The least likely one stays, so that there is a text.
            last = draws.masked_fill(~ordinary, -1).argmax(1, keepdim=True)
            return compact(own, (own[_MASK] != 0) & ~touched.scatter(1, last, False), self.padding)
        if kind == "mask":
            return own | {_IDS: own[_IDS].masked_fill(touched, self.tokens.mask)}
        picked = torch.rand(touched.shape, generator=generator).to(draws.device)
        neighbors = self._neighbors.to(draws.device)
        which = (picked * neighbors.shape[1]).long().clamp(max=neighbors.shape[1] - 1)
        return own | {_IDS: own[_IDS].where(~touched, neighbors[own[_IDS], which])}

    def written(self, batch: Mapping[str, Any], columns: Columns, chosen: Tensor) -> Columns:
        """The batch's columns with the chosen rows in the place of theirs, padded on the side that the batch shows."""
        own = {name: batch[name] for name in columns if name in batch}
        there = own[_MASK] != 0 if _MASK in own else own[_IDS] != self.padding[_IDS]
        left = ~there[:, 0].all() | (there.all() & self.tokens.left)
        length = (columns[_MASK] != 0).sum(1, keepdim=True)
        width = columns[_IDS].shape[1]
        order = (torch.arange(width, device=length.device) + length.where(left, 0)) % width
        result = {}
        for name, values in own.items():
            further = width - values.shape[1]
            wide = F.pad(values, (0, further), value=self.padding[name])
            wide = wide.roll(further, 1).where(left, wide)
            result[name] = columns[name].gather(1, order).where(chosen[:, None], wide)
        return result

    @cached_property
    def _neighbors(self) -> Tensor:
        """[V, 10], for each id those of the words with the most similar embeddings, by their cosine, without itself."""
        table = self._embedding.weight
        n_ids = len(table)
        with torch.no_grad():
            ids = torch.arange(n_ids, device=table.device)
            directions = F.normalize(self._embedding(ids).float(), dim=-1)
            special = torch.tensor(self.tokens.special, device=table.device)
            unfit = torch.isin(ids, special) | (ids >= (self.tokens.n_ids or n_ids))
            found = []
            for block in ids.split(_BLOCK):
                similar = (directions[block] @ directions.T).masked_fill(unfit, -torch.inf)
                similar[torch.arange(len(block)), block] = -torch.inf
                found.append(similar.topk(min(_NEIGHBORS, int((~unfit).sum()) - 1)).indices)
        return torch.cat(found)


def splice(columns: Columns, rows: Tensor, partners: Tensor, draws: Tensor, tokens: Tokens) -> Columns:
    """The head of one text and the tail of another, cut at the same share of the same segment.

    Segments are what special tokens part, such as the two texts of a pair. One is drawn: what is before it comes from
    the first text, what is behind it from the second, so special tokens and types of tokens stay in their order. Where
    that is too long, the tail begins later, then the head ends earlier. A text without words stays as it is.

    Args:
        columns: [N, L], the texts of a batch, at the beginning of their rows.
        rows: [K], the first texts.
        partners: [K], the second ones.
        draws: [2, K] in [0, 1), of the segment and of the share.
        tokens: which are special.

    Returns:
        [K, L]; of a text with itself, the text.

    >>> ids = torch.tensor([[1, 11, 12, 13, 2, 0], [1, 21, 22, 23, 24, 2]])
    >>> columns = {"input_ids": ids, "attention_mask": (ids > 0).long()}
    >>> tokens = Tokens((0, 1, 2), {"input_ids": 0, "attention_mask": 0})
    >>> splice(columns, *torch.tensor([[0], [1]]), torch.full((2, 1), 0.5), tokens)["input_ids"].tolist()
    [[1, 11, 12, 23, 24, 2]]
    """
    first, second = _at(columns, rows), _at(columns, partners)
    (ordinary_1, segments_1), (ordinary_2, segments_2) = (_segments(tokens.ordinary(text)) for text in (first, second))
    width = ordinary_1.shape[1]
    segment, share = draws.to(ordinary_1.device)
    common = torch.minimum(*(segments.amax(1) + 1 for segments in (segments_1, segments_2)))
    drawn = (segment * common).long()[:, None]
    begin_1, size_1 = _span(ordinary_1 & (segments_1 == drawn))
    begin_2, size_2 = _span(ordinary_2 & (segments_2 == drawn))
    end, resume = begin_1 + _part(share, size_1), begin_2 + _part(share, size_2)
    length_2 = (second[_MASK] != 0).sum(1)
    limit = min(width, tokens.longest or width)
    excess = (end + length_2 - resume - limit).clamp(min=0)
    later = excess.minimum(begin_2 + size_2 - resume)
    resume = resume + later
    end = end - (excess - later).minimum(end - begin_1)
    length = end + length_2 - resume
    mixed = ((size_1 > 0) & (size_2 > 0) & (length <= limit))[:, None]
    place = torch.arange(width, device=end.device)
    of_second = (place - end[:, None] + resume[:, None]).clamp(0, width - 1)
    made = {}
    for name, values in first.items():
        tail = second[name].gather(1, of_second).where(place < length[:, None], tokens.padding[name])
        made[name] = values.where((place < end[:, None]) | ~mixed, tail)
    return made


def _at(columns: Columns, rows: Tensor) -> Columns:
    return {name: values[rows.to(values.device)] for name, values in columns.items()}


def _segments(ordinary: Tensor) -> tuple[Tensor, Tensor]:
    """The words, and the number of the segment up to each place, from 0; -1 before the first."""
    begins = ordinary & ~F.pad(ordinary, (1, 0))[:, :-1]
    return ordinary, begins.cumsum(1) - 1


def _span(inside: Tensor) -> tuple[Tensor, Tensor]:
    """[K], where the places begin, and how many there are."""
    return inside.byte().argmax(1), inside.sum(1)


def _part(share: Tensor, size: Tensor) -> Tensor:
    """The share of so many words, in words: at least one, and where there are more not all."""
    return (1 + (share * (size - 1)).long()).minimum(size)


def _touched(ordinary: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
    """[K, L] of bool: a share ~ U(0, 1/2) of the words of each text, one at least; and the draws behind it."""
    shares = _MOST_TOUCHED * torch.rand(len(ordinary), 1, generator=generator)
    draws = torch.rand(ordinary.shape, generator=generator)
    shares, draws = shares.to(ordinary.device), draws.to(ordinary.device)
    first = draws.masked_fill(~ordinary, 1).argmin(1, keepdim=True)
    return (draws < shares).scatter(1, first, True) & ordinary, draws
