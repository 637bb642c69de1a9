"""Teacher and student read the same tokens from the same ids, or are refused."""

import logging

import pytest
import tiny
from tiny import reviews, tokenizer
from transformers import DataCollatorWithPadding

from hf_compalign import AlignedDistillationTrainer, cache_teacher_logits

TURNED = ["[PAD]", "[UNK]", "a", "the", "book", "film", "good", "bad"]
SIZES = {"vocab_size": 8} | tiny.NAMED


def ready():
    return reviews().map(lambda row: tokenizer()(row["text"])).remove_columns("text")


def saved(folder, *words, vocab_size=8):
    """A teacher's folder, with a tokenizer of these words if there are any."""
    tiny.bert(seed=1, **SIZES | {"vocab_size": vocab_size}).save_pretrained(folder)
    if words:
        tokenizer(*words).save_pretrained(folder)
    return str(folder)


def build(folder, teacher, *, rows=None, **given):
    given = {"train_dataset": ready() if rows is None else rows, "processing_class": tokenizer()} | given
    return AlignedDistillationTrainer(tiny.bert(**SIZES), tiny.arguments(folder), teacher=teacher, **given)


@pytest.mark.parametrize("as_module", [False, True])
def test_a_tokenizer_of_the_same_size_with_other_ids_is_refused(as_module, tmp_path):
    teacher = saved(tmp_path / "teacher", *TURNED)
    if as_module:
        teacher = type(tiny.bert()).from_pretrained(teacher)
    message = r"must share a tokenizer. 6 tokens .* 'a', .* 2 to the teacher, 7 to the student"
    calls = [
        lambda: build(tmp_path, teacher),
        lambda: build(tmp_path, teacher, processing_class=None, data_collator=DataCollatorWithPadding(tokenizer())),
        lambda: cache_teacher_logits(ready(), teacher, processing_class=tokenizer()),
        lambda: cache_teacher_logits(ready(), teacher, data_collator=DataCollatorWithPadding(tokenizer())),
    ]
    for call in calls:
        with pytest.raises(ValueError, match=message):
            call()


def test_cached_logits_know_their_tokenizer(tmp_path):
    rows = tiny.texts(4, n_labels=2).map(lambda row: {"input_ids": [token % 8 for token in row["input_ids"]]})
    same, other = saved(tmp_path / "same", *tiny.WORDS), saved(tmp_path / "other", *TURNED)
    build(tmp_path, None, rows=cache_teacher_logits(rows, same))
    build(tmp_path, None, rows=cache_teacher_logits(rows, other), processing_class=None)
    with pytest.raises(ValueError, match="cached teacher logits of the train dataset are of another tokenizer"):
        build(tmp_path, None, rows=cache_teacher_logits(rows, other))
    # A cache of an earlier version does not say.
    marked = cache_teacher_logits(rows, other)
    marks = ["-".join(mark.split("-")[:2] + mark.split("-")[-1:]) for mark in marked["teacher_fingerprint"]]
    older = marked.remove_columns("teacher_fingerprint").add_column("teacher_fingerprint", marks)
    build(tmp_path, None, rows=older)


def test_the_same_tokenizer_with_a_padded_matrix_trains(tmp_path):
    trainer = build(tmp_path, saved(tmp_path / "teacher", *tiny.WORDS, vocab_size=11))
    trainer.train()
    assert trainer.state.global_step == 4


def test_what_cannot_be_compared_is_said_and_other_sizes_are_refused(tmp_path, caplog):
    build(tmp_path, saved(tmp_path / "bare"))
    assert "The tokenizers of teacher and student cannot be compared: there is none in" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        build(tmp_path, tiny.bert(seed=1, **SIZES))
    assert not caplog.messages
    with pytest.raises(ValueError, match="Got vocabularies of 9 and 8 tokens, and no tokenizer .* save_pretrained"):
        build(tmp_path, saved(tmp_path / "padded", vocab_size=9))


def test_a_teacher_with_fewer_positions_than_the_student_is_refused(tmp_path):
    def pair(ours, theirs, **given):
        student, teacher = (tiny.bert(max_position_embeddings=n, **SIZES) for n in (ours, theirs))
        AlignedDistillationTrainer(student, tiny.arguments(tmp_path), teacher=teacher, train_dataset=ready(), **given)

    with pytest.raises(
        ValueError, match="The teacher takes texts of up to 16 tokens, the student of 24.* max_length=16"
    ):
        pair(24, 16)
    pair(16, 24)
    short = tokenizer()
    short.model_max_length = 16
    pair(24, 16, processing_class=short)
