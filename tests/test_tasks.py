"""Which models are supported, and how their answers become items."""

import pytest
import tiny
import torch
from transformers import BertForMaskedLM, BertForTokenClassification, DeiTConfig, DeiTForImageClassificationWithTeacher

from hf_compalign.tasks import Items, logits_of, one_per_example, task_of


def test_the_task_is_the_head_of_the_class_or_a_base_class():
    class Custom(type(tiny.bert())):
        pass

    assert task_of(tiny.bert()).name == task_of(Custom(tiny.bert().config)).name == "text-classification"
    distilled = DeiTForImageClassificationWithTeacher(DeiTConfig(hidden_size=12, num_hidden_layers=1))
    assert task_of(tiny.vit()).name == task_of(distilled).name == "image-classification"


@pytest.mark.parametrize("cls", [BertForTokenClassification, BertForMaskedLM])
def test_other_heads_are_refused_with_the_list(cls):
    with pytest.raises(ValueError, match=f"{cls.__name__} has a head .* ForSequenceClassification .*ForImageClass"):
        task_of(cls(tiny.bert().config))


@pytest.mark.parametrize(
    ("config", "got"),
    [
        ({"problem_type": "multi_label_classification"}, "multi_label_classification"),
        ({"problem_type": "regression"}, "regression"),
        ({"n_labels": 1}, "num_labels=1, which is a regression"),
    ],
)
def test_other_problems_are_refused(config, got):
    with pytest.raises(ValueError, match=f"Got {got}.*supported is single_label_classification"):
        task_of(tiny.bert(**config))


def test_a_config_without_names_of_classes_is_refused():
    model = tiny.bert()
    model.config.id2label = None  # as PvtConfig(num_labels=3) has it
    with pytest.raises(ValueError, match="BertForSequenceClassification names no classes: id2label is None. Set"):
        task_of(model)


def test_items_of_a_classifier():
    items = one_per_example(torch.zeros(3, 2, dtype=torch.bfloat16), torch.tensor([1, -100, 0]))
    assert items.logits.dtype == torch.float32
    assert items.mask.tolist() == [True, True, True]
    assert items.labeled.tolist() == [True, False, True]
    assert one_per_example(torch.zeros(2, 2), torch.tensor([[1], [0]])).labels.tolist() == [1, 0]
    assert one_per_example(torch.zeros(2, 2), None).labels.tolist() == [-100, -100]
    items = Items(torch.zeros(2, 2), torch.tensor([1, 1]), torch.tensor([True, False]))
    assert items.labeled.tolist() == [True, False]


def test_logits_of_outputs_and_of_tuples():
    logits = torch.ones(1, 2)
    assert logits_of({"logits": logits}) is logits
    assert logits_of((logits, None)) is logits
