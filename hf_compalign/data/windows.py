"""Texts cut into windows that overlap."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from datasets import Dataset

from hf_compalign._checks import check_whole
from hf_compalign.data.inputs import check_texts, tokenized

_FEWEST = 4  # tokens of a window: the special ones of a pair of texts, and one of the text


@dataclass(frozen=True)
class Windows:
    """How a long text is cut: windows of ``length`` tokens, special ones included, of which two share ``stride``."""

    length: int
    stride: int

    def __post_init__(self) -> None:
        check_whole("length", self.length, least=_FEWEST)
        check_whole("stride", self.stride, least=0)
        if self.stride > self.length - _FEWEST:
            raise ValueError(
                f"Two windows of {self.length} tokens cannot share {self.stride}: each must get further. Take a stride "
                f"of at most {self.length - _FEWEST}."
            )


def tokenized_as_read(
    dataset: Dataset, tokenizer: Any, columns: Sequence[str], *, windows: Windows | None, longest: int | None = None
) -> Dataset:
    """`tokenized_windows` for a model that reads such windows, else `tokenized`, with its errors."""
    if windows is None:
        return tokenized(dataset, tokenizer, columns, longest=longest)
    return tokenized_windows(dataset, tokenizer, columns, **asdict(windows))


def tokenized_windows(dataset: Dataset, tokenizer: Any, columns: Sequence[str], *, length: int, stride: int) -> Dataset:
    """As `tokenized`, with a list of windows in each of the tokenizer's columns; a short text is one window.

    Args:
        dataset: with texts in the columns.
        tokenizer: a fast one.
        columns: the text column, or the two of a pair, of which the second is cut and the first stands in each window.
        length: tokens of a window, special ones included.
        stride: tokens that two windows share.

    Raises:
        ValueError: the tokenizer is a slow one, a column holds no texts, the windows get no further, or a first text
            leaves no room for its second.
    """
    if not tokenizer.is_fast:
        raise ValueError(
            f"Texts are cut into windows by a fast tokenizer. Got {type(tokenizer).__name__}. Load it with "
            "AutoTokenizer."
        )
    check_texts(dataset, columns)
    pairs = len(columns) == 2
    special = tokenizer.num_special_tokens_to_add(pair=pairs)
    if special + stride >= length:
        raise ValueError(
            f"Windows of {length} tokens, of which {special} are special, cannot share {stride}: each must get "
            f"further. Take a stride of at most {length - special - 1}."
        )

    def tokenize(batch: Mapping[str, list[Any]]) -> dict[str, list[list[Any]]]:
        texts = [batch[column] for column in columns]
        for row in _sizes(texts, tokenizer) if pairs else ():
            if row[0] + special + stride >= length < sum(row) + special:
                raise ValueError(
                    f"A text of {row[0]} tokens in the column {columns[0]!r} leaves no room for that in "
                    f"{columns[1]!r}: a window has {length}, of which {special} are special and two windows share "
                    f"{stride}. Shorten it, or name the longer column last."
                )
        found = tokenizer(
            *texts,
            truncation="only_second" if pairs else True,
            max_length=length,
            stride=stride,
            return_overflowing_tokens=True,
        )
        owners = found.pop("overflow_to_sample_mapping")
        rows: dict[str, list[list[Any]]] = {name: [[] for _ in texts[0]] for name in found}
        for name, windows in found.items():
            for owner, window in zip(owners, windows, strict=True):
                rows[name][owner].append(window)
        return rows

    return dataset.with_format(None).map(tokenize, batched=True, desc="Tokenizing")


def _sizes(texts: Sequence[list[str]], tokenizer: Any) -> list[tuple[int, ...]]:
    """How many tokens the two texts of each row have."""
    found = [[len(ids) for ids in tokenizer(column, add_special_tokens=False)["input_ids"]] for column in texts]
    return [*zip(*found, strict=True)]
