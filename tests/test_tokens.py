"""How many tokens a model takes, and which; the rows and batches that have others."""

import pytest
import tiny
import torch
import zoo
from datasets import Dataset, Features, List, Value
from torch import nn

from hf_compalign import AlignedDistillationTrainer, cache_teacher_logits, predict, prune_
from hf_compalign.models import FileModel, OnnxModel, position_limit

PREPARED = [
    ({"input_ids": [[1, 2], [3, 50]]}, r"Row 1 holds 50 in 'input_ids', .* \[0, 40\) for this Bert.*use the tokenizer"),
    ({"input_ids": [[1], [2, 3], [-1, 3]]}, "Row 2 holds -1 in 'input_ids'"),
    ({"input_ids": [[1, 2]], "token_type_ids": [[0, 2]]}, r"Row 0 holds 2 in 'token_type_ids', .* \[0, 2\)"),
    ({"input_ids": [[1], [1] * 33]}, "Row 1 has 33 tokens, and the model has positions for 32. .*max_length=32"),
    ({"input_ids": [[1, 2], []]}, "Row 1 has no tokens"),
    ({"input_ids": [[1, 2], None]}, "Row 1 has nothing in the column 'input_ids'"),
    ({"input_ids": [[1.0, 2.0]]}, r"'input_ids' must hold lists of whole numbers. Got list<item: double>"),
    ({"input_ids": ["1 2"]}, "must hold lists of whole numbers. Got string"),
]


@pytest.mark.parametrize("name", [name for name, kind in zoo.KINDS.items() if "Sequence" in kind.head])
def test_a_text_as_long_as_the_limit_is_the_longest_that_a_model_takes(name):
    model = zoo.build(name)
    limit = position_limit(model)
    model(input_ids=torch.full((1, limit or 200), 5))
    if limit is not None:
        with pytest.raises((IndexError, RuntimeError)):
            model(input_ids=torch.full((1, limit + 1), 5))


def test_a_file_takes_as_many_tokens_as_its_model(monkeypatch):
    model = zoo.build("roberta")
    monkeypatch.setattr(FileModel, "__init__", nn.Module.__init__)
    file = OnnxModel()
    file.config, file.architectures = model.config, (type(model).__name__,)
    assert position_limit(file) == position_limit(model) == 38
    pair = nn.ModuleList([tiny.bert(), file])
    pair.config = tiny.bert(max_position_embeddings=100).config
    assert position_limit(pair) == 32
    pair = nn.ModuleList([file, file])
    pair.config = model.config
    assert position_limit(pair) == 38
    file.architectures = ("SomebodysForSequenceClassification",)
    assert position_limit(file) is None


@pytest.mark.parametrize(("columns", "message"), PREPARED)
def test_a_row_of_tokens_that_the_model_cannot_take_is_named(columns, message):
    rows = Dataset.from_dict(columns)
    for ask in (lambda: predict(tiny.bert(), rows), lambda: cache_teacher_logits(rows, tiny.bert())):
        with pytest.raises(ValueError, match=message):
            ask()


def test_rows_of_one_length_and_padded_rows_are_read():
    fixed = Features(input_ids=List(Value("int32"), length=2))
    assert len(predict(tiny.bert(), Dataset.from_dict({"input_ids": [[1, 2], [3, 5]]}, features=fixed))) == 2
    # Padding takes no position in RoBERTa.
    ids = [[5] * 38 + [1] * 2]
    assert len(predict(zoo.build("roberta"), Dataset.from_dict({"input_ids": ids}))) == 1


def test_a_batch_that_the_model_cannot_take_is_explained(tmp_path):
    wrong = [[1, 2], [3, 50]]
    with pytest.raises(ValueError, match="cannot take the calibration data. Row 1 of a batch holds 50 in 'input_ids'"):
        prune_(tiny.bert(), 0.5, score="wanda", calibration=[{"input_ids": torch.tensor(wrong)}])
    made = Dataset.from_dict({"input_ids": wrong}).with_transform(lambda batch: batch)
    with pytest.raises(ValueError, match="Row 1 of a batch holds 50"):
        predict(tiny.bert(), made)
    rows = Dataset.from_dict({"input_ids": [[1] * 33] * 4, "labels": [0] * 4})
    for positions in (32, 64):  # of the teacher, which reads the batch first
        teacher = tiny.bert(max_position_embeddings=positions)
        trainer = AlignedDistillationTrainer(tiny.bert(), tiny.arguments(tmp_path), teacher=teacher, train_dataset=rows)
        with pytest.raises(ValueError, match="Row 0 of a batch has 33 tokens, and the model has positions for 32"):
            trainer.train()
