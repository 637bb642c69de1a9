"""The Python with which a card's files are asked: what reads their inputs, and what their logits come to."""

import json
from dataclasses import dataclass
from pathlib import Path

from hf_compalign.tasks import MULTI

# What both transformers and Transformers.js have a pipeline for.
PIPELINES = (
    *(f"{kind}-classification" for kind in ("text", "token", "image", "audio")),
    *("image-segmentation", "question-answering", "fill-mask", "text-generation"),
)
_TEXTS = 'batch = processor(["one text", "and another text"], padding=True, truncation=True, return_tensors="np")'
_CHOICES = """choices = ["one choice", "and another choice"]
read = processor(["the question"] * len(choices), choices, padding=True, truncation=True, return_tensors="np")
batch = {key: value[None] for key, value in read.items()}  # of one question"""
_IMAGE = 'batch = processor(Image.open("image.png").convert("RGB"), return_tensors="np")'
_SOUND = """sound, rate = soundfile.read("sound.wav", dtype="float32")  # of one channel
batch = processor(sound, sampling_rate=rate, return_tensors="np")"""

_CLASS = "print([config.id2label[index] for index in logits.argmax(-1).tolist()])"
_LABELS = "print([[config.id2label[index] for index in (row > 0).nonzero()[0].tolist()] for row in logits])"
_WORDS = """for ids, row in zip(batch["input_ids"], logits.argmax(-1).tolist()):
    print([*zip(processor.convert_ids_to_tokens(ids), (config.id2label[index] for index in row))])"""
_CHOICE = "print(logits.argmax(-1).tolist())  # the number of the choice, from 0"
_PIXELS = """pixels = logits.argmax(1)  # the number of the class of each pixel
print({config.id2label[index] for index in pixels.ravel().tolist()})"""


@dataclass(frozen=True)
class _Reader:
    """What makes inputs of texts, images or sounds.

    Attributes:
        auto_class: of `transformers`.
        argument: of a pipeline.
        package: that reads their files, as pip calls it; empty where none is needed.
        imported: how that is imported.
    """

    auto_class: str
    argument: str
    package: str = ""
    imported: str = ""


_OF_TEXTS = _Reader("AutoTokenizer", "tokenizer")
_OF_SOUNDS = _Reader("AutoFeatureExtractor", "feature_extractor", "soundfile", "import soundfile\n")
_OF_IMAGES = _Reader("AutoImageProcessor", "image_processor", "pillow", "from PIL import Image\n")
# Task -> what reads, the code of a batch, and that of the answers.
_TASKS = {
    "text-classification": (_OF_TEXTS, _TEXTS, _CLASS),
    "token-classification": (_OF_TEXTS, _TEXTS, _WORDS),
    "multiple-choice": (_OF_TEXTS, _CHOICES, _CHOICE),
    "image-classification": (_OF_IMAGES, _IMAGE, _CLASS),
    "image-segmentation": (_OF_IMAGES, _IMAGE, _PIXELS),
    "audio-classification": (_OF_SOUNDS, _SOUND, _CLASS),
}


@dataclass(frozen=True)
class Asking:
    """What a card shows of how its model and its files are asked.

    Attributes:
        pipeline: whether there is a pipeline for the task.
        reader: the class that reads the inputs; empty, as all below, where the task is not known.
        argument: of a pipeline, which takes one.
        package: that is installed besides, to read files.
        inputs: the code that makes a batch of files or texts.
        answer: the code that prints what the logits come to.
        several: whether a text, image or sound may have several labels.
    """

    pipeline: bool
    reader: str = ""
    argument: str = ""
    package: str = ""
    inputs: str = ""
    answer: str = ""
    several: bool = False

    @property
    def options(self) -> str:
        """What else a pipeline is told: of a text with several labels to give the score of each, not the best alone."""
        return ", top_k=None" if self.several and self.reader == _OF_TEXTS.auto_class else ""


def asking(task: str, name: str, folder: Path) -> Asking:
    """How a model is asked that has this task and is loaded by this name; its config is in the folder, if anywhere."""
    if task not in _TASKS:
        return Asking(task in PIPELINES)
    reader, batch, answer = _TASKS[task]
    several = answer is _CLASS and _has_several_labels(folder)
    inputs = f"""{reader.imported}from transformers import AutoConfig, {reader.auto_class}

processor, config = {reader.auto_class}.from_pretrained("{name}"), AutoConfig.from_pretrained("{name}")
{batch}"""
    answer = _LABELS if several else answer
    how = (reader.auto_class, reader.argument, reader.package)
    return Asking(task in PIPELINES, *how, inputs, answer, several)


def _has_several_labels(folder: Path) -> bool:
    path = folder / "config.json"
    return path.is_file() and json.loads(path.read_text(encoding="utf-8")).get("problem_type") == MULTI
