"""The table of architectures finds the right parts, and says so where there are none."""

import pytest
import tiny
import torch
import transformers
import zoo

from hf_compalign.compress.shrink import ARCHITECTURES, layers_of

NEURONS = {"dinov2": 64, "dinov2-swiglu": 48}


def test_the_zoo_has_every_architecture():
    assert {zoo.build(name).config.model_type for name in zoo.KINDS} == set(ARCHITECTURES)


@pytest.mark.parametrize("name", zoo.KINDS)
def test_the_layers_are_found(name):
    model = zoo.build(name)
    layers = layers_of(model)
    assert len(layers) == 3
    assert [model.get_submodule(layer.name) for layer in layers] == [layer.module for layer in layers]
    for layer in layers:
        assert (layer.n_heads, layer.head_dim, layer.n_neurons) == (4, 8, NEURONS.get(name, 24))
        within = set(layer.module.modules())
        assert {layer.attention_out, layer.ffn_out} <= within
        assert layer.attention_out.out_features == layer.ffn_out.out_features == 32


@pytest.mark.parametrize("name", ["bert", "deberta", "modernbert", "vit", "dinov2-swiglu"])
def test_what_the_output_layers_read_are_the_heads_and_neurons(name):
    model, batch = zoo.build(name), {}
    layer = layers_of(model)[1]

    def read(module, args):
        batch[module] = args[0]

    for linear in (layer.attention_out, layer.ffn_out):
        linear.register_forward_pre_hook(read)
    zoo.answer(model, zoo.inputs(model))
    assert batch[layer.attention_out].shape[-1] == layer.n_heads * layer.head_dim
    assert batch[layer.ffn_out].shape[-1] == layer.n_neurons


@pytest.mark.parametrize(
    ("head", "name"),
    [
        ("Model", "encoder.layer.0"),
        ("ForMaskedLM", "bert.encoder.layer.0"),
        ("ForMultipleChoice", "bert.encoder.layer.0"),
    ],
)
def test_layers_are_named_by_their_path(head, name):
    assert layers_of(zoo.build("bert", head=head))[0].name == name


def test_albert_is_refused_with_the_reason():
    model = transformers.AlbertModel(
        transformers.AlbertConfig(hidden_size=16, num_attention_heads=2, intermediate_size=16, vocab_size=9)
    )
    with pytest.raises(ValueError, match=r"AlbertModel uses one and the same layer at every depth.*PruningCallback"):
        layers_of(model)


def test_other_architectures_are_refused_with_the_list():
    model = transformers.GPT2Model(transformers.GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=9))
    with pytest.raises(ValueError, match=r"GPT2Model \(model type 'gpt2'\).* beit, bert, .*, vit, xlm-roberta"):
        layers_of(model)
    with pytest.raises(ValueError, match=r"Linear \(model type None\)"):
        layers_of(torch.nn.Linear(2, 2))


@pytest.mark.parametrize("changes", [{"is_decoder": True}, {"is_decoder": True, "add_cross_attention": True}])
def test_decoders_are_refused(changes):
    with pytest.raises(ValueError, match="from encoders only. BertForSequenceClassification is set up as a decoder"):
        layers_of(tiny.bert(**changes))


def test_replaced_layers_are_refused():
    model = tiny.bert()
    model.bert.encoder.layer[1].output.dense = torch.nn.Sequential(model.bert.encoder.layer[1].output.dense)
    with pytest.raises(ValueError, match=r"not built as known here for model type 'bert'.*merge adapters first"):
        layers_of(model)
