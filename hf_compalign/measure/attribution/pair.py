"""Two models explained on the same rows, for the same logits: those of the reference's answers."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from numpy.typing import NDArray
from torch import Tensor
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from hf_compalign.data import rows_at
from hf_compalign.labels import label_order, names_of
from hf_compalign.measure.attribution.items import Logit
from hf_compalign.measure.attribution.methods import Attribution, Attributor, Batch, check_installed, randomized
from hf_compalign.measure.attribution.options import IMAGE, TEXT, AttributionOptions, check_explainable
from hf_compalign.measure.attribution.record import DECIMALS, Explanation
from hf_compalign.measure.predictions import Columns, Predictions, Reader, reader_of
from hf_compalign.models import evaluating, input_names, starts_at, unpadded_ids
from hf_compalign.tasks import LABELERS, Task

# The special tokens in a config, for want of a tokenizer.
_SPECIAL = ("pad_token_id", "bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id")


@dataclass(frozen=True)
class Explained:
    """One item as two models see it."""

    target: int  # the explained answer
    tokens: tuple[str, ...]  # of a text, those with a score
    reference: Attribution
    candidate: Attribution
    floor: Attribution | None = None  # the reference with random weights; None unless wanted, or if these are fixed
    repeat: Attribution | None = None  # the reference with another baseline; None unless wanted

    def explanation(self) -> Explanation:
        """Both models' scores, each divided by its largest."""
        shape = self.reference.shape
        return Explanation(
            kind=TEXT if shape is None else IMAGE,
            target=self.target,
            tokens=self.tokens,
            shape=shape,
            reference=_scaled(self.reference.scores),
            candidate=_scaled(self.candidate.scores),
        )


@dataclass(frozen=True)
class Pair:
    """Two models to explain side by side, and how."""

    reference: Reader
    candidate: Reader
    kind: str  # "text" or "image"
    columns: Columns
    options: AttributionOptions  # with the method

    def explained(self, dataset: Dataset, wanted: Sequence[Logit], *, n_bounded: int = 0) -> list[Explained]:
        """These logits explained, the shortest texts first.

        Both models must be in evaluation mode. The first ``n_bounded`` logits get a floor and a repeat.
        """
        chosen = dataset.select([one.row for one in wanted])
        ours, theirs = (side.prepared(chosen, self.columns) for side in (self.reference, self.candidate))
        lengths = _check_same_tokens(ours, theirs) if self.kind == TEXT else [0] * len(wanted)
        order = sorted(range(len(wanted)), key=lambda place: (place >= n_bounded, lengths[place]))
        # No batch has some of the first logits and some of the others.
        halves, size = (order[:n_bounded], order[n_bounded:]), self.options.batch_size
        parts = [half[start : start + size] for half in halves for start in range(0, len(half), size)]
        columns, makers, explained = self._columns(), self._attributors(), {}
        for part in tqdm(parts, desc="Explaining", leave=False):
            asked = [wanted[place] for place in part]
            moved = [replace(one, column=columns[one.column]) for one in asked]
            first = self._batch(self.reference, ours, part, asked)
            second = self._batch(self.candidate, theirs, part, moved)
            self._check_same_size(first, second)
            found = {
                name: maker.explain(second if name == "candidate" else first)
                for name, maker in makers.items()
                if part[0] < n_bounded or name in ("reference", "candidate")
            }
            tokens = self._tokens(first)
            for index, place in enumerate(part):
                scores = {name: items[index] for name, items in found.items()}
                explained[place] = Explained(wanted[place].answer, tokens[index], **scores)
        return [explained[place] for place in range(len(wanted))]

    def _check_first(self, dataset: Dataset) -> None:
        """Explain the first row in one step: what cannot be explained is refused before all rows are asked."""
        quick = replace(self, options=replace(self.options, n_steps=1))
        first = Logit(row=0, column=0, place=0 if self.reference.task.label_depth == 1 else None, answer=0)
        try:
            with evaluating(self.reference.network, self.candidate.network):
                quick.explained(dataset, [first])
        except ValueError:
            raise
        except Exception as error:
            who = " or ".join({type(side.network).__name__: None for side in (self.reference, self.candidate)})
            instead = "Use method='occlusion'" if self.kind == IMAGE else "Compare models of another architecture"
            raise ValueError(
                f"{self.options.method} cannot explain {who}: on the first row there is {type(error).__name__}: "
                f"{' '.join(str(error).split()):.300}. {instead}, or leave the attribution out."
            ) from error

    def _attributors(self) -> dict[str, Attributor]:
        """Field of an `Explained` -> what makes it."""
        method = self.options.method_for(self.kind)
        reference = Attributor(self.reference.network, method, self.options)
        found = {
            "reference": reference,
            "candidate": replace(reference, model=self.candidate.network),
            "repeat": replace(reference, varied=True),
        }
        weights = randomized(self.reference.network, seed=self.options.seed)
        return found | {"floor": replace(reference, replaced=weights)} if weights else found

    def _columns(self) -> list[int]:
        """Where each class or label of the reference stands among the candidate's."""
        ours, theirs = (names_of(side.network.config.id2label) for side in (self.reference, self.candidate))
        order = label_order(ours, theirs)
        return [*range(len(ours))] if order is None else [*order]

    def _batch(self, side: Reader, prepared: Dataset, part: list[int], asked: list[Logit]) -> Batch:
        known, device = input_names(side.network), side.network.device
        placed = {name: value.to(device) for name, value in side.batch(prepared, part).items() if name in known}
        targets, rows = torch.tensor([one.column for one in asked], device=device), [one.row for one in asked]
        if self.kind == IMAGE:
            return Batch(placed, targets, rows)
        special, blanks = _special_ids(side)
        ids = placed["input_ids"]
        is_special = torch.isin(ids, torch.tensor(special, dtype=ids.dtype, device=device))
        content = ~is_special & placed.get("attention_mask", torch.ones_like(ids)).bool()
        own = unpadded_ids(rows_at(prepared, part, ["input_ids"]), side.task)
        return Batch(placed, targets, rows, content, _places(asked, own, ids), *blanks)

    def _tokens(self, batch: Batch) -> list[tuple[str, ...]]:
        if batch.content is None:
            return [()] * len(batch.rows)
        ids = [row[kept].tolist() for row, kept in zip(batch.inputs["input_ids"], batch.content, strict=True)]
        named = getattr(self.reference.processing_class, "convert_ids_to_tokens", None)
        return [tuple(map(str, row if named is None else named(row))) for row in ids]

    def _check_same_size(self, ours: Batch, theirs: Batch) -> None:
        if self.kind == TEXT:
            return
        sizes = [tuple(batch.inputs["pixel_values"].shape[-2:]) for batch in (ours, theirs)]
        if sizes[0] != sizes[1]:
            raise ValueError(
                "To compare attributions, both models must read an image in the same size. Got "
                f"{' x '.join(map(str, sizes[0]))} and {' x '.join(map(str, sizes[1]))} pixels. Pass "
                "processing_class=, one image processor for both, if both can take its size."
            )


def opened_pair(
    reference: Any,
    candidate: Any,
    dataset: Dataset,
    *,
    processing_class: Any = None,
    columns: Columns | None = None,
    options: AttributionOptions | None = None,
) -> Pair:
    """Two models opened to explain them on a dataset, if the method can: it is tried on the first row."""
    check_installed()
    options = options or AttributionOptions()
    for model in (reference, candidate):
        _check_is_model(model)
    how = {"processing_class": processing_class, "device": options.device}
    sides = [reader_of(model, dataset, **how) for model in (reference, candidate)]
    kind = _kind_of(*(side.task for side in sides))
    method = options.method_for(kind)
    for side in sides:
        check_explainable(side.network, method)
    pair = Pair(sides[0], sides[1], kind, Columns.of(columns), replace(options, method=method))
    pair._columns()  # refuses other labels before anything is computed
    pair._check_first(dataset)
    return pair


def _check_is_model(model: PreTrainedModel | str | Path | Predictions) -> None:
    if isinstance(model, Predictions) or (isinstance(model, str | Path) and Path(model).suffix == ".npz"):
        what = "Predictions" if isinstance(model, Predictions) else str(model)
        raise ValueError(
            f"{what} hold answers, not the model that gave them, and only a model can be explained. Give the model: "
            "a module, its folder or its id on the Hub."
        )


def _kind_of(ours: Task, theirs: Task) -> str:
    """What both models read, if they answer the same questions, and these have explanations."""
    for task in (ours, theirs):
        if task not in LABELERS and task.label_depth != 1:
            raise ValueError(
                "An explanation is of a class of a text or image, of one of its labels, or of the class of a word. Got "
                f"a model for {task}. Leave the attribution out."
            )
    if str(ours) != str(theirs):
        raise ValueError(f"The two models must answer the same questions. Got {ours} and {theirs}.")
    return IMAGE if ours.model_input == "pixel_values" else TEXT


def _places(asked: list[Logit], own: list[list[int]], ids: Tensor) -> Tensor | None:
    """Where the tokens that answer stand in padded rows [B, L]; None where whole rows answer."""
    starts = [starts_at(row, padded) for row, padded in zip(own, ids.tolist(), strict=True)]
    found = [start + one.place for start, one in zip(starts, asked, strict=True) if one.place is not None]
    return torch.tensor(found, device=ids.device) if found else None


def _check_same_tokens(ours: Dataset, theirs: Dataset) -> list[int]:
    """The lengths of the rows."""
    first, second = (dataset.select_columns(["input_ids"])[:]["input_ids"] for dataset in (ours, theirs))
    for place, (a, b) in enumerate(zip(first, second, strict=True)):
        if list(a) != list(b):
            raise ValueError(
                f"The two models must read the same tokens to look at the same things. Explained text {place} becomes "
                f"{len(a)} tokens for the reference and {len(b)} for the candidate, beginning {list(a)[:5]} and "
                f"{list(b)[:5]}. Compare models with one tokenizer; if both can take it, pass it as processing_class=."
            )
    return [len(row) for row in first]


def _special_ids(side: Reader) -> tuple[list[int], tuple[int | None, int | None]]:
    """The tokens that stand for no part of a text; and two baselines: padding, and the mask or unknown token."""
    processor = side.processing_class
    if hasattr(processor, "all_special_ids"):
        pad, unknown = processor.pad_token_id, processor.unk_token_id
        others = [_known(side, one) for one in (processor.mask_token_id, unknown)]
        other = next((one for one in others if one not in (None, pad)), None)
        # An unknown word is a word nevertheless.
        return sorted({*processor.all_special_ids} - {unknown}), (_known(side, pad), other)
    found = [getattr(side.network.config, name, None) for name in _SPECIAL]
    return [one for one in found if isinstance(one, int)], (_known(side, found[0]), None)


def _known(side: Reader, token: Any) -> int | None:
    """The token, if the model has an embedding of it: a tokenizer may number more than it was resized for."""
    n_known = getattr(side.network.get_input_embeddings(), "num_embeddings", math.inf)
    return token if isinstance(token, int) and 0 <= token < n_known else None


def _scaled(scores: NDArray[np.float64]) -> tuple[float, ...]:
    largest = np.abs(scores).max(initial=0.0)
    return tuple(np.round(scores / largest if largest > 0 else scores, DECIMALS).tolist())
