"""Tiny models of every architecture that can be shrunk, inputs for them, and plans to shrink them."""

import random
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
import transformers

from hf_compalign.compress import prunable_weights
from hf_compalign.compress.shrink import LayerPlan, ShrinkPlan, layers_of

TEXT = {
    "vocab_size": 40,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 24,
    "max_position_embeddings": 40,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "pad_token_id": 1,
    "initializer_range": 0.2,
}
IMAGE = {
    "image_size": 8,
    "patch_size": 4,
    "num_channels": 1,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 24,
    "initializer_range": 0.2,
}
LAYERS = (torch.nn.Linear, torch.nn.Embedding, torch.nn.Conv2d)
RELATIVE = {"relative_attention": True, "max_relative_positions": 16, "pos_att_type": ["c2p", "p2c"]}
DEBERTA_V2 = TEXT | RELATIVE | {"position_buckets": 8, "norm_rel_ebd": "layer_norm", "type_vocab_size": 0}


@dataclass(frozen=True)
class Kind:
    """What transformers calls the classes of an architecture, and a config for them."""

    prefix: str
    config: dict[str, Any]
    head: str = "ForSequenceClassification"


KINDS = {
    "bert": Kind("Bert", TEXT),
    "roberta": Kind("Roberta", TEXT),
    "xlm-roberta": Kind("XLMRoberta", TEXT),
    "distilbert": Kind(
        "DistilBert",
        {"vocab_size": 40, "dim": 32, "n_layers": 3, "n_heads": 4, "hidden_dim": 24, "max_position_embeddings": 40}
        | {"dropout": 0.0, "attention_dropout": 0.0, "seq_classif_dropout": 0.0, "initializer_range": 0.2},
    ),
    "electra": Kind("Electra", TEXT | {"embedding_size": 16}),
    "mpnet": Kind("MPNet", TEXT),
    "deberta": Kind("Deberta", TEXT | RELATIVE),
    "deberta-v2": Kind("DebertaV2", DEBERTA_V2),
    "deberta-v2-c2p": Kind("DebertaV2", DEBERTA_V2 | {"pos_att_type": ["c2p"]}),
    "deberta-v2-shared-key": Kind("DebertaV2", DEBERTA_V2 | {"share_att_key": True}),
    "deberta-v2-convolution": Kind("DebertaV2", DEBERTA_V2 | {"share_att_key": True, "conv_kernel_size": 3}),
    "modernbert": Kind(
        "ModernBert",
        {name: value for name, value in TEXT.items() if "dropout" not in name}
        | {"local_attention": 4, "global_attn_every_n_layers": 2, "norm_bias": True, "mlp_bias": True}
        | {"attention_bias": True, "cls_token_id": 2, "sep_token_id": 3, "bos_token_id": 2, "eos_token_id": 3},
    ),
    "vit": Kind("ViT", IMAGE, "ForImageClassification"),
    "deit": Kind("DeiT", IMAGE, "ForImageClassification"),
    "dinov2": Kind(
        "Dinov2",
        {name: value for name, value in IMAGE.items() if name != "intermediate_size"} | {"mlp_ratio": 2},
        "ForImageClassification",
    ),
    "dinov2-swiglu": Kind(
        "Dinov2",
        {name: value for name, value in IMAGE.items() if name != "intermediate_size"}
        | {"mlp_ratio": 2, "use_swiglu_ffn": True},
        "ForImageClassification",
    ),
    "beit": Kind("Beit", IMAGE | {"use_relative_position_bias": True}, "ForImageClassification"),
    "beit-shared-bias": Kind("Beit", IMAGE | {"use_shared_relative_position_bias": True}, "ForImageClassification"),
    "beit-both-biases": Kind(
        "Beit",
        IMAGE | {"use_shared_relative_position_bias": True, "use_relative_position_bias": True},
        "ForImageClassification",
    ),
    "beit-no-bias": Kind("Beit", IMAGE | {"use_absolute_position_embeddings": True}, "ForImageClassification"),
}


def build(name: str, *, head: str | None = None, seed: int = 0, **changes: Any) -> transformers.PreTrainedModel:
    """A tiny model in evaluation mode; none of its parameters is trivially 0 or 1.

    Args:
        name: one of KINDS.
        head: what its class is called besides, like "ForMaskedLM" or "Model".
        seed: of the weights.
        **changes: of the config.
    """
    kind = KINDS[name]
    torch.manual_seed(seed)
    config_class = getattr(transformers, f"{kind.prefix}Config")
    attention = changes.pop("attn_implementation", None)
    n_labels = 2 if head == "ForQuestionAnswering" else 3
    config = config_class(**({"num_labels": n_labels} | kind.config | changes))
    if attention is not None:
        config._attn_implementation = attention
    model = getattr(transformers, kind.prefix + (kind.head if head is None else head))(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model.eval()


def inputs(model: transformers.PreTrainedModel, *, n: int = 5, seed: int = 1) -> dict[str, torch.Tensor]:
    """A batch for the model: images, or texts of several lengths; with several choices where it wants them."""
    generator = torch.Generator().manual_seed(seed)
    if model.main_input_name == "pixel_values":
        return {"pixel_values": torch.randn(n, 1, 8, 8, generator=generator)}
    ids = torch.randint(4, 40, (n, 9), generator=generator)
    mask = torch.ones_like(ids)
    for row in range(1, n):
        mask[row, 9 - row :] = 0
    ids[mask == 0] = 1
    batch = {"input_ids": ids, "attention_mask": mask}
    if type(model).__name__.endswith("ForMultipleChoice"):
        return {name: torch.stack([values, values.flip(0)], 1) for name, values in batch.items()}
    return batch


def unpadded(batch: dict[str, torch.Tensor]) -> list[dict[str, torch.Tensor]]:
    """The same texts one by one, each without its padding; none that is padding alone."""
    lengths = batch["attention_mask"].sum(1).tolist()
    return [
        {name: values[row : row + 1, :length] for name, values in batch.items()}
        for row, length in enumerate(lengths)
        if length
    ]


def answer(model: transformers.PreTrainedModel, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Everything the model answers, as one vector."""
    with torch.no_grad():
        outputs = model(**batch)
    return torch.cat([value.flatten() for value in flat_values(outputs.to_tuple())])


def prunable_layers(model: torch.nn.Module, **patterns: Any) -> dict[str, torch.nn.Module]:
    """The layers of the weights to prune, by the names of the weights."""
    names = prunable_weights(model, **patterns)
    return {name: model.get_submodule(name.removesuffix(".weight")) for name in names}


def flat_values(values: Iterable[Any]) -> list[torch.Tensor]:
    return [one for value in values for one in (value if isinstance(value, tuple) else (value,))]


def random_plan(
    model: torch.nn.Module, *, seed: int = 0, layers: Iterable[int] | None = None, uniform: bool = False
) -> ShrinkPlan:
    """A plan that removes some units of every layer: other ones and, unless uniform, another number in each."""
    chosen = random.Random(seed)
    kept = []
    for index, layer in enumerate(layers_of(model)):
        step = 0 if uniform else index
        heads = chosen.sample(range(layer.n_heads), max(1, layer.n_heads - 1 - step))
        neurons = chosen.sample(range(layer.n_neurons), layer.n_neurons - 5 - 3 * step)
        if layers is None or index in layers:
            kept.append(LayerPlan(index, tuple(heads), tuple(neurons)))
    return ShrinkPlan(tuple(kept))
