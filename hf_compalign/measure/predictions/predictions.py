"""What one model answered, item by item."""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from hf_compalign._files import atomic_path, built_from, parsed
from hf_compalign._records import built, plain
from hf_compalign.labels import IGNORED, label_order
from hf_compalign.measure.predictions.npz import read_npz
from hf_compalign.measure.statistics import each_block, row_blocks
from hf_compalign.models import Runtime

# Files without examples, version 1, are what earlier versions of this library read.
FORMAT_VERSION = 2
# The arrays of a file, and what they are of: kinds of numpy's types.
_ARRAYS = {"logits": "f", "labels": "i", "ids": "U", "mask": "b"}
_OPTIONAL = {"examples": "i"}
# The hash of a row that equals others.
_NUMBERED = re.compile(r"[0-9a-f]+#\d+")
_EQUAL_ROWS = (
    "Some rows are equal, and nothing but their order tells which is which. Name a column of ids with "
    "columns=Columns(id=...), --id-column on the command line, or predict both on the same dataset."
)
# The item of a pixel, as `Pixels` names it.
_PIXEL = re.compile(r".*/\d+,\d+")
_OTHER_PIXELS = (
    "Both models must read images in one size, and be asked as many pixels of each: give one image processor for both "
    "(processing_class=), and predict both with the same Columns(pixels_per_image=...)."
)
_TEXTS = ("model", "model_fingerprint", "data_fingerprint")


@dataclass(frozen=True, eq=False)
class Predictions:
    """One model's logits over N items and C labels, ready to pair with another model's.

    >>> Predictions([[2.0, 0.0], [0.0, 1.0]], [0, -100], ["a", "b"], ["no", "yes"]).predicted
    array([0, 1])

    Attributes:
        logits: float32 or float16 [N, C], finite; other numbers become float32. Nothing is copied, so memory-mapped
            logits (``np.load("logits.npy", mmap_mode="r")``) stay on disk.
        labels: int64 [N], in [0, C), or -100 where unknown.
        ids: str [N], all different. They pair the predictions of two models.
        label_names: C names, in the order of the logits' columns.
        mask: bool [N], the items that count at all; by default all of them.
        examples: int64 [N], which example each item belongs to, such as the text of a token; None where each item is an
            example of its own. Items of one example are alike, so intervals are over examples.
        model: where the model came from, for people.
        model_fingerprint: of its weights; empty when unknown.
        data_fingerprint: of the inputs, in any order; empty when unknown.
        runtime: what computed the logits; None when unknown.

    Raises:
        ValueError: anything above does not hold.
    """

    logits: NDArray[np.floating[Any]]
    labels: NDArray[np.int64]
    ids: NDArray[np.str_]
    label_names: tuple[str, ...]
    mask: NDArray[np.bool_] = None  # type: ignore[assignment]  # __post_init__ makes it an array
    model: str = ""
    model_fingerprint: str = ""
    data_fingerprint: str = ""
    runtime: Runtime | None = None
    examples: NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        labels = np.asarray(self.labels)
        if labels.size and labels.dtype.kind not in "iu":
            raise ValueError(f"labels must be integers, -100 where unknown. Got {labels.dtype}.")
        logits = np.asarray(self.logits)
        if logits.dtype != np.float16:
            # A float64 beyond float32 becomes inf here, and the check below refuses it.
            with np.errstate(over="ignore"):
                logits = logits.astype(np.float32, copy=False)
        converted = {
            "logits": logits,
            "labels": labels.astype(np.int64, copy=False),
            "ids": np.asarray(self.ids).astype(np.str_, copy=False),
            "label_names": tuple(map(str, self.label_names)),
            "mask": np.ones(len(labels), dtype=bool) if self.mask is None else np.asarray(self.mask, dtype=bool),
        }
        if self.examples is not None:
            converted["examples"] = np.asarray(self.examples).astype(np.int64, copy=False)
        for name, value in converted.items():
            object.__setattr__(self, name, value)
        self._check_shapes()
        self._check_values()

    def _check_shapes(self) -> None:
        if self.logits.ndim != 2:
            raise ValueError(f"logits must have shape [N, C]. Got {list(self.logits.shape)}.")
        n, n_labels = self.logits.shape
        if n == 0:
            raise ValueError("There are no predictions: logits have 0 rows. Give a dataset that is not empty.")
        if n_labels < 2:
            raise ValueError(f"A choice needs at least 2 labels. Got logits with {n_labels} column(s).")
        given = ("labels", "ids", "mask", *(["examples"] if self.examples is not None else []))
        for name in given:
            shape = getattr(self, name).shape
            if shape != (n,):
                raise ValueError(f"{name} must have one entry per row of the {n} logits. Got {list(shape)}.")
        if len(self.label_names) != n_labels:
            raise ValueError(
                f"label_names must name the {n_labels} columns of the logits. Got {len(self.label_names)}."
            )

    def _check_values(self) -> None:
        broken = ~self._by_row(lambda logits: np.isfinite(logits).all(axis=1))
        if broken.any():
            raise ValueError(
                f"logits must be finite. {broken.sum()} of {len(self)} items have NaN or infinite logits, "
                f"the first is id {self._first_id(broken)}. Check the model's weights and precision."
            )
        n_labels = len(self.label_names)
        outside = (self.labels != IGNORED) & ((self.labels < 0) | (self.labels >= n_labels))
        if outside.any():
            raise ValueError(
                f"labels must be in [0, {n_labels}), or -100 where unknown. {outside.sum()} are not, the first is "
                f"{self.labels[outside][0]} at id {self._first_id(outside)}."
            )
        unique, counts = np.unique(self.ids, return_counts=True)
        if len(unique) < len(self.ids):
            raise ValueError(
                f"ids must differ from each other, since they pair the items. {(counts > 1).sum()} appear more than "
                f"once, such as {str(unique[counts > 1][0])!r}."
            )

    def _first_id(self, where: NDArray[np.bool_]) -> str:
        return repr(str(self.ids[where][0]))

    def _by_row(self, function: Callable[[NDArray[Any]], NDArray[Any]]) -> NDArray[Any]:
        """Apply a function [n, C] -> [n] to the logits block by block, without a second copy of them."""
        blocks = row_blocks(*self.logits.shape)
        return np.concatenate(each_block(lambda rows: function(self.logits[rows]), blocks))

    def __len__(self) -> int:
        return len(self.logits)

    @cached_property
    def predicted(self) -> NDArray[np.int64]:
        """The answers, int64 [N]: the column with the largest logit."""
        # numpy is slow at comparing half floats.
        return self._by_row(lambda logits: logits.astype(np.float32, copy=False).argmax(axis=1)).astype(np.int64)

    @property
    def probabilities(self) -> NDArray[np.float64]:
        """softmax(logits), float64 [N, C]."""
        return softmax(self.logits.astype(np.float64), axis=-1)

    def aligned_to(self, reference: "Predictions") -> "Predictions":
        """Put the items and label columns into the reference's order.

        Ids pair the items, and label names the columns. The order of neither dataset nor ``id2label`` matters; but only
        a column of ids tells equal rows apart.

        Raises:
            ValueError: the items or label names differ, or known labels contradict each other.
        """
        columns = label_order(reference.label_names, self.label_names)
        in_order = columns is None and np.array_equal(self.ids, reference.ids)
        moved = self if in_order else self._moved(self._rows_of(reference), columns)
        known = (moved.labels != IGNORED) & (reference.labels != IGNORED)
        contradicting = known & (moved.labels != reference.labels)
        if contradicting.any():
            order = any(_NUMBERED.fullmatch(name) for name in moved.ids[contradicting].tolist())
            raise ValueError(
                f"The same item must have the same label on both sides. {contradicting.sum()} of "
                f"{known.sum()} differ, the first is id {moved._first_id(contradicting)}. "
                + (_EQUAL_ROWS if order else "Predict both on the same dataset.")
            )
        return moved

    def _moved(self, rows: NDArray[np.int64], columns: Sequence[int] | None) -> "Predictions":
        """These rows and columns in this order; all columns if None."""
        labels, names = self.labels[rows], self.label_names
        if columns is not None:
            names = tuple(names[column] for column in columns)
            labels[labels != IGNORED] = np.argsort(columns)[labels[labels != IGNORED]]
        # Always in C order: the memory layout decides how sums over the classes round.
        logits = np.empty(self.logits.shape, dtype=self.logits.dtype)
        for block in row_blocks(*logits.shape):
            logits[block] = self.logits[rows[block]][:, slice(None) if columns is None else columns]
        ids, mask = self.ids[rows], self.mask[rows]
        examples = None if self.examples is None else self.examples[rows]
        return replace(self, logits=logits, labels=labels, ids=ids, label_names=names, mask=mask, examples=examples)

    def _rows_of(self, reference: "Predictions") -> NDArray[np.int64]:
        """Our row of each of the reference's items."""
        place = {name: row for row, name in enumerate(self.ids.tolist())}
        theirs = reference.ids.tolist()
        missing = [name for name in theirs if name not in place]
        extra = sorted(place.keys() - set(theirs))
        if missing or extra:
            of_pixels = any(map(_PIXEL.fullmatch, (*missing, *extra)))
            raise ValueError(
                "Both predictions must cover the same items. "
                f"{len(missing)} of the reference's {len(theirs)} items are missing{_examples(missing)}, and "
                f"{len(extra)} are not in the reference{_examples(extra)}. "
                + (_OTHER_PIXELS if of_pixels else "Predict both on the same dataset.")
            )
        return np.array([place[name] for name in theirs], dtype=np.int64)

    def save(self, path: str | Path) -> None:
        """Write one .npz file without pickle. It is whole or not there.

        Raises:
            ValueError: the path does not end in .npz.
        """
        if Path(path).suffix != ".npz":
            raise ValueError(f"Predictions are saved as .npz. Got {str(path)!r}. Use that suffix.")
        version = 1 if self.examples is None else FORMAT_VERSION
        about = {"format_version": version} | {name: getattr(self, name) for name in ("label_names", *_TEXTS)}
        about["runtime"] = plain(self.runtime)
        arrays = {name: getattr(self, name) for name in _ARRAYS}
        if self.examples is not None:
            arrays["examples"] = self.examples
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, about=np.array(json.dumps(about)), **arrays)

    @classmethod
    def load(cls, path: str | Path) -> "Predictions":
        """Read what `save` wrote.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is not an .npz of predictions, or a newer version of this library wrote it.
        """
        stored = read_npz(Path(path), ("about", *_ARRAYS, *_OPTIONAL))
        missing = [name for name in ("about", *_ARRAYS) if name not in stored]
        if missing:
            raise ValueError(
                f"{path} is an .npz file but not one of predictions: it lacks {', '.join(missing)}. Write it with "
                "Predictions.save."
            )
        return built_from(path, cls._from_stored, stored, again="Write it again with Predictions.save.")

    @classmethod
    def _from_stored(cls, stored: dict[str, NDArray[Any]]) -> "Predictions":
        about = built(_About, parsed(str(stored.pop("about"))))
        if about.format_version > FORMAT_VERSION:
            raise ValueError(
                f"It has format version {about.format_version}, and this version of hf_compalign reads up to "
                f"{FORMAT_VERSION}. Upgrade hf_compalign."
            )
        for name, kinds in (_ARRAYS | _OPTIONAL).items():
            if name in stored and stored[name].dtype.kind not in kinds:
                raise ValueError(f"{name} cannot be numbers of {stored[name].dtype}.")
        texts = {name: getattr(about, name) for name in ("label_names", *_TEXTS)}
        return cls(**stored, **texts, runtime=about.runtime)  # type: ignore[arg-type]  # the texts are no arrays


@dataclass(frozen=True)
class _About:
    """What a file says of its arrays."""

    format_version: int
    label_names: tuple[str, ...]
    model: str
    model_fingerprint: str
    data_fingerprint: str
    runtime: Runtime | None = None


def _examples(ids: list[str]) -> str:
    shown = [*map(repr, ids[:3]), *(["..."] if len(ids) > 3 else [])]
    return f" ({', '.join(shown)})" if shown else ""
