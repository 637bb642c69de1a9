"""Tiny classifiers with random weights, one of each type that transformers has, and rows for them."""

from typing import Any

import numpy as np
import PIL.Image
import torch
import transformers
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedModel, PreTrainedTokenizerFast
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES as _IMAGE_CLASSES
from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES as _TEXT_CLASSES
from transformers.models.siglip2.image_processing_pil_siglip2 import Siglip2ImageProcessorPil
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

N_LABELS = 11  # no other size of these models is 11, so that a tensor with 11 rows is one of the head
SIDE = 32  # of an image
_VOCABULARY = 64
_SPECIAL = {"unk_token_id": 0, "pad_token_id": 1, "bos_token_id": 2, "eos_token_id": 3}
# What configs call their sizes; each takes what it knows.
_SMALL = (
    dict.fromkeys(("hidden_size", "d_model", "dim", "n_embd", "emb_dim", "embedding_size", "projection_dim"), 32)
    | dict.fromkeys(("intermediate_size", "hidden_dim", "encoder_ffn_dim", "decoder_ffn_dim"), 48)
    | dict.fromkeys(("d_ff", "d_inner", "ffn_dim"), 48)
    | dict.fromkeys(("num_hidden_layers", "num_layers", "n_layers", "n_layer", "encoder_layers", "decoder_layers"), 2)
    | dict.fromkeys(("num_decoder_layers", "num_key_value_heads"), 2)
    | dict.fromkeys(("num_attention_heads", "n_heads", "n_head", "num_heads"), 4)
    | dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 4)
    | dict.fromkeys(("head_dim", "d_kv", "d_head", "patch_size"), 8)
    | dict.fromkeys(("vocab_size", "max_position_embeddings", "n_positions"), _VOCABULARY)
    | {"image_size": SIDE}
    | _SPECIAL
)

_GPT_NEO = {"attention_types": [[["global", "local"], 1]]}
# The exporter computes beforehand what reads small constants alone, and an INT8 file then lacks the layer. These tables
# of positions are large enough to stay, as in real models.
_RELATIVE = {"relative_attention": True, "position_buckets": 512, "pos_att_type": ["p2c", "c2p"]}
_STAGES = {"hidden_sizes": [16, 32], "depths": [1, 2]}
_PYRAMID = {"hidden_sizes": [16, 32], "depths": [1, 1], "num_attention_heads": [2, 4], "num_encoder_blocks": 2}
_SWIN = {"embed_dim": 16, "depths": [1, 2], "num_heads": [2, 4], "patch_size": 4, "window_size": 4}
_MANY_PATCHES = {"hidden_size": 128, "patch_size": 2}
_VISION = {name: _SMALL[name] for name in ("hidden_size", "intermediate_size", "num_hidden_layers", "patch_size")} | {
    "num_attention_heads": 4,
    "image_size": SIDE,
}

# Type -> what its config needs besides _SMALL; None takes an entry out of that.
TEXT: dict[str, dict[str, Any]] = {
    "albert": {"embedding_size": 16},
    "bart": {},
    "bert": {},
    "big_bird": {},
    "bigbird_pegasus": {},
    "bloom": {},
    "canine": {"num_hash_buckets": 64, "downsampling_rate": 2, "local_transformer_stride": 8},
    "convbert": {},
    "data2vec-text": {},
    "deberta": {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "max_relative_positions": 16},
    "deberta-v2": _RELATIVE | {"type_vocab_size": 0},
    "distilbert": {},
    "electra": {"embedding_size": 16},
    "ernie": {},
    "esm": {"mask_token_id": 4},
    "eurobert": {},
    "falcon": {"head_dim": None, "num_kv_heads": 4, "ffn_hidden_size": 48},
    "flaubert": {},
    "fnet": {},
    "funnel": {"num_hidden_layers": None, "block_sizes": [1, 1]},
    "gemma": {},
    "gemma3_text": {},
    "gpt2": {},
    "gpt_neo": _GPT_NEO,
    "gptj": {"rotary_dim": 4},
    "ibert": {},
    "layoutlm": {},
    "llama": {},
    "longformer": {"attention_window": 8},
    "mbart": {},
    "mistral": {},
    "mobilebert": {"embedding_size": 16, "intra_bottleneck_size": 16, "true_hidden_size": 16},
    "modernbert": {},
    "mpnet": {},
    "mt5": {"decoder_start_token_id": 1},
    "nomic_bert": {},
    "nystromformer": {},
    "openai-gpt": {},
    "opt": {"word_embed_proj_dim": 32},
    "phi3": {},
    "qwen2": {},
    "qwen3": {},
    "reformer": {"num_hidden_layers": None, "axial_pos_embds_dim": [8, 24], "axial_pos_shape": [8, 8]}
    | {"attn_layers": ["local", "lsh"], "feed_forward_size": 48, "attention_head_size": 8, "hash_seed": 0}
    | {"local_attn_chunk_length": 8, "lsh_attn_chunk_length": 8, "num_buckets": 2},
    "roberta": {},
    "roberta-prelayernorm": {},
    "roformer": {},
    "squeezebert": {},
    "t5": {"decoder_start_token_id": 1},
    "xlm": {},
    "xlm-roberta": {},
    "xlnet": {"max_position_embeddings": None},
    "xmod": {"default_language": "en_XX"},
}
IMAGE: dict[str, dict[str, Any]] = {
    "beit": {},
    "bit": _STAGES | {"embedding_size": 16, "num_groups": 4},
    "clip": {"vision_config": _VISION | _MANY_PATCHES},
    "convnext": _STAGES | {"patch_size": 4, "num_stages": 2},
    "convnextv2": _STAGES | {"patch_size": 4, "num_stages": 2},
    "cvt": {"embed_dim": [8, 16, 32], "num_heads": [1, 2, 4], "depth": [1, 2, 3]},
    "deit": {},
    "deit (with teacher)": {},
    "dinov2": {"mlp_ratio": 2},
    "dinov2_with_registers": {"mlp_ratio": 2},
    "efficientnet": {"width_coefficient": 0.25, "depth_coefficient": 0.25, "hidden_dim": 320},
    "focalnet": {"embed_dim": 16, "hidden_sizes": [16, 32], "depths": [1, 1], "focal_levels": [2, 2]}
    | {"focal_windows": [3, 3], "patch_size": 4},
    "hgnet_v2": {"embedding_size": 16, "hidden_sizes": [16, 16, 32, 32], "depths": [1, 1, 1, 1]}
    | {"stem_channels": [3, 8, 16], "stage_in_channels": [16, 16, 16, 32], "stage_mid_channels": [8, 8, 16, 16]}
    | {"stage_out_channels": [16, 16, 32, 32], "stage_num_blocks": [1, 1, 1, 1], "stage_numb_of_layers": [2, 2, 2, 2]},
    "hiera": {"image_size": [SIDE, SIDE], "patch_size": [7, 7], "embed_dim": 16, "depths": [1, 1], "num_heads": [1, 2]}
    | {"masked_unit_attention": [True, False], "num_query_pool": 1, "masked_unit_size": [4, 4]},
    "levit": {"hidden_sizes": [16, 32, 32], "num_attention_heads": [2, 2, 4], "depths": [1, 1, 1]}
    | {"key_dim": [8, 8, 8], "patch_size": 16},
    "levit (with teacher)": {"hidden_sizes": [16, 32, 32], "num_attention_heads": [2, 2, 4], "depths": [1, 1, 1]}
    | {"key_dim": [8, 8, 8], "patch_size": 16},
    "mobilenet_v1": {"depth_multiplier": 0.25},
    "mobilenet_v2": {"depth_multiplier": 0.25},
    "mobilevit": {"hidden_sizes": [16, 24, 32], "neck_hidden_sizes": [8, 8, 16, 16, 24, 24, 32], "patch_size": 2},
    "mobilevitv2": {"base_attn_unit_dims": [16, 16, 32], "n_attn_blocks": [1, 1, 1], "width_multiplier": 0.25}
    | {"patch_size": 2, "output_stride": 16},
    "poolformer": {"hidden_sizes": [8, 16, 16, 32], "depths": [1, 1, 1, 1]},
    "pvt": _PYRAMID
    | {"sequence_reduction_ratios": [2, 1], "id2label": {index: f"LABEL_{index}" for index in range(N_LABELS)}},
    "pvt_v2": _PYRAMID | {"image_size": [SIDE, SIDE]},
    "regnet": _STAGES | {"groups_width": 8},
    "resnet": _STAGES,
    "segformer": _PYRAMID,
    "siglip": {"vision_config": _VISION | _MANY_PATCHES},
    "siglip2": {"vision_config": _VISION | {"num_patches": 16}},
    "swiftformer": {"embed_dims": [16, 16, 32, 32], "depths": [1, 1, 1, 1]},
    "swin": _SWIN,
    "swinv2": _SWIN | {"window_size": 8},
    "textnet": {"image_size": [SIDE, SIDE], "hidden_sizes": [8, 8, 16, 16, 32], "stem_out_channels": 8},
    "vit": {},
    "vit_msn": {},
}

_TEACHER = " (with teacher)"


def build(kind: str, *, seed: int = 0) -> PreTrainedModel:
    """A tiny model of a type of `TEXT` or `IMAGE`, in evaluation mode; no parameter is trivially 0 or 1."""
    model_type = kind.removesuffix(_TEACHER)
    config_class = CONFIG_MAPPING[model_type]
    plain = {name for name, value in config_class().to_dict().items() if value is None or type(value) is int}
    settings = {name: value for name, value in _SMALL.items() if name in plain} | (TEXT | IMAGE)[kind]
    config = config_class(num_labels=N_LABELS, **{name: one for name, one in settings.items() if one is not None})
    names = (_TEXT_CLASSES if kind in TEXT else _IMAGE_CLASSES)[model_type]
    name = names if isinstance(names, str) else names[kind.endswith(_TEACHER)]
    torch.manual_seed(seed)
    model = getattr(transformers, name)(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def processor(kind: str) -> Any:
    """A tokenizer of the words w4, w5 and so on, which ends texts as T5 and BART need it; or an image processor."""
    if kind == "siglip2":
        return Siglip2ImageProcessorPil(patch_size=_SMALL["patch_size"], max_num_patches=16)
    if kind in IMAGE:
        return ViTImageProcessorPil(size={"height": SIDE, "width": SIDE})
    special = {"unk_token": "<unk>", "pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>"}
    words = [*special.values(), *(f"w{index}" for index in range(len(special), _VOCABULARY))]
    backend = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 2), ("</s>", 3)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=backend, model_max_length=_VOCABULARY // 2, **special)


def rows(kind: str, n: int = 12) -> Dataset:
    """Labeled texts of 3 words and more, each one word longer than the last, or labeled images of noise."""
    rng = np.random.default_rng(0)
    labels = [row % N_LABELS for row in range(n)]
    if kind in TEXT:
        texts = [" ".join(f"w{word}" for word in rng.integers(4, _VOCABULARY, 3 + row)) for row in range(n)]
        return Dataset.from_dict({"text": texts, "label": labels})
    images = [PIL.Image.fromarray(rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)) for _ in range(n)]
    return Dataset.from_dict({"image": images, "label": labels})
