"""Groups from columns of a dataset: as they are, crossed, or as bins of a number."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeGuard

from hf_compalign.measure.groups.membership import (
    DEFAULT_ATTRIBUTE,
    Membership,
    group_membership,
    number_bins,
    text_length,
)

if TYPE_CHECKING:
    from datasets import Dataset

# Stands for a column: the number of words in the text.
WORDS = "words"


class Attribute(NamedTuple):
    """One entry for each row of the dataset, or else for each item of the reference."""

    groups: Membership
    of_rows: bool


def attributes_of(
    groups: Membership | Mapping[str, Membership] | None,
    bins: Sequence[str],
    dataset: "Dataset | None",
    *,
    text: Sequence[str] | None = None,
) -> dict[str, Attribute]:
    """The groups of an audit by the names of their attributes: as given, or from columns.

    >>> from datasets import Dataset
    >>> posts = Dataset.from_dict({"target": ["a", "b", None], "long": [True, False, True]})
    >>> attributes_of({"both": ("target", "long")}, [], posts)
    {'both': Attribute(groups=[('a, True',), ('b, False',), ()], of_rows=True)}
    >>> attributes_of(["x", "y", "y"], [], posts)
    {'group': Attribute(groups=['x', 'y', 'y'], of_rows=False)}
    >>> [*attributes_of(["target", ("target", "long")], [], posts)]
    ['target', 'target x long']

    ``groups`` and ``bins`` are those of `hf_compalign.audit`. ``text`` names the text column, or the two of a pair.

    Raises:
        ValueError: there is no such column, it holds something else, or two attributes have one name.
    """
    from hf_compalign.data import existing_column

    given = {} if groups is None else groups
    named = [*given.items()] if isinstance(given, Mapping) else [(DEFAULT_ATTRIBUTE, given)]
    if dataset is None:
        if bins:
            raise ValueError(f"bins are made of columns of a dataset. Got {', '.join(bins)}. Give dataset= too.")
        return {name: Attribute(given, of_rows=False) for name, given in named}
    if _is_column(groups, dataset):
        groups = [groups]
    if isinstance(groups, list) and _are_columns(groups, dataset):
        try:
            for name in _names_in(groups):
                existing_column(dataset.column_names, str(name))
        except ValueError as error:
            raise ValueError(
                f"groups must have one entry per item: {len(dataset)} of them; or be columns. Got {len(groups)}. "
                f"{error}"
            ) from error
        named = [(" x ".join(_names_in([by])), by) for by in groups]
    return _with_bins(named, bins, dataset, text)


def _are_columns(entries: Sequence[Any], dataset: "Dataset") -> bool:
    """As many entries as rows are the groups of these, unless all of them are columns."""
    return len(entries) != len(dataset) or all(name in dataset.column_names for name in _names_in(entries))


def _is_column(by: Any, dataset: "Dataset") -> TypeGuard[str | tuple[str, ...]]:
    """One column, or a tuple of columns to cross."""
    return isinstance(by, str) or (isinstance(by, tuple) and _are_columns(by, dataset))


def _names_in(entries: Sequence[Any]) -> list[Any]:
    return [name for entry in entries for name in (entry if isinstance(entry, tuple) else (entry,))]


def _with_bins(
    named: Sequence[tuple[str, Any]], bins: Sequence[str], dataset: "Dataset", text: Sequence[str] | None
) -> dict[str, Attribute]:
    taken = [attribute for attribute, _ in named]
    binned = [(f"{name} (bins)" if name in taken else name, name) for name in bins]
    names = [attribute for attribute, _ in (*named, *binned)]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(
            f"Each of groups and bins (--groups, --bins) is an attribute with a name of its own. Got {twice!r} twice. "
            "Leave one out, or rename a column."
        )
    found = {}
    for attribute, by in named:
        of_rows = _is_column(by, dataset)
        found[attribute] = Attribute(group_membership(dataset, by) if of_rows else by, of_rows)
    return found | {name: Attribute(number_bins(_numbers(dataset, one, text)), of_rows=True) for name, one in binned}


def _numbers(dataset: "Dataset", name: str, text: Sequence[str] | None) -> Any:
    from hf_compalign.data import find_text_columns

    if name in dataset.column_names:
        return dataset[name]
    if name == WORDS:
        return text_length(dataset, find_text_columns(dataset, text))
    raise ValueError(
        f"There is no column {name!r} to bin. The columns are {', '.join(dataset.column_names)}; {WORDS!r} "
        "stands for the number of words in the text."
    )
