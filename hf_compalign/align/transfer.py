"""Inputs that only a teacher can answer, made from the batches of a training while it goes on."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from hf_compalign.align.answered import LOGITS_COLUMN
from hf_compalign.align.transfer_images import Images
from hf_compalign.align.transfer_texts import Texts
from hf_compalign.labels import IGNORED

NEEDS_LIVE_TEACHER = (
    "transfer makes inputs that only a live teacher can answer: cached logits are of other ones. Pass teacher= and "
    f"remove the column {LOGITS_COLUMN!r} from the train dataset, or leave transfer out."
)


class Transfer:
    """Replaces a share of every batch by inputs made from the whole of it, without labels.

    The share is exact on average: of 5 items at 0.5, 2 or 3. Partners are other items of the batch, those of all
    processes; the only item of a batch has none but itself, and a mixture with itself is the item. The draws depend on
    the seed, the optimizer step and the batch's number in it alone, so a run that is resumed makes the same inputs.
    "Knowledge distillation: a good teacher is patient and consistent", https://huggingface.co/papers/2106.05237

    Args:
        share: of the items, in (0, 1].
        kinds: one is drawn for each item.
        inputs: `Images` or `Texts`.
        label: the name of the labels' column.
    """

    def __init__(self, share: float, kinds: Sequence[str], inputs: Images | Texts, *, label: str) -> None:
        self.share = share
        self.kinds = tuple(kinds)
        self._inputs = inputs
        self._label = label

    def __call__(self, batches: Sequence[Any], seed: int, step: int, accelerator: Any) -> list[Any]:
        """The batches of an optimizer step, each replaced in part.

        Raises:
            ValueError: a batch has cached logits, or inputs that nothing can be made of.
        """
        made = []
        for index, batch in enumerate(batches):
            drawn = np.random.SeedSequence((seed, step, index)).generate_state(1, np.uint64)
            made.append(self._replaced(batch, Generator().manual_seed(int(drawn[0])), accelerator))
        return made

    def _replaced(self, batch: Mapping[str, Any], generator: Generator, accelerator: Any) -> dict[str, Any]:
        if LOGITS_COLUMN in batch:
            raise ValueError(NEEDS_LIVE_TEACHER)
        whole, own = gathered(self._inputs.read(batch), self._inputs.padding, accelerator)
        n = len(next(iter(whole.values())))
        rows = torch.randperm(n, generator=generator)[
            : int(self.share * n + torch.rand((), generator=generator).item())
        ]
        partners = (rows + torch.randint(1, max(n, 2), (len(rows),), generator=generator)) % n
        drawn = torch.randint(len(self.kinds), (len(rows),), generator=generator)
        changed = {name: values.clone() for name, values in whole.items()}
        for number, kind in enumerate(self.kinds):
            of_kind = drawn == number
            if of_kind.any():
                made = self._inputs.made(kind, whole, rows[of_kind], partners[of_kind], generator)
                for name, values in made.items():
                    changed[name][rows[of_kind]] = values
        device = next(iter(whole.values())).device
        chosen = torch.zeros(n, dtype=torch.bool).index_fill(0, rows, True)[own].to(device)
        written = self._inputs.written(batch, {name: values[own] for name, values in changed.items()}, chosen)
        labels = batch.get(self._label)
        if labels is not None:
            written[self._label] = labels.masked_fill(chosen.view(-1, *[1] * (labels.ndim - 1)), IGNORED)
        return {**batch, **written}


def gathered(
    columns: dict[str, Tensor], padding: Mapping[str, int], accelerator: Any
) -> tuple[dict[str, Tensor], slice]:
    """The rows of all processes' batches, one after the other, filled up to one width; and which are this one's.

    Raises:
        ValueError: images of several sizes.
    """
    values = next(iter(columns.values()))
    if accelerator.num_processes == 1:
        return columns, slice(0, len(values))
    shapes = accelerator.gather(torch.tensor([values.shape], device=values.device)).tolist()
    if values.ndim > 2 and any(shape[1:] != shapes[0][1:] for shape in shapes):
        raise ValueError(
            f"transfer mixes images of one shape. Got {', '.join(map(str, shapes))} on the processes. Give the image "
            "processor one size, or leave transfer out."
        )
    most = [max(sizes) for sizes in zip(*shapes, strict=True)]
    missing = [(0, size - own) for size, own in zip(most, values.shape, strict=True)]
    ends = [amount for pair in reversed(missing) for amount in pair]
    counts = [shape[0] for shape in shapes]
    whole = {}
    for name, column in columns.items():
        parts = accelerator.gather(F.pad(column, ends, value=padding[name])).split(most[0])
        whole[name] = torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])
    begin = sum(counts[: accelerator.process_index])
    return whole, slice(begin, begin + len(values))
