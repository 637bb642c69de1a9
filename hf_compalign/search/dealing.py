"""Which rows choose and prove, which calibrate and which train: those that prove do nothing else."""

from dataclasses import dataclass

import numpy as np
from datasets import Dataset

from hf_compalign._formats import count, plural
from hf_compalign.data import check_rows, sample
from hf_compalign.measure.predictions import Columns, Reader, row_contents

_SEED = 1
# Without other rows, the most of the given ones that calibrate.
_CALIBRATION_SHARE = 0.2
# Of rows to calibrate or train on, so many may be among those of the dataset: more are no accident.
_MOST_SHARED = 0.5
# What to do without rows of a name.
_INSTEAD = {"calibration": "or none, and some of the dataset calibrate", "train": "or none, and nothing is trained"}


@dataclass(frozen=True)
class Dealt:
    """Rows, and what they are for.

    Attributes:
        rows: to choose and prove on.
        calibration: for ranges and cuts.
        train: to train on, or None.
        notes: lines that say which rows were left out.
    """

    rows: Dataset
    calibration: Dataset
    train: Dataset | None
    notes: tuple[str, ...] = ()


def dealt(
    reader: Reader,
    dataset: Dataset,
    *,
    calibration: Dataset | None,
    train: Dataset | None,
    columns: Columns,
    most: int,
) -> Dealt:
    """Deal rows out. Those to calibrate or train on that ask what a row of the dataset asks are left out.

    Args:
        reader: of the model.
        dataset: rows to choose and prove on; without others, up to a fifth of them calibrates.
        calibration: rows for ranges and cuts; by default those to train on.
        train: rows to train on.
        columns: where to find what in raw rows.
        most: how many rows calibrate.

    Raises:
        ValueError: most rows to calibrate or train on are left out, or the dataset is too small to calibrate.
    """
    given = {name: rows for name, rows in (("train", train), ("calibration", calibration)) if rows is not None}
    if not given:
        return Dealt(*_parted(dataset, most), train)
    asked, notes = frozenset(row_contents(reader, dataset, columns)), []
    for name, rows in given.items():
        check_rows(rows)
        others = [at for at, held in enumerate(row_contents(reader, rows, columns)) if held not in asked]
        if len(others) < len(rows):
            notes.append(_left_out(name, len(rows) - len(others), len(rows)))
            given[name] = rows.select(others)
    for_ranges = given["calibration" if "calibration" in given else "train"]
    return Dealt(dataset, sample(for_ranges, most), given.get("train"), tuple(notes))


def _left_out(name: str, shared: int, n: int) -> str:
    """What to say of rows that are left out; too many are refused."""
    if shared > _MOST_SHARED * n:
        raise ValueError(
            f"{count(shared)} of the {plural(n, 'row')} of {name}= (--{name}) ask what rows of the dataset ask, and "
            f"the proof would be on rows that made the file. Up to half of them would be left out. Give other rows, "
            f"such as the training split, {_INSTEAD[name]}."
        )
    return f"left out  {count(shared)} of the {plural(n, 'row')} of {name}: they ask what rows of the dataset ask"


def _parted(dataset: Dataset, most: int) -> tuple[Dataset, Dataset]:
    """The rows without those that calibrate, and these."""
    n = min(most, int(_CALIBRATION_SHARE * len(dataset)))
    if n == 0:
        raise ValueError(
            f"A fifth of the rows calibrates, and of {len(dataset)} that is none. Give more rows, or calibration=."
        )
    order = np.random.default_rng(_SEED).permutation(len(dataset))
    return dataset.select(sorted(order[n:].tolist())), dataset.select(sorted(order[:n].tolist()))
