"""The pixels of images that are asked: drawn at random, and the same ones for every model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hf_compalign.data import MAP_COLUMNS, existing_column
from hf_compalign.labels import IGNORED
from hf_compalign.measure.predictions.items import RowItems
from hf_compalign.tasks import Task

# Pixels of an image are alike, and intervals go over images: more of each would hardly narrow them.
PIXELS_PER_IMAGE = 256


def drawn_places(mark: str, height: int, width: int, *, most: int = PIXELS_PER_IMAGE) -> NDArray[np.int64]:
    """Numbers in [0, height * width) of pixels drawn without replacement, in order; all where there are no more.

    They depend on the row's hash and on the size of its map, so every model is asked the same ones.

    >>> drawn_places("00ff", 2, 2).tolist(), len(drawn_places("00ff", 100, 100))
    ([0, 1, 2, 3], 256)
    """
    n = height * width
    if n <= most:
        return np.arange(n)
    return np.sort(np.random.default_rng([int(mark, 16), height, width]).choice(n, most, replace=False))


@dataclass(frozen=True)
class _Drawn:
    """Of one row: the pixels that are items [n], their labels, `IGNORED` where unknown, and the width of the map."""

    places: NDArray[np.int64]
    labels: NDArray[np.int64]
    width: int


@dataclass
class Pixels:
    """The pixels of each row that are items, drawn when the row is first asked.

    Where all maps have one size, the share of the drawn pixels that changed is a ratio estimate of that of all pixels
    that count: of each map as many are drawn, and those of the ignored label are left out afterwards. Of maps of
    several sizes, an image counts by the share of its pixels that count, whatever their number.

    Attributes:
        task: what is asked.
        config: the model's.
        names: columns of label maps; a row has the first that is there.
        wanted: whether the first must be there.
        most: how many pixels to draw of an image.
    """

    task: Task
    config: Any
    names: tuple[str, ...] = MAP_COLUMNS
    wanted: bool = False
    most: int = PIXELS_PER_IMAGE
    _drawn: dict[int, _Drawn] = field(default_factory=dict)

    def answers(
        self, places: Sequence[int], rows: Sequence[Mapping[str, Any]], marks: Mapping[int, str], answers: Tensor
    ) -> list[Tensor]:
        """The logits [n, C] of the pixels of each of these rows, from the model's answers [B, C, h, w] to them.

        Args:
            places: the numbers of the rows in their dataset.
            rows: with their inputs and label maps.
            marks: row -> its hash, for rows that were not asked before.
            answers: to the batch of them.

        Raises:
            ValueError: a label map is none, or has labels that are not the model's.
        """
        found = []
        for place, row, answer in zip(places, rows, answers, strict=True):
            labels, counts = self._labels(place, row)
            if place not in self._drawn:
                self._drawn[place] = self._of_row(marks[place], labels, counts)
            drawn = self._drawn[place]
            y, x = (torch.from_numpy(one).to(answer.device) for one in np.divmod(drawn.places, drawn.width))
            # One map at a time: scaled up, those of a batch may be as large as the memory.
            found.append(self.task.logits(answer[None], labels[None])[0, y, x].cpu())
        return found

    def items(self) -> RowItems:
        """The pixels of all rows that were asked, called ``<y>,<x>``.

        Raises:
            ValueError: there is none.
        """
        drawn = [self._drawn[row] for row in sorted(self._drawn)]
        rows = np.repeat(np.arange(len(drawn)), [len(one.places) for one in drawn])
        if not rows.size:
            raise ValueError(
                "No image has a pixel that counts: all that were drawn have the ignored label. Give other label maps, "
                "or none at all."
            )
        names = [f"{place // one.width},{place % one.width}" for one in drawn for place in one.places.tolist()]
        labels = np.concatenate([one.labels for one in drawn])
        return RowItems(self.task, labels, names, rows, None, self.task.class_names(self.config))

    def _of_row(self, mark: str, labels: Tensor, counts: Tensor) -> _Drawn:
        height, width = labels.shape
        places = drawn_places(mark, height, width, most=self.most)
        places = places[counts.numpy().ravel()[places]]
        return _Drawn(places, labels.numpy().ravel()[places], width)

    def _labels(self, place: int, row: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        """The label map [height, width] of a row and which pixels count; without one all pixels of its image."""
        name = next((name for name in self.names if name in row), "")
        if self.wanted and not name:
            existing_column([*row], self.names[0])
        if not name:
            size = torch.as_tensor(row[self.task.model_input]).shape[-2:]
            return torch.full(size, IGNORED), torch.ones(size, dtype=torch.bool)
        given, where = row[name], f"column {name!r}, row {place}"
        try:
            given = torch.as_tensor(given).cpu()
            got = f"{list(given.shape)} of {given.dtype}"
        except (TypeError, ValueError, RuntimeError):
            got = f"a {type(given).__name__}"
        if not isinstance(given, Tensor) or given.ndim != 2 or given.is_floating_point():
            raise ValueError(
                f"A label map holds a class id for each pixel, height x width. Got {got} in {where}. Name the column "
                "of label maps: columns=Columns(label=...), or remove this one where there are none."
            )
        labels, counts = self.task.targets(given, {}, self.config)
        known, n = labels[counts], self.config.num_labels
        if known.numel() and not 0 <= int(known.min()) <= int(known.max()) < n:
            outside = known[(known < 0) | (known >= n)][0]
            raise ValueError(
                f"Labels must lie in [0, {n}), or be 255 where a pixel counts for nothing. Got {int(outside)} in "
                f"{where}. Set num_labels= when loading the model, or fix the maps."
            )
        return labels, counts
