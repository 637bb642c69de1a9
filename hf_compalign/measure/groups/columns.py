"""The groups that columns of a dataset say, by name: as they are, crossed, or as bins of a number."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from hf_compalign.measure.groups.membership import (
    DEFAULT_ATTRIBUTE,
    Membership,
    group_membership,
    number_bins,
    text_length,
)

if TYPE_CHECKING:
    from datasets import Dataset

# Instead of a column of numbers: the words of the text.
WORDS = "words"


class Attribute(NamedTuple):
    """Which groups there are.

    Attributes:
        groups: one entry for each item of the reference, or for each row of the dataset.
        of_rows: which of the two.
    """

    groups: Membership
    of_rows: bool


def attributes_of(
    groups: Membership | Mapping[str, Membership] | None,
    bins: Sequence[str],
    dataset: "Dataset | None",
    *,
    text: Sequence[str] | None = None,
) -> dict[str, Attribute]:
    """The groups of an audit by the names of their attributes: as they were given, or as columns say them.

    >>> from datasets import Dataset
    >>> posts = Dataset.from_dict({"target": ["a", "b", None], "long": [True, False, True]})
    >>> attributes_of({"both": ("target", "long")}, [], posts)
    {'both': Attribute(groups=[('a, True',), ('b, False',), ()], of_rows=True)}
    >>> attributes_of(["x", "y", "y"], [], posts)
    {'group': Attribute(groups=['x', 'y', 'y'], of_rows=False)}
    >>> [*attributes_of(["target", ("target", "long")], [], posts)]
    ['target', 'target x long']

    Args:
        groups: those of the items; or where there is a dataset columns of it: one, a tuple of columns to be crossed,
            a list of both, or a dict of both by the names of the attributes.
        bins: columns of numbers; `WORDS` is the number of words in the text.
        dataset: the rows; without them there are only items.
        text: the text column, or the two of a pair; by default found by their names.

    Raises:
        ValueError: there is no such column, it holds something else, or two attributes have one name.
    """
    if dataset is None:
        if bins:
            raise ValueError(f"bins are made of columns of a dataset. Got {', '.join(bins)}. Give dataset= too.")
        return {name: Attribute(given, of_rows=False) for name, given in _by_attribute(groups)}
    if isinstance(groups, str) or _is_column(groups, dataset):
        groups = [groups]  # type: ignore[list-item]  # what names columns is no list of items
    if isinstance(groups, list) and _are_columns(groups, dataset):
        named = [(by if isinstance(by, str) else " x ".join(by), by) for by in groups]
    else:
        if isinstance(groups, list) and len(groups) != len(dataset):
            _refuse_no_columns(groups, dataset)
        named = _by_attribute(groups)
    taken = [attribute for attribute, _ in named]
    binned = [(f"{name} (bins)" if name in taken else name, name) for name in bins]
    _check_names([*taken, *(attribute for attribute, _ in binned)])
    found = {name: _attribute(by, dataset) for name, by in named}
    for attribute, name in binned:
        found[attribute] = Attribute(number_bins(_numbers(dataset, name, text)), of_rows=True)
    return found


def _attribute(by: Any, dataset: "Dataset") -> Attribute:
    of_rows = isinstance(by, str) or _is_column(by, dataset)
    return Attribute(group_membership(dataset, by) if of_rows else by, of_rows)


def _by_attribute(groups: Membership | Mapping[str, Membership] | None) -> list[tuple[str, Any]]:
    if groups is None:
        return []
    return [*groups.items()] if isinstance(groups, Mapping) else [(DEFAULT_ATTRIBUTE, groups)]


def _is_column(by: Any, dataset: "Dataset") -> bool:
    """Whether it is a tuple of columns to be crossed."""
    return isinstance(by, tuple) and _are_columns(by, dataset)


def _are_columns(entries: Sequence[Any], dataset: "Dataset") -> bool:
    """A list as long as the dataset holds the groups of its rows, unless all of it are columns."""
    known = [_is_known(entry, dataset.column_names) for entry in entries]
    return any(known) and (all(known) or len(known) != len(dataset))


def _is_known(entry: Any, columns: Sequence[str]) -> bool:
    names = entry if isinstance(entry, tuple) else (entry,)
    return bool(names) and all(name in columns for name in names)


def _refuse_no_columns(groups: Sequence[Any], dataset: "Dataset") -> None:
    """Say of a list that is of neither the items nor columns which column is not there."""
    from hf_compalign.data import existing_column

    names = [name for entry in groups for name in (entry if isinstance(entry, tuple) else (entry,))]
    try:
        for name in names:
            existing_column(dataset.column_names, name)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"groups must have one entry per item: {len(dataset)} of them; or be columns. Got {len(groups)}. {error}"
        ) from error


def _check_names(attributes: Sequence[str]) -> None:
    twice = next((name for name in attributes if attributes.count(name) > 1), None)
    if twice is not None:
        raise ValueError(
            f"Each of groups and bins (--groups, --bins) is an attribute with a name of its own. Got {twice!r} twice. "
            "Leave one out, or rename a column."
        )


def _numbers(dataset: "Dataset", name: str, text: Sequence[str] | None) -> Any:
    from hf_compalign.data import find_text_columns

    if name in dataset.column_names:
        return dataset[name]
    if name == WORDS:
        return text_length(dataset, find_text_columns(dataset, text))
    raise ValueError(
        f"There is no column {name!r} to be binned. The columns are {', '.join(dataset.column_names)}; {WORDS!r} "
        "stands for the number of words in the text."
    )
