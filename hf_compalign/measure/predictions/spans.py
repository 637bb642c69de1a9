"""What a model answers to questions about texts: a span of each text, by the standard decoding."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from numpy.typing import NDArray
from transformers import PreTrainedModel

from hf_compalign._checks import check_whole
from hf_compalign.data import check_texts, combined_fingerprint, existing_column, row_fingerprint
from hf_compalign.measure.predictions.columns import Columns
from hf_compalign.measure.predictions.predicting import row_ids
from hf_compalign.measure.predictions.reader import Reader, reader_of
from hf_compalign.models import default_collator, evaluating, forward, position_limit
from hf_compalign.tasks import QUESTIONS

_OF_SQUAD = ("question", "context")
_ANSWERS = "answers"
_NO_LIMIT = 512  # tokens of a window, where neither the model nor its tokenizer has a limit


@dataclass(frozen=True)
class SpanOptions:
    """How answers are found.

    Attributes:
        longest: tokens of an answer.
        stride: tokens that two windows of a long text share.
        may_be_none: whether a text may hold no answer: then the first token's score stands for that.
        batch_size: windows at a time.

    Raises:
        ValueError: a number is out of its range.
    """

    longest: int = 30
    stride: int = 128
    may_be_none: bool = False
    batch_size: int = 32

    def __post_init__(self) -> None:
        for name, least in (("longest", 1), ("stride", 0), ("batch_size", 1)):
            check_whole(name, getattr(self, name), least=least)


@dataclass(frozen=True, eq=False)
class Spans:
    """One model's answers to N questions.

    Attributes:
        texts: the answers as they stand in the texts; empty where there is none.
        starts: int64 [N], the first character of each in its text; 0 where there is none.
        scores: float64 [N], the logit of the start plus that of the end.
        ids: str [N], all different.
        truth: the right answers to each question, none where unknown.
        model: where the model came from, for people.
        data_fingerprint: of the questions and texts, in any order.
    """

    texts: tuple[str, ...]
    starts: NDArray[np.int64]
    scores: NDArray[np.float64]
    ids: NDArray[np.str_]
    truth: tuple[tuple[str, ...], ...] = ()
    model: str = ""
    data_fingerprint: str = ""

    def __len__(self) -> int:
        return len(self.texts)


@dataclass
class _Best:
    """The best answer to a question so far."""

    score: float = -np.inf
    start: int = 0
    end: int = 0
    none: float = np.inf  # the lowest score of no answer of any window


@dataclass(frozen=True, eq=False)
class _Window:
    """A part of a text with its question: the inputs, the question's number, and the characters of each token."""

    inputs: dict[str, list[int]]
    question: int
    allowed: NDArray[np.bool_] = field(repr=False)
    offsets: Sequence[tuple[int, int]] = field(repr=False)


def best_span(
    start: NDArray[Any], end: NDArray[Any], allowed: NDArray[np.bool_], *, longest: int = 30
) -> tuple[int, int, float]:
    """The tokens from which to which an answer goes, and its score: the largest start + end, start <= end.

    Of logits [T] each, over the allowed tokens [T], those of the text, with at most ``longest`` tokens in the answer.
    This is what the decoding of https://huggingface.co/papers/1810.04805 looks for, over all spans.
    The score is -inf where no token is allowed.

    >>> best_span(np.array([5.0, 1.0, 2.0]), np.array([0.0, 4.0, 1.0]), np.array([False, True, True]))
    (1, 1, 5.0)
    """
    first, last = (np.where(allowed, np.asarray(one, dtype=np.float64), -np.inf) for one in (start, end))
    lengths = range(min(longest, len(first)))
    found = [(first[: len(first) - more] + last[more:], more) for more in lengths]
    # Of equal scores the first and shortest span.
    score, place, more = max((sums.max(), -int(sums.argmax()), -more) for sums, more in found)
    return -place, -place - more, float(score)


def predict_spans(
    model: PreTrainedModel | str | Path,
    dataset: Dataset,
    *,
    processing_class: Any = None,
    columns: Columns | None = None,
    options: SpanOptions | None = None,
    device: str | torch.device | None = None,
) -> Spans:
    """Ask a model questions about texts. Long texts are read in windows that overlap, and the best answer counts.

    Args:
        model: for question answering: a module, a folder or a Hub id.
        dataset: with the columns `question` and `context`, or the two named with ``Columns(text=...)``; and perhaps
            `answers` as in SQuAD, ``{"text": [...], "answer_start": [...]}``.
        processing_class: the fast tokenizer; by default the one saved beside the model.
        columns: where to find what.
        options: how answers are found.
        device: where to run; as for `hf_compalign.predict`.

    Raises:
        ValueError: the model is for another task, a column is missing or holds no texts, the tokenizer is a slow one,
            or a question leaves no room for its text.
    """
    options, columns = options or SpanOptions(), Columns.of(columns)
    reader = reader_of(model, dataset, processing_class=processing_class, device=device, among=QUESTIONS)
    names = [existing_column(dataset.column_names, name) for name in columns.text or _OF_SQUAD]
    check_texts(dataset, names)
    rows = list(dataset.with_format(None).select_columns(names))
    best = _asked(reader, _windows(reader, [tuple(row[name] for name in names) for row in rows], options), options)
    marks = [row_fingerprint(row) for row in rows]
    spans = [(0, 0) if options.may_be_none and one.none > one.score else (one.start, one.end) for one in best]
    given = list(dataset.with_format(None)[_ANSWERS]) if _ANSWERS in dataset.column_names else []
    return Spans(
        texts=tuple(row[names[1]][start:end] for row, (start, end) in zip(rows, spans, strict=True)),
        starts=np.array([start for start, _ in spans], dtype=np.int64),
        scores=np.array([one.score for one in best]),
        ids=row_ids(dataset, columns.id, marks),
        truth=tuple(tuple(one["text"]) for one in given),
        model=reader.where,
        data_fingerprint=combined_fingerprint(marks),
    )


def _windows(reader: Reader, pairs: Sequence[tuple[Any, ...]], options: SpanOptions) -> list[_Window]:
    tokenizer = reader.processing_class
    if not getattr(tokenizer, "is_fast", False):
        raise ValueError(
            f"Answers are found in a text with a fast tokenizer. Got {type(tokenizer).__name__}. Load it with "
            "AutoTokenizer."
        )
    limit = min(tokenizer.model_max_length, position_limit(reader.network) or _NO_LIMIT, 1 << 20)
    longest = max(len(ids) for ids in tokenizer([question for question, _ in pairs])["input_ids"])
    if longest + options.stride >= limit:
        raise ValueError(
            f"A question of {longest} tokens leaves no room for its text: a window has {limit}, of which two share "
            f"{options.stride}. Take SpanOptions(stride=...) of less, or leave the question out."
        )
    found = tokenizer(
        *([*column] for column in zip(*pairs, strict=True)),
        truncation="only_second",
        max_length=limit,
        stride=options.stride,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
    )
    owners, offsets = found.pop("overflow_to_sample_mapping"), found.pop("offset_mapping")
    return [
        _Window(
            {name: values[place] for name, values in found.items()},
            owner,
            np.array([part == 1 for part in found.sequence_ids(place)]),
            offsets[place],
        )
        for place, owner in enumerate(owners)
    ]


def _asked(reader: Reader, windows: Sequence[_Window], options: SpanOptions) -> list[_Best]:
    """The best answer to each question, over all of its windows."""
    network, collate = reader.network, default_collator(reader.processing_class)
    best = [_Best() for _ in range(windows[-1].question + 1)]
    with evaluating(network):
        for begin in range(0, len(windows), options.batch_size):
            some = windows[begin : begin + options.batch_size]
            batch: Mapping[str, Any] = collate([dict(window.inputs) for window in some])
            answers = reader.task.answer(forward(network, batch)).float().cpu().numpy()
            left = getattr(reader.processing_class, "padding_side", "right") == "left"
            for window, whole in zip(some, answers, strict=True):
                n = len(window.offsets)
                start, end = whole[:, -n:] if left else whole[:, :n]
                first, last, score = best_span(start, end, window.allowed, longest=options.longest)
                one = best[window.question]
                one.none = min(one.none, float(start[0] + end[0]))
                if score > one.score:
                    one.score, one.start, one.end = score, window.offsets[first][0], window.offsets[last][1]
    return best
