"""What a model looks at: one score for each token of a text, or each cell of a grid over an image.

All methods but occlusion follow the gradients of one logit. The model stays as it is: no mode, gradient or weight
changes.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call

from hf_compalign._extras import needs_extra
from hf_compalign.measure.attribution.options import INTEGRATED, OCCLUSION, AttributionOptions
from hf_compalign.measure.attribution.record import NOISED
from hf_compalign.models import is_quantized
from hf_compalign.tasks import logits_of

MOST_CELLS = 16  # along a side of the grid over an image, as a page can show
NOISE = 0.1  # in place of another baseline, as a share of the standard deviation of the input


@dataclass(frozen=True)
class Batch:
    """B rows as one model reads them, and the class or label whose logit is to explain."""

    inputs: Mapping[str, Tensor]  # [B, ...], on the model's device
    targets: Tensor  # int64 [B]
    rows: Sequence[int]  # B numbers that seed the noise of each row
    content: Tensor | None = None  # bool [B, L], the tokens that are neither special nor padding; None for images
    places: Tensor | None = None  # int64 [B], the token whose logit it is; None where the whole row has one
    pad_id: int | None = None  # the token that stands for no word, if there is one
    mask_id: int | None = None  # another one


@dataclass(frozen=True)
class Attribution:
    """The scores of one item, signed but for saliency: of its D content tokens, or of its cells, row by row."""

    scores: NDArray[np.float64]
    shape: tuple[int, int] | None = None  # rows and columns of the cells; None for a text
    delta: float = math.nan  # sum of the scores - difference; nan without integral
    difference: float = math.nan  # of the logit to that of the baseline


@dataclass(frozen=True)
class Attributor:
    """A way to explain a model in evaluation mode, by one of `METHODS`.

    ``replaced`` parameters, such as `randomized` ones, take the place of the model's own. ``varied`` takes the mask
    token instead of padding as the baseline, or the image's mean color instead of 0. A method without a baseline then
    reads its input with noise of a tenth of the item's standard deviation.
    """

    model: nn.Module
    method: str
    options: AttributionOptions
    replaced: Mapping[str, Tensor] = field(default_factory=dict)
    varied: bool = False

    def explain(self, batch: Batch) -> list[Attribution]:
        """The attribution of each row."""
        if batch.content is None:
            grid, deltas, differences = self._of_images(batch)
            shape, rows = (grid.shape[1], grid.shape[2]), [*grid.flatten(1)]
        else:
            scores, deltas, differences = self._of_texts(batch, batch.content)
            shape, rows = None, [row[kept] for row, kept in zip(scores, batch.content, strict=True)]
        numbers = (np.asarray(row.detach().cpu().double()) for row in rows)
        return [Attribution(row, shape, *about) for row, *about in zip(numbers, deltas, differences, strict=True)]

    def _of_texts(self, batch: Batch, content: Tensor) -> tuple[Tensor, list[float], list[float]]:
        """Scores [B, L] of the word embeddings, summed over their features."""
        tables = word_tables(self.model)
        embedding: Any = tables[0]
        with torch.no_grad():
            values = start = embedding(batch.inputs["input_ids"]).detach()
            if self.method in INTEGRATED:
                start = torch.where(content[..., None], self._blank(embedding, batch), values)

        others = (*batch.inputs.values(), *([] if batch.places is None else [batch.places]))

        def answer(read: Tensor, *beside: Tensor) -> Tensor:
            given = dict(zip(batch.inputs, beside, strict=False))  # the places may come after them
            hooks = [table.register_forward_hook(partial(_in_place, given["input_ids"], read)) for table in tables]
            try:
                logits = self._logits(given)
            finally:
                for hook in hooks:
                    hook.remove()
            if batch.places is None:
                return logits
            return logits[torch.arange(len(logits), device=logits.device), beside[-1]]

        if self.varied:
            values = self._noised(values, batch.rows, content)
        found, deltas, differences = self._attributed(answer, values, start, batch, others)
        return found.sum(-1), deltas, differences

    def _blank(self, embedding: Any, batch: Batch) -> Tensor:
        """What stands for no word, [H]."""
        token = batch.mask_id if self.varied else batch.pad_id
        if token is not None:
            return embedding(torch.tensor(token, device=batch.targets.device))
        return embedding.weight.detach().float().mean(0).to(embedding.weight.dtype) * float(self.varied)

    def _of_images(self, batch: Batch) -> tuple[Tensor, list[float], list[float]]:
        """Scores [B, rows, columns] of the pixels, summed over the channels and pixels of each cell."""
        pixels = batch.inputs["pixel_values"]
        if pixels.ndim != 4:
            raise ValueError(
                f"{type(self.model).__name__} reads an image as {' x '.join(map(str, pixels.shape[1:]))} numbers and "
                "not as channels, height and width, so that there is no grid over it to explain. Leave the attribution "
                "out, or compare models that read whole images."
            )
        start = torch.zeros_like(pixels)
        if self.varied:
            start = start + pixels.mean((2, 3), keepdim=True)
            pixels = self._noised(pixels, batch.rows, torch.ones_like(pixels[:, 0], dtype=torch.bool))

        def answer(read: Tensor) -> Tensor:
            return self._logits({"pixel_values": read})

        cell = cell_size(self.model.config, pixels.shape[-2:])
        if self.method == OCCLUSION:
            grid = self._occluded(answer, pixels, start, batch.targets, cell)
            return grid, *([math.nan] * len(grid),) * 2
        found, deltas, differences = self._attributed(answer, pixels, start, batch)
        grid = F.avg_pool2d(found.sum(1, keepdim=True), cell, ceil_mode=True, divisor_override=1)[:, 0]
        return grid, deltas, differences

    def _attributed(
        self,
        answer: Callable[..., Tensor],
        values: Tensor,
        start: Tensor,
        batch: Batch,
        others: tuple[Tensor, ...] | None = None,
    ) -> tuple[Tensor, list[float], list[float]]:
        """Scores in the shape of the values, and the delta and difference of each row."""
        from captum.attr import InputXGradient, IntegratedGradients, Saliency

        about: dict[str, Any] = {"target": batch.targets, "additional_forward_args": others}
        if self.method in INTEGRATED:
            rows = max(self.options.batch_size, len(values))
            about |= {"n_steps": self.options.n_steps, "internal_batch_size": rows, "return_convergence_delta": True}
            found, deltas = IntegratedGradients(answer).attribute(values, start, **about)
            found = found.detach()
            return found, deltas.tolist(), (found.flatten(1).sum(1) - deltas).tolist()
        simple = Saliency(answer) if self.method == "saliency" else InputXGradient(answer)
        found = simple.attribute(values.requires_grad_(), **about).detach()
        return found, *([math.nan] * len(values),) * 2

    def _occluded(
        self, answer: Callable[..., Tensor], pixels: Tensor, start: Tensor, targets: Tensor, cell: tuple[int, int]
    ) -> Tensor:
        """How much the logit falls when each cell in turn shows the baseline, [B, rows, columns]."""
        from captum.attr import Occlusion

        window = (pixels.shape[1], *cell)
        at_once = max(1, self.options.batch_size // len(pixels))
        found = Occlusion(answer).attribute(
            pixels, window, window, start, target=targets, perturbations_per_eval=at_once
        )
        return found[:, 0, :: cell[0], :: cell[1]]  # alike within a cell

    def _logits(self, inputs: Mapping[str, Tensor]) -> Tensor:
        logits = logits_of(functional_call(self.model, dict(self.replaced), (), dict(inputs)))
        return logits if logits.dtype == torch.float64 else logits.float()

    def _noised(self, values: Tensor, rows: Sequence[int], where: Tensor) -> Tensor:
        """With noise that does not depend on the batch; unchanged for a method with a baseline."""
        if self.method not in NOISED:
            return values
        channels_last = values if values.ndim == 3 else values.movedim(1, -1)
        noised = channels_last.clone()
        for index, (row, here) in enumerate(zip(rows, where, strict=True)):
            own = channels_last[index][here]
            noise = np.random.default_rng([self.options.seed, row]).standard_normal(tuple(own.shape))
            spread = NOISE * own.float().std(correction=0) if own.numel() else 0.0
            noised[index][here] = own + (torch.from_numpy(noise).to(own) * spread).to(own)
        return noised if values.ndim == 3 else noised.movedim(-1, 1)


def check_installed() -> None:
    """Raise an ImportError with the pip command if captum is missing."""
    with needs_extra("attribution", what="Explaining what a model looks at"):
        import captum.attr  # noqa: F401


def cell_size(config: Any, size: Sequence[int]) -> tuple[int, int]:
    """Height and width of the cells over an image: as few patches of the model as make no more than 16 cells a side.

    >>> from transformers import ViTConfig
    >>> cell_size(ViTConfig(patch_size=16), (224, 224)), cell_size(ViTConfig(patch_size=14), (518, 518))
    ((16, 16), (42, 42))

    ``size`` is the height and width of the image. Without a ``patch_size`` in the config a patch is a pixel.
    """
    patch = getattr(config, "patch_size", None) or 1
    patches = (patch, patch) if isinstance(patch, int) else tuple(patch)[-2:]
    height, width = (
        min(side, one * math.ceil(math.ceil(side / one) / MOST_CELLS)) for one, side in zip(patches, size, strict=True)
    )
    return height, width


def word_tables(model: nn.Module) -> list[nn.Module]:
    """The modules that look up words: an encoder and a decoder have one each, of the same weights."""
    words: nn.Module = model.get_input_embeddings()  # type: ignore[operator]
    tables = [module for module in model.modules() if isinstance(module, nn.Embedding)]
    return [words, *(table for table in tables if table is not words and table.weight is words.weight)]


def _in_place(ids: Tensor, read: Tensor, table: nn.Module, args: tuple[Any, ...], output: Any) -> Tensor:
    """What a table of words gives to a model, with ``read`` [B, L, H] in place of its own for the tokens [B, L].

    A model looks them up as they stand, perhaps with more padding; a decoder one place later; XLNet token by token.
    """
    looked_up, length = args[0], ids.shape[1]
    for shift in (0, 1) if isinstance(output, Tensor) and looked_up.ndim == 2 else ():
        n = min(length, looked_up.shape[1] - shift)
        if n >= length - shift and torch.equal(looked_up[:, shift : shift + n], ids[:, :n]):
            return torch.cat([output[:, :shift], read[:, :n], output[:, shift + n :]], 1)
    if torch.equal(looked_up, ids.T):
        return read.transpose(0, 1)
    raise ValueError(
        f"{type(table).__name__} looks up words in an order or form that cannot be traced back to the tokens of the "
        "text, so that they cannot be explained. Leave the attribution out, or compare models of another architecture."
    )


def randomized(model: nn.Module, *, seed: int) -> dict[str, Tensor]:
    """Every matrix of a model but the word embeddings, drawn anew from a normal distribution of the same scale.

    A random head alone makes no other model: what the head of a fine-tuned classifier reads points in one direction for
    each answer, so any head finds the same tokens (https://huggingface.co/papers/1810.03292 randomizes the layers too).

    Returns:
        Name -> values; nothing for a file, or for a model whose weights a library holds in another form.
    """
    named = dict(model.named_parameters())
    if any(map(is_quantized, named.values())):
        return {}
    words = [word_tables(model)[0].weight] if getattr(model, "main_input_name", None) == "input_ids" else []
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(one.shape, generator=generator).to(one) * one.detach().square().mean().sqrt()
        for name, one in named.items()
        if one.ndim > 1 and not any(one is word for word in words)
    }
