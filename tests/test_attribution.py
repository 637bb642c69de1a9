"""Attributions: by hand on linear models, complete on real ones, the same however they are batched, nothing touched."""

import logging
import math
import sys

import numpy as np
import pytest
import tiny
import torch
import traced
import zoo
from captum.attr import LayerIntegratedGradients
from datasets import Dataset, Features, Image
from quantized import CONVERTED, by_scheme
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BartConfig,
    BartForSequenceClassification,
    BertConfig,
    CanineConfig,
    CanineForSequenceClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
    LongformerConfig,
    LongformerForSequenceClassification,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    ViTConfig,
    ViTImageProcessorPil,
    XLNetConfig,
    XLNetForSequenceClassification,
)
from transformers.modeling_outputs import SequenceClassifierOutput

from hf_compalign.compress.prune import prune_
from hf_compalign.compress.quantize import prepare_, quantizable_layers, quantize_, scheme_of
from hf_compalign.compress.shrink import LayerPlan, ShrinkPlan, cut_
from hf_compalign.measure.attribution import (
    METHODS,
    AttributionOptions,
    Attributor,
    Batch,
    attribution_agreement,
    cell_size,
    check_explainable,
    explain,
    opened_pair,
    randomized,
    similarities,
)
from hf_compalign.measure.audit import audit
from hf_compalign.measure.predictions import predict

WORDS = ["bad", "good", "film", "book", "the", "a"]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
SENTENCES = ["the good film", "a bad book", "good", "the film the film a bad book", "a strange bad film bad book", "a"]


def tokenizer(words=WORDS):
    vocabulary = {word: index for index, word in enumerate([*SPECIAL, *words])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {f"{name[1:-1].lower()}_token": name for name in SPECIAL}
    return PreTrainedTokenizerFast(tokenizer_object=backend, model_max_length=32, **names)


def sentences():
    return Dataset.from_dict({"text": SENTENCES})


def options(**settings):
    return AttributionOptions(**({"n_items": 6, "n_steps": 8, "top_k": 2} | settings))


def agreed(reference, candidate, dataset=None, *, predictions=None, **settings):
    """The agreement on some rows, by default the sentences, and the explanations."""
    reading = {"options": options(**settings)} | ({"processing_class": tokenizer()} if dataset is None else {})
    return attribution_agreement(reference, candidate, dataset or sentences(), predictions=predictions, **reading)


def explained(rows):
    """What one model of raw texts is explained by."""
    model = tiny.bert(n_labels=2)
    return explain(model, model, rows, processing_class=tokenizer(), options=options())


def similarity_of(agreement, name="cosine"):
    return next(row for row in agreement.rows if row.similarity == name)


class LinearForSequenceClassification(PreTrainedModel):
    """Logits that are a sum over the tokens: weight @ embedding."""

    config_class = BertConfig
    main_input_name = "input_ids"

    def __init__(self, config):
        super().__init__(config)
        self.words = torch.nn.Embedding(config.vocab_size, 4)
        self.weight = torch.nn.Parameter(torch.randn(config.num_labels, 4))
        self.post_init()

    def get_input_embeddings(self):
        return self.words

    def forward(self, input_ids, attention_mask):
        summed = (self.words(input_ids) * attention_mask[..., None]).sum(1)
        return SequenceClassifierOutput(logits=summed @ self.weight.T)


class LinearForImageClassification(PreTrainedModel):
    """Logits that are a weighted sum of the pixels."""

    config_class = ViTConfig
    main_input_name = "pixel_values"

    def __init__(self, config):
        super().__init__(config)
        self.weight = torch.nn.Parameter(torch.randn(config.num_labels, 2, 6, 8))
        self.post_init()

    def forward(self, pixel_values):
        return SequenceClassifierOutput(logits=torch.einsum("bchw,lchw->bl", pixel_values, self.weight))


def linear_text():
    torch.manual_seed(0)
    return LinearForSequenceClassification(BertConfig(vocab_size=12, num_labels=3, pad_token_id=0)).eval()


def linear_image():
    torch.manual_seed(0)
    return LinearForImageClassification(ViTConfig(num_labels=3, patch_size=4)).eval()


@pytest.mark.parametrize("method", METHODS["text"])
def test_a_linear_model_of_embeddings_by_hand(method):
    model, ids = linear_text(), torch.tensor([[2, 5, 7, 3], [2, 6, 3, 0]])
    content = torch.tensor([[False, True, True, False], [False, True, False, False]])
    targets = torch.tensor([1, 2])
    batch = Batch({"input_ids": ids, "attention_mask": (ids != 0).long()}, targets, [0, 1], content, pad_id=0)
    found = Attributor(model, method, options()).explain(batch)
    words, weight = model.words.weight.detach(), model.weight.detach()
    for row, tokens in enumerate([[5, 7], [6]]):
        expected = {
            "layer_integrated_gradients": [weight[targets[row]] @ (words[token] - words[0]) for token in tokens],
            "input_x_gradient": [weight[targets[row]] @ words[token] for token in tokens],
            "saliency": [weight[targets[row]].abs().sum() for _ in tokens],
        }[method]
        np.testing.assert_allclose(found[row].scores, torch.stack(expected), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("method", METHODS["image"])
def test_a_linear_model_of_pixels_by_hand(method):
    model, pixels = linear_image(), torch.randn(3, 2, 6, 8)
    targets = torch.tensor([0, 2, 1])
    batch = Batch({"pixel_values": pixels}, targets, [0, 1, 2])
    found = Attributor(model, method, options(batch_size=6)).explain(batch)
    weight = model.weight.detach()[targets]
    per_pixel = weight.abs() if method == "saliency" else weight * pixels
    # Cells of 4 x 4 pixels, the lower ones cut off by the edge.
    for row in range(3):
        cells = [per_pixel[row, :, y : y + 4, x : x + 4].sum() for y in (0, 4) for x in (0, 4)]
        assert found[row].shape == (2, 2)
        np.testing.assert_allclose(found[row].scores, torch.stack(cells), rtol=1e-4, atol=1e-5)


def test_layer_integrated_gradients_are_those_of_captum():
    model = tiny.bert().eval()
    ids = torch.randint(1, 40, (3, 6), generator=torch.Generator().manual_seed(0))
    mask, targets = torch.ones_like(ids), torch.tensor([0, 1, 2])
    batch = Batch({"input_ids": ids, "attention_mask": mask}, targets, [0, 1, 2], mask.bool(), pad_id=0)
    found = Attributor(model, "layer_integrated_gradients", options()).explain(batch)
    layer = LayerIntegratedGradients(lambda one, other: model(one, other).logits, model.get_input_embeddings())
    expected = layer.attribute(ids, torch.zeros_like(ids), target=targets, additional_forward_args=mask, n_steps=8)
    np.testing.assert_allclose([one.scores for one in found], expected.sum(-1).detach(), atol=1e-6)


def bart():
    """An encoder and a decoder, which reads the text one place later, with one table of words."""
    sizes = {"encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
    sizes |= {"d_model": 16, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "scale_embedding": True, "init_std": 0.3}
    config = BartConfig(vocab_size=40, max_position_embeddings=40, num_labels=3, eos_token_id=3, **sizes)
    return BartForSequenceClassification(config).eval()


def xlnet():
    """Looks up the first tokens of all texts, then the second."""
    sizes = {"d_model": 16, "n_layer": 1, "n_head": 2, "d_inner": 16, "initializer_range": 0.3}
    return XLNetForSequenceClassification(XLNetConfig(vocab_size=40, num_labels=3, **sizes)).eval()


def longformer():
    """Pads texts of 9 tokens to 12."""
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = LongformerConfig(attention_window=4, vocab_size=40, num_labels=3, initializer_range=0.3, **sizes)
    return LongformerForSequenceClassification(config).eval()


OTHERS = {"bart": bart, "xlnet": xlnet, "longformer": longformer}


@pytest.mark.parametrize("name", ["bert", "roberta", "distilbert", "electra", "deberta-v2", "modernbert", *OTHERS])
def test_the_scores_of_a_text_add_up_to_the_difference_of_the_logits(name):
    torch.manual_seed(0)
    model = (OTHERS[name]() if name in OTHERS else zoo.build(name)).double()
    inputs, targets = zoo.inputs(model), torch.arange(5) % 3
    content = inputs["attention_mask"].bool()
    content[:, 0] = False  # as a special token would be
    if name == "bart":
        inputs["input_ids"][torch.arange(5), content.sum(1)] = 3  # ends the text
        content[torch.arange(5), content.sum(1)] = False
    batch = Batch(inputs, targets, range(5), content, pad_id=4)
    found = Attributor(model, "layer_integrated_gradients", options(n_steps=200, batch_size=500)).explain(batch)
    blank = torch.where(content, 4, inputs["input_ids"])
    with torch.no_grad():
        before, after = (model(**(inputs | {"input_ids": ids})).logits for ids in (blank, inputs["input_ids"]))
    expected = (after - before).gather(1, targets[:, None])[:, 0]
    # The head of DistilBERT has a kink, which takes many steps.
    tolerance = 0.02 if name == "distilbert" else 2e-3
    np.testing.assert_allclose([one.scores.sum() for one in found], expected, atol=tolerance)
    np.testing.assert_allclose([one.difference for one in found], expected, atol=1e-9)
    np.testing.assert_allclose([one.delta for one in found], 0, atol=tolerance)


@pytest.mark.parametrize("name", ["vit", "beit"])
def test_the_scores_of_an_image_add_up_to_the_difference_of_the_logits(name):
    model = zoo.build(name).double()
    pixels, targets = zoo.inputs(model)["pixel_values"].double(), torch.arange(5) % 3
    attributor = Attributor(model, "integrated_gradients", options(n_steps=200, batch_size=500))
    found = attributor.explain(Batch({"pixel_values": pixels}, targets, range(5)))
    with torch.no_grad():
        differences = (model(pixels).logits - model(torch.zeros_like(pixels)).logits).gather(1, targets[:, None])
    np.testing.assert_allclose([one.scores.sum() for one in found], differences[:, 0], atol=2e-3)


def test_occlusion_is_the_fall_of_the_logit():
    model, pixels = tiny.vit().eval(), torch.randn(2, 1, 8, 8)
    batch = Batch({"pixel_values": pixels}, torch.tensor([1, 0]), [0, 1])
    found = Attributor(model, "occlusion", options(batch_size=8)).explain(batch)
    hidden = pixels.clone()
    hidden[:, :, 4:, :4] = 0
    with torch.no_grad():
        fall = model(pixels).logits - model(hidden).logits
    np.testing.assert_allclose([one.scores[2] for one in found], [fall[0, 1], fall[1, 0]], atol=1e-6)


class Scrambled(LinearForSequenceClassification):
    """Looks its words up in an order of its own."""

    def forward(self, input_ids, attention_mask):
        return super().forward(input_ids.flip(1), attention_mask)


def canine():
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    return CanineForSequenceClassification(CanineConfig(**sizes, num_hash_buckets=8, num_hash_functions=2)).eval()


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (canine, "cannot explain CanineForSequenceClassification: on the first row there is .*another architecture"),
        (lambda: Scrambled(BertConfig(vocab_size=12)), "order or form that cannot be traced back .* another archit"),
    ],
)
def test_what_cannot_be_explained_is_refused_before_all_rows_are_asked(build, message):
    model, rows = build(), []
    model.register_forward_hook(lambda _, __, answer: rows.append(len(answer.logits)))
    for function, name in ((explain, "options"), (attribution_agreement, "options"), (audit, "attribution")):
        with pytest.raises(ValueError, match=message):
            function(model, model, few_words(), **{name: options()})
    assert sum(rows) <= 3


def test_an_image_in_patches_has_no_grid():
    batch = Batch({"pixel_values": torch.zeros(1, 16, 192)}, torch.tensor([0]), [0])
    with pytest.raises(ValueError, match="reads an image as 16 x 192 numbers .* no grid over it"):
        Attributor(tiny.vit(), "integrated_gradients", options()).explain(batch)


def test_few_steps_are_reported(caplog):
    with caplog.at_level(logging.WARNING):
        found, _ = agreed(tiny.bert(), tiny.bert(seed=1), tiny.texts(), n_steps=1)
    assert "1 steps are few" in caplog.text
    assert found.convergence_delta_reference > 0.05
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        found, _ = agreed(linear_text(), linear_text(), few_words(), n_steps=1)
    assert caplog.text == ""
    assert found.convergence_delta_reference == pytest.approx(0, abs=1e-6)


def few_words(n=8):
    """Rows that a vocabulary of 12 suffices for."""
    ids = np.random.default_rng(0).integers(4, 12, size=(n, 6))
    return Dataset.from_dict({"input_ids": ids.tolist(), "attention_mask": np.ones_like(ids).tolist()})


@pytest.mark.parametrize("method", METHODS["text"])
def test_a_text_model_and_itself(method):
    model = tiny.bert(n_labels=2)
    found, explanations = agreed(model, model, method=method)
    assert (found.method, found.n_items, found.n_agreeing, found.n_mismatches) == (method, 6, 6, 0)
    for row in found.rows:
        assert row.all.value == row.agreeing.value == pytest.approx(1)
        assert math.isnan(row.mismatches.value)
        assert row.floor.value < row.repeat.value <= 1
    assert math.isnan(found.convergence_delta_reference) == (method != "layer_integrated_gradients")
    assert len(explanations) == 6
    assert all(one.reference == one.candidate for one in explanations.values())


@pytest.mark.parametrize("method", METHODS["image"])
def test_an_image_model_and_another(method):
    model, other = tiny.vit(), tiny.vit(seed=1)
    found, _ = agreed(model, other, tiny.images(12), method=method, n_items=12)
    same, _ = agreed(model, model, tiny.images(12), method=method, n_items=12)
    assert similarity_of(same).all.value == pytest.approx(1)
    assert similarity_of(found).all.value < similarity_of(found).repeat.value <= 1
    # What the reference is compared with does not change what it is compared with itself.
    assert similarity_of(found).repeat == similarity_of(same).repeat
    assert similarity_of(found).floor == similarity_of(same).floor


def test_the_numbers_are_means_over_the_right_items():
    reference, candidate, dataset = tiny.bert(), tiny.bert(seed=1), tiny.texts(40)
    predictions = predict(reference, dataset), predict(candidate, dataset)
    changed = predictions[0].predicted != predictions[1].predicted
    assert 10 < changed.sum() < 35
    chosen = options(n_items=40)
    found, explanations = attribution_agreement(reference, candidate, dataset, predictions=predictions, options=chosen)
    shown = explain(reference, candidate, dataset, options=chosen)
    for name, one in zip(predictions[0].ids, shown, strict=True):
        other = explanations[name]
        assert (other.target, other.tokens) == (one.target, one.tokens)
        np.testing.assert_allclose(other.reference + other.candidate, one.reference + one.candidate, atol=2.1e-4)
        assert all(score == round(score, 4) for score in one.reference + one.candidate)
    each = np.array([similarities(one.reference, one.candidate)["cosine"] for one in shown])
    row = similarity_of(found)
    assert row.all.value == pytest.approx(each.mean(), abs=1e-4)
    assert row.agreeing.value == pytest.approx(each[~changed].mean(), abs=1e-4)
    assert row.mismatches.value == pytest.approx(each[changed].mean(), abs=1e-4)
    assert row.mismatches.low < row.mismatches.value < row.mismatches.high
    assert (found.n_items, found.n_agreeing, found.n_mismatches) == (40, (~changed).sum(), changed.sum())
    assert [one.target for one in shown] == predictions[0].predicted.tolist()


def test_more_mismatches_are_drawn_and_count_for_mismatches_alone():
    reference, candidate, dataset = tiny.bert(), tiny.bert(seed=1), tiny.texts(40)
    few, _ = agreed(reference, candidate, dataset, n_items=8, n_mismatches=0)
    more, explanations = agreed(reference, candidate, dataset, n_items=8, n_mismatches=10)
    assert (few.n_items, more.n_items) == (8, 8)
    assert few.n_agreeing == more.n_agreeing == 8 - few.n_mismatches
    assert more.n_mismatches == 10
    assert len(explanations) == 10 + more.n_agreeing
    for before, after in zip(few.rows, more.rows, strict=True):
        for kind in ("all", "agreeing", "floor", "repeat"):
            assert getattr(before, kind) == getattr(after, kind)
        assert before.mismatches != after.mismatches


def test_the_seed_says_which_items():
    reference, candidate, dataset = tiny.bert(), tiny.bert(seed=1), tiny.texts(40)
    runs = [agreed(reference, candidate, dataset, seed=seed, n_mismatches=0) for seed in (0, 0, 1)]
    assert runs[0] == runs[1]
    assert runs[0][1].keys() != runs[2][1].keys()
    assert runs[2][0].seed == 1


def test_masked_items_are_not_drawn():
    model, dataset = tiny.bert(), tiny.texts(10)
    answers = predict(model, dataset)
    both = answers, answers
    answers.mask[:7] = False
    found, explanations = agreed(model, model, dataset, predictions=both)
    assert found.n_items == 3
    assert {*explanations} == {*answers.ids[7:]}
    answers.mask[:] = False
    with pytest.raises(ValueError, match="nothing to compare: all 10 items are masked out"):
        agreed(model, model, dataset, predictions=both)


def test_labels_are_matched_by_name():
    reference, candidate, other = (
        tiny.bert(id2label=dict(enumerate(names)), label2id={name: index for index, name in enumerate(names)})
        for names in ("abc", "cab", "xyz")
    )
    with torch.no_grad():
        candidate.classifier.weight.copy_(reference.classifier.weight[[2, 0, 1]])
    found, _ = agreed(reference, candidate, tiny.texts(labels=False))
    assert found.n_mismatches == 0
    assert similarity_of(found).all.value == pytest.approx(1)
    with pytest.raises(ValueError, match="must answer with the same labels"):
        attribution_agreement(reference, other, tiny.texts())


def test_special_tokens_are_left_out_and_unknown_words_are_not():
    found = explained(sentences())
    expected = [tuple(word if word in WORDS else "[UNK]" for word in text.split()) for text in SENTENCES]
    assert [one.tokens for one in found] == expected
    assert all(len(one.tokens) == len(one.reference) == len(one.candidate) for one in found)
    assert all(max(map(abs, one.reference)) == 1 for one in found)
    assert {(one.kind, one.shape) for one in found} == {("text", None)}


def test_pairs_of_texts():
    pairs = Dataset.from_dict({"premise": ["good film", "a"], "hypothesis": ["bad", "the book"]})
    assert [one.tokens for one in explained(pairs)] == [("good", "film", "bad"), ("a", "the", "book")]


def test_an_empty_text_says_nothing():
    model, dataset = tiny.bert(n_labels=2), Dataset.from_dict({"text": [""]})
    found, explanations = attribution_agreement(model, model, dataset, processing_class=tokenizer(), options=options())
    assert all(math.isnan(row.all.value) for row in found.rows)
    assert next(iter(explanations.values())).reference == ()


def test_images_have_a_grid():
    targets = [0, 1, 2, 0, 1]
    found = explain(tiny.vit(), tiny.vit(seed=1), tiny.images(5), targets=targets, options=options())
    assert [one.target for one in found] == targets
    assert {(one.kind, one.shape, one.tokens) for one in found} == {("image", (2, 2), ())}


@pytest.mark.parametrize(
    ("patch", "size", "expected"),
    [(16, (224, 224), (16, 16)), (4, (224, 160), (16, 12)), ([14, 7], (518, 56), (42, 7)), (32, (8, 40), (8, 32))],
)
def test_cells_are_whole_patches_and_at_most_16_a_side(patch, size, expected):
    assert cell_size(ViTConfig(patch_size=patch), size) == expected


def test_without_patches_cells_are_of_pixels():
    assert cell_size(BertConfig(), (224, 30)) == (14, 2)


@pytest.mark.parametrize("method", METHODS["text"])
def test_neither_padding_nor_the_batch_size_changes_a_score(method):
    reference, candidate = tiny.bert(n_labels=2), tiny.bert(n_labels=2, seed=1)
    (whole, shown), *runs = (agreed(reference, candidate, method=method, batch_size=n) for n in (1, 4, 16))
    for found, explanations in runs:
        for name, one in explanations.items():
            first = shown[name]
            np.testing.assert_allclose(one.reference + one.candidate, first.reference + first.candidate, atol=2.1e-4)
        for row, first in zip(found.rows, whole.rows, strict=True):
            for kind in ("all", "floor", "repeat"):
                assert getattr(row, kind).value == pytest.approx(getattr(first, kind).value, abs=1e-4)


def test_folders_bring_their_own_tokenizers(tmp_path):
    tiny.bert(n_labels=2).save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    assert explain(tmp_path, str(tmp_path), sentences(), options=options()) == explained(sentences())


def test_random_weights_keep_words_and_vectors():
    model = tiny.bert()
    own = dict(model.named_parameters())
    found = randomized(model, seed=0)
    words = model.get_input_embeddings().weight
    assert {*own} - {*found} == {name for name, one in own.items() if one.ndim == 1 or one is words}
    name = "bert.encoder.layer.0.intermediate.dense.weight"
    assert found[name].square().mean() == pytest.approx(own[name].square().mean().item(), rel=0.2)
    assert abs(torch.corrcoef(torch.stack([found[name].flatten(), own[name].flatten()]))[0, 1]) < 0.2
    assert all(torch.equal(values, randomized(model, seed=0)[name]) for name, values in found.items())
    assert not torch.equal(found[name], randomized(model, seed=1)[name])
    assert "vit.embeddings.patch_embeddings.projection.weight" in randomized(tiny.vit(), seed=0)


def test_the_other_baseline_of_a_text_is_the_mask_token():
    model, ids = linear_text(), torch.tensor([[2, 5, 7, 3]])
    content = torch.tensor([[False, True, True, False]])
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    words, weight = model.words.weight.detach(), model.weight.detach()
    for mask_id, blank in ((4, words[4]), (None, words.mean(0))):
        batch = Batch(inputs, torch.tensor([1]), [0], content, pad_id=0, mask_id=mask_id)
        found = Attributor(model, "layer_integrated_gradients", options(), varied=True).explain(batch)[0]
        np.testing.assert_allclose(found.scores, (words[[5, 7]] - blank) @ weight[1], rtol=1e-4, atol=1e-6)


def test_a_mask_token_that_the_model_does_not_know_is_no_baseline():
    """A tokenizer that is not given one may number one beyond the model's embeddings."""
    small, grown = tiny.bert(n_labels=2, vocab_size=len(SPECIAL + WORDS)), tokenizer()
    grown.add_special_tokens({"mask_token": "[BLANK]"})
    assert grown.mask_token_id == small.config.vocab_size
    found, _ = attribution_agreement(small, small, sentences(), processing_class=grown, options=options())
    assert 0 < similarity_of(found).repeat.value < 1


@pytest.mark.parametrize("method", METHODS["text"])
def test_a_padding_token_that_the_model_does_not_know_is_no_baseline(method):
    """GPT-2 has none; one that was added to its tokenizer alone is beyond its embeddings, which stay as they were."""
    torch.manual_seed(0)
    shape = {"n_embd": 8, "n_layer": 1, "n_head": 2, "n_positions": 32, "bos_token_id": None, "eos_token_id": None}
    config = GPT2Config(vocab_size=len(SPECIAL + WORDS), num_labels=2, **shape)
    model, grown = GPT2ForSequenceClassification(config), tokenizer()
    grown.add_special_tokens({"pad_token": "[FILL]"})
    model.config.pad_token_id = grown.pad_token_id
    assert grown.pad_token_id == config.vocab_size
    rows = Dataset.from_dict({"text": ["the good film", "a bad book"]})
    found = explain(model, model, rows, processing_class=grown, options=options(method=method))
    assert [one.tokens for one in found] == [("the", "good", "film"), ("a", "bad", "book")]
    prepared = Dataset.from_dict(dict(grown(list(rows["text"]))))  # only the config tells of padding then
    assert [len(one.tokens) for one in explain(model, model, prepared, options=options(method=method))] == [5, 5]


def test_a_config_need_not_tell_the_size_of_the_vocabulary():
    model = linear_text()
    model.config = PreTrainedConfig(num_labels=3)
    assert not hasattr(model.config, "vocab_size")
    found, _ = agreed(model, model)
    assert similarity_of(found).all.value == pytest.approx(1)


@pytest.mark.parametrize("method", ["saliency", "input_x_gradient"])
def test_a_method_without_a_baseline_needs_no_token_for_it(method):
    ids = torch.tensor([[2, 5, 7, 3]])
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    batch = Batch(inputs, torch.tensor([1]), [0], torch.ones_like(ids).bool(), pad_id=99, mask_id=99)
    for varied in (False, True):
        assert len(Attributor(linear_text(), method, options(), varied=varied).explain(batch)[0].scores) == 4


@pytest.mark.parametrize("method", ["integrated_gradients", "occlusion"])
def test_the_other_baseline_of_an_image_is_its_mean_color(method):
    model, pixels = linear_image(), torch.randn(1, 2, 6, 8)
    batch = Batch({"pixel_values": pixels}, torch.tensor([1]), [0])
    found = Attributor(model, method, options(), varied=True).explain(batch)[0]
    per_pixel = model.weight.detach()[1] * (pixels - pixels.mean((2, 3), keepdim=True))[0]
    assert found.scores[0] == pytest.approx(per_pixel[:, :4, :4].sum().item(), abs=1e-5)


def test_models_of_other_architectures_that_read_the_same_tokens():
    config = DistilBertConfig(vocab_size=40, dim=8, n_layers=1, n_heads=2, hidden_dim=8, num_labels=2)
    found, explanations = agreed(tiny.bert(n_labels=2), DistilBertForSequenceClassification(config))
    assert found.n_items == len(explanations) == 6
    assert similarity_of(found).all.value < 1


def test_a_shrunk_model_that_lost_nothing_that_matters():
    reference, candidate = tiny.bert(), tiny.bert()
    with torch.no_grad():
        for model in (reference, candidate):
            model.bert.encoder.layer[0].output.dense.weight[:, 20:] = 0
    layers = LayerPlan(0, heads=(0, 1), neurons=range(20)), LayerPlan(1, heads=(0, 1), neurons=range(32))
    cut_(candidate, ShrinkPlan(layers))
    found, _ = agreed(reference, candidate, tiny.texts())
    assert similarity_of(found).all.value == pytest.approx(1)


def test_a_pruned_and_a_fake_quantized_model():
    reference, pruned, quantized = (tiny.bert() for _ in range(3))
    prune_(pruned, sparsity=0.8)
    scheme = scheme_of("onnxruntime-w8a8")
    prepare_(quantized, scheme, [*quantizable_layers(quantized, scheme)])
    values = [similarity_of(agreed(reference, one, tiny.texts())[0]).all.value for one in (pruned, quantized)]
    assert values[0] < values[1] < 1
    assert values[1] > 0.9


def test_what_quantized_weights_let_through():
    reference, weights, both = (tiny.bert(hidden_size=32, intermediate_size=32) for _ in range(3))
    quantize_(weights, "torchao-w8")
    quantize_(both, "torchao-w8a8")
    found, _ = agreed(reference, weights, tiny.texts())
    assert 0.9 < similarity_of(found).all.value < 1
    backwards, _ = agreed(weights, reference, tiny.texts())
    assert math.isnan(similarity_of(backwards).floor.value)  # its weights cannot be drawn anew
    message = "layer bert.* of BertForSequenceClassification computes with integers.* Explain the model as it was"
    with pytest.raises(ValueError, match=f"{message} before"):
        agreed(reference, both, tiny.texts())


@pytest.mark.parametrize("scheme", by_scheme(CONVERTED))
def test_a_model_whose_weights_let_gradients_through_is_known_by_its_layers(scheme):
    model = tiny.bert(hidden_size=32, intermediate_size=32)
    quantize_(model, scheme, calibration=tiny.texts(4) if scheme_of(scheme).calibrated else None)
    model.config.compression = None  # another library would have written no such record
    inputs = {"input_ids": torch.ones(1, 4, dtype=torch.long)}
    embedded = model.get_input_embeddings()(inputs["input_ids"]).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(model(inputs_embeds=embedded).logits.sum(), embedded, allow_unused=True)
    calls = []
    for layer in model.modules():
        layer.register_forward_hook(lambda *_: calls.append(1))
    if scheme in ("torchao-w8a8", "torchao-w4a8"):
        with pytest.raises(ValueError, match="computes with integers"):
            check_explainable(model, "saliency")
    else:
        assert gradient is not None
        assert gradient.abs().sum() > 0
        check_explainable(model, "saliency")
    check_explainable(model, "occlusion")
    assert not calls


def test_nothing_of_the_models_changes():
    reference, candidate = tiny.bert(dropout=0.5).train(), tiny.bert(seed=1).train()
    reference.bert.encoder.eval()
    candidate.classifier.weight.requires_grad_(False)
    candidate.classifier.bias.grad = torch.ones(3)
    state = torch.get_rng_state()
    with torch.no_grad(), tiny.unchanged(reference, config=False):
        for method in METHODS["text"]:
            agreed(reference, candidate, tiny.texts(), method=method)
    assert torch.equal(torch.get_rng_state(), state)
    assert reference.training
    assert not reference.bert.encoder.training
    assert candidate.training
    assert all(one.requires_grad and one.grad is None for one in reference.parameters())
    assert not candidate.classifier.weight.requires_grad
    assert candidate.classifier.bias.grad.tolist() == [1, 1, 1]
    assert not any(module._forward_hooks for model in (reference, candidate) for module in model.modules())


@pytest.fixture(scope="module")
def onnx_file(tmp_path_factory):
    folder = tmp_path_factory.mktemp("onnx")
    model = tiny.vit()
    model.config.architectures = ["ViTForImageClassification"]
    model.config.save_pretrained(folder)
    traced.export_graph(model, folder / "model.onnx")
    return folder / "model.onnx"


def test_a_file_has_no_gradients_but_can_be_occluded(onnx_file):
    model = tiny.vit()
    with pytest.raises(ValueError, match=r"model.onnx is run by ONNX Runtime, which has none. .* method='occlusion'"):
        agreed(model, onnx_file, tiny.images())
    found, _ = agreed(model, onnx_file, tiny.images(6), method="occlusion")
    assert similarity_of(found).all.value == pytest.approx(1)
    backwards, _ = agreed(onnx_file, model, tiny.images(6), method="occlusion")
    assert similarity_of(backwards).all.value == pytest.approx(1)
    assert math.isnan(similarity_of(backwards).floor.value)


def test_answers_without_a_model_are_refused(tmp_path):
    model, dataset = tiny.bert(), tiny.texts(4)
    answers = predict(model, dataset)
    answers.save(tmp_path / "answers.npz")
    for given in (tmp_path / "answers.npz", str(tmp_path / "answers.npz"), answers):
        with pytest.raises(ValueError, match="hold answers, not the model that gave them.* Give the model"):
            attribution_agreement(model, given, dataset)


@pytest.mark.parametrize(
    ("name", "least"),
    [("n_items", 1), ("n_mismatches", 0), ("top_k", 1), ("n_steps", 1), ("batch_size", 1), ("seed", 0)],
)
def test_bad_options_are_refused(name, least):
    with pytest.raises(ValueError, match=f"{name} must be at least {least}. Got {least - 1}"):
        AttributionOptions(**{name: least - 1})


def test_methods_and_models_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="for texts must be one of layer_integrated_gradients, saliency, input_x_grad"):
        explain(tiny.bert(), tiny.bert(), tiny.texts(), options=options(method="occlusion"))
    with pytest.raises(ValueError, match="for images must be one of .*occlusion. Got 'lime'"):
        explain(tiny.vit(), tiny.vit(), tiny.images(), options=options(method="lime"))
    with pytest.raises(ValueError, match="same questions. Got text-classification and image-classification"):
        opened_pair(tiny.bert(), tiny.vit(), tiny.texts(), processing_class=tokenizer())
    with pytest.raises(ValueError, match="The dataset is empty"):
        opened_pair(tiny.bert(), tiny.bert(), tiny.texts(2).select([]))


def test_models_that_read_other_tokens_are_refused(tmp_path):
    for name, words in (("ours", WORDS), ("theirs", WORDS[::-1])):
        tiny.bert(n_labels=2).save_pretrained(tmp_path / name)
        tokenizer(words).save_pretrained(tmp_path / name)
    with pytest.raises(ValueError, match=r"must read the same tokens .* becomes \d tokens for the reference and"):
        agreed(tmp_path / "ours", tmp_path / "theirs", sentences())


def test_models_that_read_images_in_other_sizes_are_refused(tmp_path):
    pixels = [np.full((8, 8, 3), value, dtype=np.uint8) for value in (0, 100, 200)]
    dataset = Dataset.from_dict({"picture": pixels}, features=Features(picture=Image()))
    for side in (8, 12):
        tiny.vit(num_channels=3, image_size=side).save_pretrained(tmp_path / str(side))
        ViTImageProcessorPil(size={"height": side, "width": side}).save_pretrained(tmp_path / str(side))
    with pytest.raises(ValueError, match="in the same size. Got 8 x 8 and 12 x 12 pixels. Pass"):
        agreed(tmp_path / "8", tmp_path / "12", dataset)


def test_predictions_and_targets_must_be_those_of_the_rows():
    model, dataset = tiny.bert(), sentences()
    answers = predict(model, dataset.select([1, 0, 2, 3, 4, 5]), processing_class=tokenizer())
    with pytest.raises(ValueError, match="in its order. Got those of other rows, or in another order"):
        agreed(model, model, predictions=(answers, answers))
    dataset = tiny.texts(6)

    answers = predict(model, dataset.select(range(5)))
    with pytest.raises(ValueError, match="predictions must be those of the 6 rows of the dataset, in its order. Got 5"):
        attribution_agreement(model, model, dataset, predictions=(answers, answers))
    for targets in ([0, 1], [0, 1, 2, 3, 0, 0], [0, 0, 0, 0, 0, -1]):
        with pytest.raises(ValueError, match=r"one class in \[0, 3\) for each of the 6 rows"):
            explain(model, model, dataset, targets=targets)


def test_captum_is_an_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    for model, dataset, method in ((tiny.bert(), tiny.texts(2), None), (tiny.vit(), tiny.images(2), "occlusion")):
        with pytest.raises(ImportError, match=r"pip install 'hf-compalign\[attribution\]'"):
            explain(model, model, dataset, options=options(method=method))
