"""Find the input and label columns of a dataset."""

import difflib
import re
from collections.abc import Sequence
from typing import Any

from datasets import Audio, ClassLabel, Dataset, Image, Value

LABEL_COLUMNS = ("labels", "label", "label_ids")
MAP_COLUMNS = ("labels", "annotation", "label", "segmentation_map")
ID_COLUMNS = ("id", "idx", "guid")
ANSWER_COLUMN = "answer"
TEXT_PAIRS = (
    ("sentence1", "sentence2"),
    ("premise", "hypothesis"),
    ("question1", "question2"),
    ("text", "text_pair"),
    *(
        (asked, read)
        for asked in ("question", "query")
        for read in ("sentence", "passage", "context", "document", "paragraph", "text", "content", ANSWER_COLUMN)
    ),
)
WORD_COLUMNS = ("tokens", "words")
TEXT_COLUMNS = ("text", "sentence", "review", "content")


def find_label_column(dataset: Dataset, wanted: str | None = None) -> str | None:
    """The wanted label column, one with a usual name, or the only `ClassLabel`.

    Raises:
        ValueError: there is no wanted column.
    """
    if wanted is not None:
        return existing_column(dataset.column_names, wanted)
    for name in LABEL_COLUMNS:
        if name in dataset.column_names:
            return name
    features = dataset.features or {}
    classes = [name for name, feature in features.items() if isinstance(feature, ClassLabel)]
    return classes[0] if len(classes) == 1 else None


def find_text_columns(
    dataset: Dataset, wanted: Sequence[str] | None = None, *, labels: str | None = None, ids: str | None = None
) -> tuple[str, ...]:
    """The wanted text columns, one or a pair with usual names, or the only column of strings.

    Labels and ids are no texts: the columns ``labels`` and ``ids``, if they are given, and those with such names. Most
    questions have a second text that goes with them, so one is the text only where no other string stands beside it.

    Raises:
        ValueError: there is no wanted column, or several may be the text.
    """
    if wanted:
        return tuple(existing_column(dataset.column_names, name) for name in wanted)
    names = set(dataset.column_names) - {labels, ids}
    if labels is None and find_label_column(dataset) is None:
        names.discard(ANSWER_COLUMN)  # it may be the label
    for pair in TEXT_PAIRS:
        if names.issuperset(pair) and all(_holds_strings(dataset.features[name]) for name in pair):
            return pair
    for name in TEXT_COLUMNS:
        if name in names:
            return (name,)
    strings = [name for name in dataset.column_names if name not in (labels, ids) and _may_be_text(dataset, name)]
    if len(strings) == 1:
        return (strings[0],)
    raise ValueError(
        f"Cannot tell which columns hold the text. Got the columns {_listed(dataset.column_names)}. "
        "Name one or two of them as the text columns."
    )


def find_word_column(dataset: Dataset, wanted: Sequence[str] | None = None) -> str | None:
    """The column of texts as lists of words: the wanted one, or one with a usual name; None where texts are whole.

    Raises:
        ValueError: there is no wanted column.
    """
    names = WORD_COLUMNS if wanted is None else [existing_column(dataset.column_names, name) for name in wanted]
    features = dataset.features or {}
    return next((name for name in names if hasattr(features.get(name), "feature")), None)


def find_image_column(dataset: Dataset, wanted: str | None = None, *, labels: str | None = None) -> str:
    """The wanted image column, or the only one of type `Image`, besides label maps.

    Label maps are what is in the column ``labels``, if it is given, or in one with a usual name.

    Raises:
        ValueError: there is no wanted column, or not exactly one column of images.
    """
    return _only_column(dataset, wanted, Image, without=labels)


def find_map_column(dataset: Dataset, wanted: str | None = None) -> str | None:
    """The wanted column of label maps, or one with a usual name that holds images, their paths or lists; else None.

    Raises:
        ValueError: there is no wanted column.
    """
    if wanted is not None:
        return existing_column(dataset.column_names, wanted)
    features = dataset.features or {}
    return next((name for name in MAP_COLUMNS if name in features and _may_hold_maps(features[name])), None)


def find_audio_column(dataset: Dataset, wanted: str | None = None) -> str:
    """The wanted column of sounds, or the only one of type `Audio`.

    Raises:
        ValueError: there is no wanted column, or not exactly one column of sounds.
    """
    return _only_column(dataset, wanted, Audio)


def _may_be_text(dataset: Dataset, name: str) -> bool:
    """Whether a column holds strings and is called neither a label nor an id, such as `label_text` or `question_id`."""
    words = re.split(r"[\W_]+", name.lower())
    return _holds_strings(dataset.features[name]) and {*LABEL_COLUMNS, *ID_COLUMNS}.isdisjoint([name, *words])


def _holds_strings(feature: Any) -> bool:
    return isinstance(feature, Value) and feature.dtype in ("string", "large_string")


def _may_hold_maps(feature: Any) -> bool:
    if isinstance(feature, Value):
        return _holds_strings(feature)
    return not isinstance(feature, ClassLabel)


def _only_column(dataset: Dataset, wanted: str | None, kind: type, *, without: str | None = None) -> str:
    if wanted is not None:
        return existing_column(dataset.column_names, wanted)
    of_kind = [name for name, feature in (dataset.features or {}).items() if isinstance(feature, kind)]
    found = [name for name in of_kind if name != without]
    if len(found) > 1:
        found = [name for name in found if name not in MAP_COLUMNS] or found
    if len(found) == 1:
        return found[0]
    name = kind.__name__.lower()
    but = ", without that of the labels" if without in of_kind else ""
    raise ValueError(
        f"Cannot tell which column holds the {'images' if kind is Image else 'sounds'}. Got the columns "
        f"{_listed(dataset.column_names)}; {len(found)} of them are of type {kind.__name__}{but}. "
        f"Name the {name} column."
    )


def label_names(dataset: Dataset, column: str | None) -> tuple[str, ...] | None:
    """The class names of a label column, or of a column of lists of labels, if the dataset has them."""
    feature = (dataset.features or {}).get(column)
    feature = getattr(feature, "feature", feature)  # of lists, such as those of tokens
    return tuple(feature.names) if isinstance(feature, ClassLabel) else None


def existing_column(columns: Sequence[str], wanted: str) -> str:
    """The wanted column, or a ValueError that suggests a similar one."""
    if wanted in columns:
        return wanted
    close = difflib.get_close_matches(wanted, columns, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    raise ValueError(f"There is no column {wanted!r}. The columns are {_listed(columns)}.{hint}")


def _listed(columns: Sequence[str]) -> str:
    return ", ".join(map(repr, columns))
