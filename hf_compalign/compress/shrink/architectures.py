"""Where each kind of model keeps its attention heads, neurons and layers: the one table, and how it is read."""

from dataclasses import dataclass, replace
from typing import Any

import transformers
from torch import nn

from hf_compalign.compress.adapters import refuse_adapters


@dataclass(frozen=True)
class SharedBias:
    """An attention bias with one column per head that is computed once and handed to every layer."""

    table: str  # path from the base model of the tensor [positions, heads] it is made from
    argument: str  # name of the layer's argument that receives the bias [batch, heads, queries, keys]
    position: int  # place of that argument in the layer's forward, counted from 0 without self


@dataclass(frozen=True)
class Architecture:
    """Paths of the parts that can lose units: `layers` from the base model, the others from one of its layers."""

    layers: str  # the list of layers
    attention: str  # the module that splits its projections into heads
    head_rows: tuple[str, ...]  # linear layers or vectors whose rows belong to the heads
    attention_out: str  # the linear layer that reads the heads
    neuron_rows: tuple[str, ...]  # linear layers whose rows belong to the neurons
    ffn_out: str  # the linear layer that reads the neurons
    head_dim: str = "head_dim"  # the attention's attribute with the features of one head
    n_heads: str = "num_attention_heads"  # likewise, with the number of heads; empty where it has none
    all_heads: str = ""  # likewise, with n_heads * head_dim; empty where it has none
    optional_head_rows: tuple[str, ...] = ()  # like head_rows, but some options of the model leave them out
    stacked_heads: int = 1  # how many projections are fused into one of head_rows, one below the other
    head_columns: str = ""  # a tensor of the layer with one column per head; empty where there is none
    stacked_neurons: int = 1  # how many projections are fused into one of neuron_rows, one below the other
    shared_bias: SharedBias | None = None  # an attention bias that all layers share
    mixes_heads: str = ""  # a part that, where it is there, lets the heads of a layer see each other
    after_first: str = ""  # path from the base model of a part that runs after the first layer only
    not_in_first: str = ""  # a part that the first layer lacks in the stock class
    width_key: str = "intermediate_size"  # the config's key for the number of neurons


_BERT = Architecture(
    layers="encoder.layer",
    attention="attention.self",
    head_dim="attention_head_size",
    all_heads="all_head_size",
    head_rows=("attention.self.query", "attention.self.key", "attention.self.value"),
    attention_out="attention.output.dense",
    neuron_rows=("intermediate.dense",),
    ffn_out="output.dense",
)
_DISTILBERT = Architecture(
    layers="transformer.layer",
    attention="attention",
    head_dim="attention_head_size",
    n_heads="n_heads",
    head_rows=("attention.q_lin", "attention.k_lin", "attention.v_lin"),
    attention_out="attention.out_lin",
    neuron_rows=("ffn.lin1",),
    ffn_out="ffn.lin2",
    width_key="hidden_dim",
)
_MPNET = replace(
    _BERT,
    attention="attention.attn",
    head_rows=("attention.attn.q", "attention.attn.k", "attention.attn.v"),
    attention_out="attention.attn.o",
    shared_bias=SharedBias("encoder.relative_attention_bias.weight", argument="position_bias", position=2),
)
_DEBERTA = replace(
    _BERT,
    # in_proj holds query, key and value of the first head, then of the second: three times head_dim rows each.
    head_rows=("attention.self.in_proj", "attention.self.q_bias", "attention.self.v_bias"),
    optional_head_rows=("attention.self.pos_proj", "attention.self.pos_q_proj"),
    mixes_heads="attention.self.head_logits_proj",
)
_DEBERTA_V2 = replace(
    _BERT,
    head_rows=("attention.self.query_proj", "attention.self.key_proj", "attention.self.value_proj"),
    # Absent where positions share the projections of the content (share_att_key), or are not looked at.
    optional_head_rows=("attention.self.pos_key_proj", "attention.self.pos_query_proj"),
    after_first="encoder.conv",
)
_MODERNBERT = Architecture(
    layers="layers",
    attention="attn",
    n_heads="",
    head_rows=("attn.Wqkv",),
    stacked_heads=3,
    attention_out="attn.Wo",
    neuron_rows=("mlp.Wi",),
    stacked_neurons=2,
    ffn_out="mlp.Wo",
    not_in_first="attn_norm",
)
_VIT = Architecture(
    layers="layers",
    attention="attention",
    head_rows=("attention.q_proj", "attention.k_proj", "attention.v_proj"),
    attention_out="attention.o_proj",
    neuron_rows=("mlp.fc1",),
    ffn_out="mlp.fc2",
)
_BEIT = replace(
    _VIT,
    head_columns="relative_position_bias.relative_position_bias_table",
    shared_bias=SharedBias("shared_position_bias.relative_position_bias_table", argument="attention_mask", position=1),
)
_DINOV2 = replace(_VIT, layers="encoder.layer", width_key="mlp_ratio")
_DINOV2_SWIGLU = replace(_DINOV2, neuron_rows=("mlp.gate_proj", "mlp.up_proj"), ffn_out="mlp.down_proj")
# As transformers 5.17 has it.
_OLD_DINOV2 = replace(
    _DINOV2,
    attention="attention.attention",
    head_dim="attention_head_size",
    all_heads="all_head_size",
    head_rows=("attention.attention.query", "attention.attention.key", "attention.attention.value"),
    attention_out="attention.output.dense",
)
_OLD_DINOV2_SWIGLU = replace(_OLD_DINOV2, neuron_rows=("mlp.weights_in",), stacked_neurons=2, ffn_out="mlp.weights_out")

# config.model_type -> its layouts, the first that fits is taken
ARCHITECTURES: dict[str, tuple[Architecture, ...]] = {
    "beit": (_BEIT,),
    "bert": (_BERT,),
    "deberta": (_DEBERTA,),
    "deberta-v2": (_DEBERTA_V2,),
    "deit": (_VIT,),
    "dinov2": (_DINOV2, _DINOV2_SWIGLU, _OLD_DINOV2, _OLD_DINOV2_SWIGLU),
    "distilbert": (_DISTILBERT,),
    "electra": (_BERT,),
    "modernbert": (_MODERNBERT,),
    "mpnet": (_MPNET,),
    "roberta": (_BERT,),
    "vit": (_VIT,),
    "xlm-roberta": (_BERT,),
}


@dataclass(frozen=True)
class Layer:
    """The parts of one transformer layer that can lose units."""

    name: str  # path in the model, like "bert.encoder.layer.0"
    module: nn.Module  # the whole layer
    attention_out: nn.Linear  # its input features are the heads' outputs, n_heads * head_dim
    head_dim: int  # features of one head
    ffn_out: nn.Linear  # its input features are the neurons

    @property
    def n_heads(self) -> int:
        """The attention heads that are there."""
        return self.attention_out.in_features // self.head_dim

    @property
    def n_neurons(self) -> int:
        """The neurons of the feed-forward part that are there."""
        return self.ffn_out.in_features


def layers_of(model: nn.Module) -> list[Layer]:
    """The layers of a model, first to last, with the parts that can lose units; right for a shrunk model too."""
    architecture = architecture_of(model)
    names = {module: name for name, module in model.named_modules()}
    return [
        Layer(
            name=names[module],
            module=module,
            attention_out=part(module, architecture.attention_out),
            head_dim=getattr(part(module, architecture.attention), architecture.head_dim),
            ffn_out=part(module, architecture.ffn_out),
        )
        for module in layer_list(model, architecture)
    ]


def architecture_of(model: nn.Module) -> Architecture:
    """The row of the table that fits the model."""
    refuse_adapters(model)
    config = getattr(model, "config", None)
    model_type = getattr(config, "model_type", None)
    kind = type(model).__name__
    if model_type == "albert":
        raise ValueError(
            f"{kind} uses one and the same layer at every depth, so no layer can lose units of its own. Prune its "
            "weights instead (PruningCallback)."
        )
    if model_type not in ARCHITECTURES:
        raise ValueError(
            f"Heads, neurons and layers cannot be removed from {kind} (model type {model_type!r}). The supported "
            f"types are {', '.join(ARCHITECTURES)}. The weights of any model can be pruned (PruningCallback)."
        )
    if getattr(config, "is_decoder", False) or getattr(config, "add_cross_attention", False):
        raise ValueError(
            f"Heads, neurons and layers are removed from encoders only. {kind} is set up as a decoder (is_decoder or "
            "add_cross_attention in its config)."
        )
    for architecture in ARCHITECTURES[model_type]:
        layers = layer_list(model, architecture)
        if layers is not None and all(_has_parts(layer, architecture) for layer in layers):
            return architecture
    raise ValueError(
        f"The layers of {kind} are not built as known here for model type {model_type!r}: another version of "
        f"transformers than the supported (this is {transformers.__version__}), a wrapped model, or one whose linear "
        "layers were replaced. Give the model itself, as from_pretrained returns it; merge adapters first."
    )


def layer_list(model: nn.Module, architecture: Architecture) -> Any:
    """The model's own list of layers, an nn.ModuleList, or None where the architecture is another."""
    return part(getattr(model, "base_model", model), architecture.layers)


def part(module: Any, path: str) -> Any:
    """What is found under a dotted path, or None."""
    for name in path.split("."):
        module = getattr(module, name, None)
    return module


def linear_paths(architecture: Architecture) -> tuple[str, ...]:
    """Paths in a layer of everything whose rows or columns are units and that is always there."""
    return (*architecture.head_rows, architecture.attention_out, *architecture.neuron_rows, architecture.ffn_out)


def _has_parts(layer: nn.Module, architecture: Architecture) -> bool:
    return all(isinstance(part(layer, path), nn.Linear | nn.Parameter) for path in linear_paths(architecture))
