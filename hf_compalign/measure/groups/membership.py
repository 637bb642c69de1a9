"""Which groups each item is in: from columns of a dataset, a function of its rows, or the bins of a number.

An item may be in one group, in several (groups then overlap) or in none.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise, product
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

if TYPE_CHECKING:
    from datasets import Dataset

Membership: TypeAlias = Sequence[str | Sequence[str] | None]
"""One entry per item: its group, a list of its groups, or None."""

DEFAULT_ATTRIBUTE = "group"


class Bin(str):
    """A group that is a bin of a number; ``place`` is its place among the bins, the lowest numbers first."""

    place: int

    def __new__(cls, name: str, place: int) -> "Bin":
        """The name of a bin, which is equal to the same text."""
        made = super().__new__(cls, name)
        made.place = place
        return made


def group_membership(
    dataset: "Dataset", by: str | tuple[str, ...] | Callable[[dict[str, Any]], str | Sequence[str] | None]
) -> list[tuple[str, ...]]:
    """The groups of each row, in the order of the rows.

    >>> from datasets import Dataset
    >>> posts = Dataset.from_dict({"targets": [["Women", "Refugee"], []], "long": [True, False]})
    >>> group_membership(posts, "targets")
    [('Women', 'Refugee'), ()]
    >>> group_membership(posts, ("targets", "long"))
    [('Women, True', 'Refugee, True'), ()]
    >>> group_membership(posts, lambda row: "targeted" if row["targets"] else None)
    [('targeted',), ()]

    ``by`` is a column of texts, whole numbers, truth values, classes (their names become the groups) or lists of these;
    a tuple of columns to cross; or a function of the row. A null, an empty list or the class -1 means no group.

    Raises:
        ValueError: there is no such column, it holds something else, or the function returns something else.
    """
    if callable(by):
        return _checked([by(row) for row in dataset], "The function's groups")
    if isinstance(by, str):
        return _column(dataset, by)
    if not isinstance(by, tuple | list) or not by or not all(isinstance(name, str) for name in by):
        raise ValueError(f"by must be a column, a tuple of columns or a function of the row. Got {by!r}.")
    columns = [_column(dataset, name) for name in by]
    return [tuple(", ".join(names) for names in product(*row)) for row in zip(*columns, strict=True)]


def number_bins(values: ArrayLike, *, edges: Sequence[float] | None = None, n_bins: int = 4) -> list[tuple[str, ...]]:
    """The bin of each number as its group; a number that is nan or None is in no group.

    >>> number_bins([3, 5, 8, 40, None], n_bins=2)
    [('3 to 5',), ('3 to 5',), ('8 to 40',), ('8 to 40',), ()]
    >>> number_bins([3, 5, 8, 40], edges=[5, 20])
    [('below 5',), ('5 to below 20',), ('5 to below 20',), ('20 or more',)]

    One bin of the numbers [N] ends and the next begins at each of the ascending ``edges``. Without edges there are
    ``n_bins`` of about equal size, named by the smallest and the largest number inside. Equal numbers stay together, so
    there may be fewer. An audit shows bins in the order of their numbers.

    Raises:
        ValueError: values are not numbers [N], edges do not ascend, or n_bins is not positive.
    """
    numbers = _numbers(values)
    if edges is None:
        if n_bins < 1:
            raise ValueError(f"n_bins must be at least 1. Got {n_bins}.")
        return _quantile_bins(numbers, n_bins)
    cuts = _numbers(edges)
    if not cuts.size or not np.isfinite(cuts).all() or (np.diff(cuts) <= 0).any():
        raise ValueError(f"edges must be numbers that ascend, at least one. Got {list(edges)}.")
    texts = _texts_of(cuts.tolist())
    inner = [f"{low} to below {high}" for low, high in pairwise(texts)]
    names = [Bin(name, place) for place, name in enumerate([f"below {texts[0]}", *inner, f"{texts[-1]} or more"])]
    places = np.searchsorted(cuts, numbers, side="right").tolist()
    return [() if np.isnan(value) else (names[place],) for value, place in zip(numbers, places, strict=True)]


def text_length(dataset: "Dataset", columns: str | Sequence[str]) -> NDArray[np.int64]:
    """The number of words, split at white space, in the text columns of each row, int64 [N].

    >>> from datasets import Dataset
    >>> text_length(Dataset.from_dict({"text": ["a fine film", ""]}), "text")
    array([3, 0])

    Raises:
        ValueError: there is no such column, or it does not hold text.
    """
    from hf_compalign.data import find_text_columns

    names = find_text_columns(dataset, [columns] if isinstance(columns, str) else columns)
    lengths = np.zeros(len(dataset), dtype=np.int64)
    for name in names:
        texts = _values(dataset, name)
        other = next((text for text in texts if not isinstance(text, str | None)), None)
        if other is not None:
            raise ValueError(f"text_length counts the words of text. The column {name!r} holds {_shown(other)}.")
        lengths += [len((text or "").split()) for text in texts]
    return lengths


def normalized_groups(groups: Membership | Mapping[str, Membership], n: int) -> dict[str, list[tuple[str, ...]]]:
    """Attribute -> the groups of each of the ``n`` items; groups without an attribute get the attribute ``group``.

    >>> normalized_groups(["a", None, ["a", "b"]], 3)
    {'group': [('a',), (), ('a', 'b')]}

    Raises:
        ValueError: not one entry per item, or an entry that is not a text, None or a list of texts.
    """
    given = groups if isinstance(groups, Mapping) else {DEFAULT_ATTRIBUTE: groups}
    found = {}
    for attribute, membership in given.items():
        what = "groups" if attribute == DEFAULT_ATTRIBUTE else f"groups[{attribute!r}]"
        if isinstance(membership, str) or not hasattr(membership, "__len__"):
            raise ValueError(
                f"{what} must have one entry per item. Got {_shown(membership)}. "
                "For the groups in a column of a dataset, give group_membership(dataset, column)."
            )
        if len(membership) != n:
            raise ValueError(f"{what} must have one entry per item: {n} of them. Got {len(membership)}.")
        found[attribute] = _checked(membership, what)
    return found


def _checked(membership: Membership, what: str) -> list[tuple[str, ...]]:
    seen: dict[Any, tuple[str, ...]] = {None: ()}  # most items share the groups of another one
    found = []
    for item, entry in enumerate(membership):
        key: Any = entry
        if isinstance(entry, list) or (isinstance(entry, np.ndarray) and entry.ndim == 1):
            key = tuple(entry)
        try:
            found.append(seen[key])
        except (KeyError, TypeError):  # TypeError: it cannot be a key, so it is no text either
            names = (key,) if isinstance(key, str) else key
            if not isinstance(names, tuple) or not all(isinstance(name, str) for name in names):
                raise ValueError(
                    f"{what} must be a text, a list of texts, or None for an item in no group. "
                    f"Got {_shown(entry)} for item {item}."
                ) from None
            found.append(seen.setdefault(key, tuple(dict.fromkeys(map(_own_text, names)))))
    return found


def _own_text(name: str) -> str:
    """The plain text of a name, whatever kind of text numpy made of it; a bin stays one."""
    return name if isinstance(name, Bin) else str(name)


def _column(dataset: "Dataset", name: str) -> list[tuple[str, ...]]:
    """The groups of each row in one column, without repeats."""
    from datasets import ClassLabel

    from hf_compalign.data import existing_column

    feature = dataset.features[existing_column(dataset.column_names, name)]
    is_list = hasattr(feature, "feature") or isinstance(feature, list)
    inner = (feature[0] if isinstance(feature, list) else feature.feature) if is_list else feature
    dtype = str(getattr(inner, "dtype", type(inner).__name__))
    if dtype not in ("string", "large_string", "bool") and not dtype.startswith(("int", "uint")):
        hint = f" Bin the numbers: number_bins(dataset[{name!r}]) (--bins {name})." if dtype.startswith("float") else ""
        raise ValueError(
            f"A column of groups holds texts, whole numbers, truth values, classes, or lists of these. "
            f"{name!r} holds {'lists of ' * is_list}{dtype}.{hint}"
        )
    rows = _values(dataset, name)
    rows = [row or () for row in rows] if is_list else [(row,) for row in rows]
    if isinstance(inner, ClassLabel):
        rows = [[None if k is None or k < 0 else inner.names[k] for k in row] for row in rows]
    return [tuple(dict.fromkeys(str(value) for value in row if value is not None)) for row in rows]


def _values(dataset: "Dataset", name: str) -> list[Any]:
    """The column as Python values, whatever format the dataset is set to."""
    return list(dataset.with_format(None).select_columns([name])[:][name])


def _numbers(values: ArrayLike) -> NDArray[np.float64]:
    try:
        numbers = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"Bins are made of numbers, one per item. Got something else: {error}.") from error
    if numbers.ndim != 1:
        raise ValueError(f"Bins are made of numbers, one per item. Got shape {list(numbers.shape)}.")
    return numbers


def _quantile_bins(numbers: NDArray[np.float64], n_bins: int) -> list[tuple[str, ...]]:
    known = ~np.isnan(numbers)
    if not known.any():
        return [()] * len(numbers)
    cuts = np.quantile(numbers[known], np.arange(1, n_bins) / n_bins, method="inverted_cdf")
    places = np.searchsorted(cuts, numbers, side="left")
    filled = np.unique(places[known])
    members = [numbers[known & (places == place)] for place in filled]
    ends = iter(_texts_of([float(end) for inside in members for end in (inside.min(), inside.max())]))
    names = [low if low == high else f"{low} to {high}" for low, high in zip(ends, ends, strict=True)]
    name_of = {place: Bin(name, place) for place, name in zip(filled.tolist(), names, strict=True)}
    return [(name_of[place],) if there else () for place, there in zip(places.tolist(), known.tolist(), strict=True)]


def _texts_of(numbers: Sequence[float]) -> list[str]:
    """As few digits as keep different numbers different."""
    for digits in (6, 9, 17):
        texts = [str(int(number)) if number.is_integer() else f"{number:.{digits}g}" for number in numbers]
        if len(set(texts)) == len(set(numbers)):
            break
    return texts


def _shown(value: Any, most: int = 60) -> str:
    text = repr(value)
    return f"{text if len(text) <= most else text[:most] + '...'} ({type(value).__name__})"
