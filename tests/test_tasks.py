"""Which models are supported, and how their answers become items."""

import pytest
import tiny
import torch
import torch.nn.functional as F
from every_task import CASES
from transformers import (
    BertForNextSentencePrediction,
    BertForTokenClassification,
    DeiTConfig,
    DeiTForImageClassificationWithTeacher,
    Wav2Vec2Config,
    Wav2Vec2ForSequenceClassification,
    WhisperConfig,
    WhisperForAudioClassification,
    WhisperForConditionalGeneration,
)

from hf_compalign.tasks import CLASSIFIERS, TASKS, Items, labels_in, logits_of, say_ignored_is_a_value, task_of

TEXT, MULTI, VALUES = TASKS[:3]


def test_the_task_is_the_head_of_the_class_or_a_base_class():
    class Custom(type(tiny.bert())):
        pass

    assert task_of(tiny.bert()).name == task_of(Custom(tiny.bert().config)).name == "text-classification"
    distilled = DeiTForImageClassificationWithTeacher(DeiTConfig(hidden_size=12, num_hidden_layers=1))
    assert task_of(tiny.vit()).name == task_of(distilled).name == "image-classification"
    assert all(
        task_of(case.model(0)).name in name for name, case in CASES.items() if "-" in name and "multi" not in name
    )


def test_one_head_may_have_several_problems():
    named = {"problem_type": "multi_label_classification"}
    found = [
        str(task_of(model)) for model in (tiny.bert(), tiny.bert(**named), tiny.bert(n_labels=1), tiny.vit(**named))
    ]
    assert found == [
        "text-classification",
        "text-classification (multi_label_classification)",
        "text-classification (regression)",
        "image-classification (multi_label_classification)",
    ]
    assert [task.is_classifier for task in map(task_of, (tiny.bert(), tiny.bert(n_labels=1)))] == [True, False]


def test_sounds_are_told_from_texts_by_the_main_input():
    small = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    convolutions = {"conv_dim": (8,), "conv_stride": (5,), "conv_kernel": (5,), "num_feat_extract_layers": 1}
    more = {"num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2}
    waves = task_of(Wav2Vec2ForSequenceClassification(Wav2Vec2Config(**small, **convolutions, **more)))
    sizes = {
        f"{side}_{name}": size
        for side in ("encoder", "decoder")
        for name, size in (("layers", 1), ("attention_heads", 2), ("ffn_dim", 8))
    }
    config = WhisperConfig(d_model=8, vocab_size=20, num_mel_bins=4, **sizes, **dict.fromkeys(TOKENS, 1))
    spectra = task_of(WhisperForAudioClassification(config))
    assert [(task.name, task.model_input) for task in (waves, spectra)] == [
        ("audio-classification", "input_values"),
        ("audio-classification", "input_features"),
    ]
    with pytest.raises(ValueError, match="WhisperForConditionalGeneration has a head that is not supported"):
        task_of(WhisperForConditionalGeneration(config))


TOKENS = ("pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id")


def test_other_heads_are_refused_with_the_list():
    with pytest.raises(ValueError, match="Prediction has a head .* ForSequenceClassification .*ForMaskedLM .fill-mask"):
        task_of(BertForNextSentencePrediction(tiny.bert().config))
    with pytest.raises(ValueError, match="BertForTokenClassification has a head .* ForSequenceClass.*ForImageClass"):
        task_of(BertForTokenClassification(tiny.bert().config), CLASSIFIERS)


@pytest.mark.parametrize(
    ("config", "got"),
    [
        ({"problem_type": "multi_label_classification"}, "multi_label_classification"),
        ({"problem_type": "regression"}, "regression"),
        ({"n_labels": 1}, "num_labels=1, which is a regression"),
    ],
)
def test_other_problems_are_refused_where_one_class_is_needed(config, got):
    with pytest.raises(ValueError, match=f"Got {got}; supported is single_label_classification with two labels"):
        task_of(tiny.bert(**config), CLASSIFIERS)


def test_a_single_class_is_refused():
    with pytest.raises(ValueError, match="Got num_labels=1; supported is single_label_classification with two"):
        task_of(BertForTokenClassification(tiny.bert(n_labels=1).config))


def test_a_config_without_names_of_classes_is_refused():
    model = tiny.bert()
    model.config.id2label = None  # as PvtConfig(num_labels=3) has it
    with pytest.raises(ValueError, match="BertForSequenceClassification names no classes: id2label is None. Set"):
        task_of(model)


def items(task, answer, labels, **inputs):
    given = {"input_ids": torch.zeros(answer.shape[:2], dtype=torch.long)} | inputs
    return task.items(answer, labels, given, tiny.bert().config)


def test_items_of_a_classifier():
    found = items(TEXT, torch.zeros(3, 2, dtype=torch.bfloat16), torch.tensor([1, -100, 0]))
    assert found.logits.dtype == torch.float32
    assert found.mask.tolist() == [True, True, True]
    assert found.labeled.tolist() == [True, False, True]
    assert items(TEXT, torch.zeros(2, 2), torch.tensor([[1], [0]])).labels.tolist() == [1, 0]
    assert items(TEXT, torch.zeros(2, 2), None).labels.tolist() == [-100, -100]
    found = Items(torch.zeros(2, 2), torch.tensor([1, 1]), torch.tensor([True, False]))
    assert found.labeled.tolist() == [True, False]


def test_each_of_several_labels_is_a_question_with_the_binary_cross_entropy():
    z, y = torch.randn(4, 3), torch.randint(0, 2, (4, 3)).float()
    found = items(MULTI, z, y)
    own = F.cross_entropy(found.logits.flatten(0, 1), found.labels.flatten())
    assert tiny.distance(own, F.binary_cross_entropy_with_logits(z, y)) < tiny.ROUNDING
    assert torch.equal(found.logits.argmax(-1) == 1, z > 0)
    assert items(MULTI, z, None).labels.tolist() == [[-100] * 3] * 4


def test_targets_between_no_and_yes_count_as_what_they_are_nearer_to():
    soft = torch.tensor([[0.9, 0.5, 0.1], [0.0, -100.0, 1.0]])
    found = items(MULTI, torch.zeros(2, 3), soft)
    assert found.labels.tolist() == [[1, 1, 0], [0, -100, 1]]
    assert found.labeled.sum() == 5
    for wrong in (1.5, -1.0, float("nan")):
        with pytest.raises(
            ValueError, match=f"in between where nobody is sure.* Got {wrong:g} in a batch. Fix the lab"
        ):
            items(MULTI, torch.zeros(1, 2), torch.tensor([[1.0, wrong]]))


def test_a_value_is_known_unless_it_is_nan(caplog):
    say_ignored_is_a_value.cache_clear()
    for value, said in ((3.0, 0), (-100.0, 1), (-100.0, 1)):
        found = items(VALUES, torch.zeros(2, 1), torch.tensor([value, float("nan")]))
        assert found.logits.shape == (2, 1, 1)
        assert found.labeled.tolist() == [[True], [False]]
        assert caplog.text.count("are -100, and are taken for what they are") == said  # once


def test_several_labels_are_refused_where_there_is_one_class():
    assert items(TEXT, torch.zeros(2, 3), torch.tensor([[1], [2]])).labels.tolist() == [1, 2]
    with pytest.raises(
        ValueError, match=r"Each example has one class.* Got labels of shape \(2, 3\).*set config.problem"
    ):
        items(TEXT, torch.zeros(2, 3), torch.zeros(2, 3))


def test_a_causal_model_is_asked_for_the_next_token():
    task = task_of(CASES["text-generation"].model(0))
    mask = torch.tensor([[1, 1, 1], [1, 1, 0], [0, 1, 1]])
    ids = torch.tensor([[4, 5, 6], [7, 8, 1], [1, 9, 4]])
    labels = ids.masked_fill(mask == 0, -100)
    found = items(task, torch.zeros(3, 3, 9), labels)
    assert found.labels.tolist() == [[5, 6, -100], [8, -100, -100], [9, 4, -100]]
    found = items(task, torch.zeros(3, 3, 9), None, attention_mask=mask)
    assert found.mask.tolist() == [[True, True, False], [True, False, False], [False, True, False]]


def test_positions_beyond_the_text_are_unknown():
    task = task_of(CASES["question-answering"].model(0))
    batch = {"start_positions": torch.tensor([1, 5, 9]), "end_positions": torch.tensor([[2], [5], [9]])}
    labels = labels_in(batch, task.label_names)
    ids = torch.zeros(3, 5, dtype=torch.long)
    found = task.items(torch.zeros(3, 2, 5), labels, {"input_ids": ids}, None)
    assert found.labels.tolist() == [[1, 2], [-100, -100], [-100, -100]]
    assert labels_in({"start_positions": torch.tensor([1])}, task.label_names) is None


def test_a_model_without_the_logits_of_positions_is_refused():
    task = task_of(CASES["question-answering"].model(0))
    with pytest.raises(ValueError, match="must return start_logits and end_logits. Got start_top_index. Use a class"):
        task.answer({"start_top_index": None})


def test_logits_of_outputs_and_of_tuples():
    logits = torch.ones(1, 2)
    assert logits_of({"logits": logits}) is logits
    assert logits_of((logits, None)) is logits
