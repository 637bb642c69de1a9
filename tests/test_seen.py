"""The layers that make the logits are found by what they do; asking a model changes nothing in it."""

import pytest
import tiny
import torch
import transformers
import zoo

from hf_compalign.compress import prunable_weights, seen_in
from hf_compalign.compress.quantize import quantize_

STAGES = {"hidden_sizes": [8, 16], "depths": [1, 1], "embedding_size": 8}
LEVIT = {"image_size": 64, "hidden_sizes": [8, 8, 8], "num_attention_heads": [1, 1, 1], "depths": [1, 1, 1]}
LEVIT |= {"key_dim": [8, 8, 8]}
HGNET = {"embedding_size": 8, "stem_channels": [3, 8, 8], "hidden_sizes": [8] * 4, "depths": [1] * 4}
HGNET |= {f"stage_{name}": [8] * 4 for name in ("in_channels", "mid_channels", "out_channels")}
HGNET |= {"stage_num_blocks": [1] * 4, "stage_numb_of_layers": [1] * 4}
ENCODER_DECODER = {"vocab_size": 40, "d_model": 8}
BART = ENCODER_DECODER | {
    f"{side}_{name}": n
    for side in ("encoder", "decoder")
    for name, n in {"layers": 1, "attention_heads": 2, "ffn_dim": 8}.items()
}
T5 = {
    "vocab_size": 40,
    "d_model": 8,
    "d_kv": 8,
    "d_ff": 8,
    "num_layers": 1,
    "num_heads": 1,
    "decoder_start_token_id": 0,
}
GPT2 = {"vocab_size": 40, "n_embd": 8, "n_layer": 1, "n_head": 2, "n_positions": 32, "pad_token_id": 0}
XLM = {"vocab_size": 40, "emb_dim": 8, "n_layers": 1, "n_heads": 2, "max_position_embeddings": 32}
# Class -> its config, and the layers that make its logits.
HEADS = {
    "ResNetForImageClassification": (STAGES | {"layer_type": "basic"}, ["classifier.1"]),
    "RegNetForImageClassification": (STAGES | {"groups_width": 8}, ["classifier.1"]),
    "BitForImageClassification": (STAGES | {"embedding_size": 32, "hidden_sizes": [128, 128]}, ["classifier.1"]),
    "LevitForImageClassification": (LEVIT, ["classifier.linear"]),
    "LevitForImageClassificationWithTeacher": (LEVIT, ["classifier.linear", "classifier_distill.linear"]),
    "DeiTForImageClassificationWithTeacher": (zoo.IMAGE, ["cls_classifier", "distillation_classifier"]),
    "HGNetV2ForImageClassification": (HGNET, ["fc"]),
    "BartForSequenceClassification": (BART, ["classification_head.out_proj"]),
    "T5ForSequenceClassification": (T5, ["classification_head.out_proj"]),
    "GPT2ForSequenceClassification": (GPT2, ["score"]),
    "GPT2LMHeadModel": (GPT2, ["lm_head"]),
    "XLMForSequenceClassification": (XLM, ["sequence_summary.summary"]),
    "RobertaForSequenceClassification": (zoo.TEXT, ["classifier.out_proj"]),
    "BertForQuestionAnswering": (zoo.TEXT | {"num_labels": 2}, ["qa_outputs"]),
    "BertModel": (zoo.TEXT, []),
}


def build(name):
    torch.manual_seed(0)
    settings, head = HEADS[name]
    cls = getattr(transformers, name)
    return cls(cls.config_class(**({"num_labels": 3} | settings))).eval(), head


@pytest.mark.parametrize("name", HEADS)
def test_the_head_is_what_makes_the_logits_and_no_verb_touches_it(name, caplog):
    model, head = build(name)
    with tiny.unchanged(model):
        assert sorted(seen_in(model).head) == head
        assert not {f"{layer}.weight" for layer in head} & {*prunable_weights(model)}
    kinds = (torch.nn.Linear, torch.nn.Embedding)
    if {name for name, module in model.named_modules() if isinstance(module, kinds)} - {*head}:
        summary = quantize_(model, "onnxruntime-w8a8")
        assert {*head} <= {*summary.left_out}
        assert not {*head} & {*summary.layers}
    else:
        with pytest.raises(ValueError, match=f"is left to quantize .*; left out by default: {head[0]}. Its layers are"):
            quantize_(model, "onnxruntime-w8a8")
    assert not [record for record in caplog.records if record.name.startswith("hf_compalign")]


@pytest.mark.parametrize("kind", ["bert", "deberta-v2-shared-key", "modernbert", "vit"])
def test_layers_that_run(kind):
    model = zoo.build(kind)
    layers = {n for n, module in model.named_modules() if isinstance(module, zoo.LAYERS)}
    # The weights of the relative positions are read without their embedding being called.
    assert {*seen_in(model).run} == layers - {"deberta.encoder.rel_embeddings"}
    assert seen_in(model).head == ("classifier",)


def test_asking_leaves_the_model_and_the_random_numbers_as_they_were():
    """BigBird attends fully from its first short text on; hooks of others stay and can be removed."""
    sizes = {"num_hidden_layers": 1, "block_size": 8, "max_position_embeddings": 256, "sep_token_id": 2}
    config = transformers.BigBirdConfig(**(zoo.TEXT | sizes), attention_type="block_sparse")
    model = transformers.BigBirdForSequenceClassification(config).train()
    model.classifier.eval()
    hook = model.classifier.register_forward_hook(lambda *_: None)
    parts, modes = [*model.modules()], [module.training for module in model.modules()]
    state = torch.get_rng_state()
    assert seen_in(model).head == ("classifier.out_proj",)
    assert model.bert.attention_type == "block_sparse"
    assert [*model.modules()] == parts
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)
    hook.remove()
    assert not any(module._forward_hooks for module in model.modules())


class Choosy(type(tiny.bert())):
    """Wants an input that nobody makes up."""

    def forward(self, input_ids=None, *, key, **inputs):
        return super().forward(input_ids, **inputs)


def test_a_model_that_cannot_be_asked_is_judged_by_names(caplog):
    model = tiny.bert()
    model.__class__ = Choosy
    assert seen_in(model).head == ("classifier",)
    assert not caplog.records
    model.last, model.classifier = model.classifier, torch.nn.Identity()
    assert seen_in(model).head == ()
    assert "Which layers of Choosy make the logits is not known" in caplog.text
    assert "Name them in exclude=" in caplog.text
