"""A tiny model of raw texts with its tokenizer, its exported files and its card, for what is shipped."""

import random
from pathlib import Path
from typing import Any

import tiny
import traced
import yaml
from datasets import ClassLabel, Dataset, Features, Value
from transformers import BertTokenizer, PreTrainedModel

from hf_compalign import shrink_
from hf_compalign.compress.export import export_openvino, quantize_graph

# The files of an artifact with two ONNX files.
SENT = {
    "README.md",
    "audit.json",
    "config.json",
    "model.safetensors",
    "onnx/model.audit.json",
    "onnx/model.onnx",
    "onnx/model_int8.audit.json",
    "onnx/model_int8.onnx",
    "report.html",
    "tokenizer.json",
    "tokenizer_config.json",
}
# What two OpenVINO files add.
SENT_OPENVINO = {
    f"openvino/openvino_model{what}{suffix}" for what in ("", "_qint8") for suffix in (".xml", ".bin", ".audit.json")
}
_WORDS = [f"w{index}" for index in range(tiny.VOCABULARY - 4)]
NAMES = ("red", "green", "blue")
NAMED = {"id2label": dict(enumerate(NAMES)), "label2id": {name: index for index, name in enumerate(NAMES)}}  # a config


def tokenizer() -> BertTokenizer:
    vocabulary = {word: index for index, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *_WORDS])}
    return BertTokenizer(vocab=vocabulary, model_max_length=32)


def raw_texts(n: int = 60) -> Dataset:
    """Texts of different lengths with a label."""
    rng = random.Random(0)
    rows = {
        "text": [" ".join(rng.choices(_WORDS, k=rng.randint(2, 9))) for _ in range(n)],
        "label": [rng.randrange(3) for _ in range(n)],
    }
    return Dataset.from_dict(rows, features=Features({"text": Value("string"), "label": ClassLabel(names=NAMES)}))


def model(*, shrunk: bool = False) -> PreTrainedModel:
    made = tiny.bert(**NAMED)
    if shrunk:
        shrink_(made, ffn=0.5, heads=0.5)
    return made.eval()


def saved(folder: Path, made: PreTrainedModel) -> Path:
    """The folder, with the model and its tokenizer."""
    made.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def exported(folder: Path, made: PreTrainedModel) -> list[Path]:
    """A float and an INT8 ONNX file of the model."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / "model.onnx", folder / "model_int8.onnx"]
    traced.export_graph(made, paths[0])
    quantize_graph(paths[0], paths[1], mode="dynamic")
    return paths


def exported_openvino(folder: Path, made: PreTrainedModel) -> dict[str, Path]:
    """A file in bfloat16 and one in INT8 and float32, under the names of an artifact."""
    rows = tiny.texts(24, labels=False)
    bf16 = export_openvino(made, folder / "bf16")
    qint8 = export_openvino(made, folder / "qint8", quantize="static", precision="f32", calibration=rows)
    return {"openvino_model": bf16.path, "openvino_model_qint8": qint8.path}


def front_matter(folder: Path) -> tuple[dict[str, Any], str]:
    """The metadata of a card, and its text."""
    _, header, body = (folder / "README.md").read_text().split("---\n", 2)
    return yaml.safe_load(header), body
