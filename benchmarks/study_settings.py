"""The settings of the study: data in three parts, and the model that is fine-tuned on them.

Validation is cut from the training file with a fixed seed; no training sees it, and all choices are made on it. Test
parts are the official test file (the official development file where the test labels are not public), used for the
report alone. Where a part is limited, its rows are drawn with a fixed seed.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import sst2
import torch
from datasets import Dataset, Features, List, Value
from torch.utils.data import DataLoader, default_collate
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    PreTrainedModel,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
    default_data_collator,
    set_seed,
)

from hf_compalign import Collator
from hf_compalign.data import label_names, load_file, tokenized, with_pixels
from hf_compalign.demo import digits

VALIDATION_ROWS = 1000  # at most, and at most a tenth of the training file
SHIFT = 2  # pixels


@dataclass(frozen=True)
class Sources:
    """Where a setting finds what it needs, and how many rows it takes at most.

    Attributes:
        checkpoint: the pretrained encoder of the texts: a folder or a Hub id.
        data: the folder of the data sets, one folder each.
        train_rows: None takes all.
        test_rows: of each test part; None takes all.
    """

    checkpoint: str
    data: Path
    train_rows: int | None = None
    test_rows: int | None = None


@dataclass(frozen=True)
class Data:
    """Prepared rows: the model's inputs and `labels`.

    Attributes:
        train: what models are trained on.
        validation: what choices are made on.
        tests: what is reported, by name.
        items: which item of its file each row of validation and tests is: a seed may have another split.
        collator: rows -> a batch.
        augmented: the same with random changes, for training from scratch.
    """

    train: Dataset
    validation: Dataset
    tests: Mapping[str, Dataset]
    items: Mapping[str, list[int]]
    collator: Collator
    augmented: Collator | None = None

    @property
    def parts(self) -> dict[str, Dataset]:
        """Everything that models are asked."""
        return {"validation": self.validation, **self.tests}

    @property
    def names(self) -> tuple[str, ...]:
        """Of the classes."""
        return label_names(self.train, "labels")

    def calibration(self, n_rows: int, *, seed: int) -> DataLoader:
        """Batches of some training rows without their labels; texts of like length are together."""
        rows = self.train.shuffle(seed=seed).select(range(min(n_rows, len(self.train)))).remove_columns("labels")
        return DataLoader(_by_length(rows)[0], batch_size=64, collate_fn=self.collator)


@dataclass(frozen=True)
class Setting:
    """What is trained on what.

    Attributes:
        load: (sources, seed) -> the data.
        build: (sources, seed, class names) -> a model that is not fine-tuned yet.
        padded: whether rows have different lengths: then batches are of rows of like length.
        needs: the options without which it cannot run.
    """

    load: Callable[[Sources, int], Data]
    build: Callable[[Sources, int, Sequence[str]], PreTrainedModel]
    padded: bool = False
    needs: tuple[str, ...] = ()


def _vit(sources: Sources, seed: int, names: Sequence[str], **shape: int) -> PreTrainedModel:
    """A vision transformer with random weights."""
    set_seed(seed)
    return ViTForImageClassification(ViTConfig(**shape, **_classes(names)))


def _classes(names: Sequence[str]) -> dict[str, dict]:
    return {"id2label": dict(enumerate(names)), "label2id": {name: index for index, name in enumerate(names)}}


def _digits(sources: Sources, seed: int) -> Data:
    """Each seed has its own split of the 1,797 digits: a third to test, a sixth of the rest to validate."""
    train, test = digits.load_digits(seed, test_share=1 / 3)
    split = train.train_test_split(test_size=1 / 6, stratify_by_column="label", seed=seed)
    raw = {"validation": split["test"], "test": _limited(test, sources.test_rows)}
    items = {name: [int(item.rpartition("-")[2]) for item in rows["id"]] for name, rows in raw.items()}
    processor = digits.image_processor()
    train, validation, test = (_with_tensors(rows, processor) for rows in (split["train"], *raw.values()))
    return Data(_limited(train, sources.train_rows), validation, {"test": test}, items, Images(digits.SIZE))


def _cifar10(sources: Sources, seed: int) -> Data:
    folder = sources.data / "cifar10"
    processor = ViTImageProcessor(size={"height": 32, "width": 32}, do_resize=False)
    train, validation, kept = _cut(load_file(folder / "train.parquet"), sources)
    test, tested = _numbered(load_file(folder / "test.parquet"), sources.test_rows)
    train, validation, test = (_with_tensors(rows, processor) for rows in (train, validation, test))
    items = {"validation": kept, "test": tested}
    return Data(train, validation, {"test": test}, items, Images(32), Images(32, augmented=True))


@dataclass(frozen=True)
class Images:
    """Collates rows of flat pixels, which are read many times faster than shaped ones.

    With ``augmented``, half of the images are mirrored, and all of them are shifted by a few pixels.
    """

    side: int
    augmented: bool = False

    def __call__(self, rows: list[dict]) -> dict[str, torch.Tensor]:
        """A batch with pixel_values [B, 3, side, side]."""
        batch = default_data_collator(rows)
        pixels = batch["pixel_values"].view(-1, 3, self.side, self.side)
        if self.augmented:
            down, right = torch.randint(-SHIFT, SHIFT + 1, (2,)).tolist()
            mirrored = torch.where(torch.rand(len(pixels), 1, 1, 1) < 0.5, pixels.flip(3), pixels)
            pixels = mirrored.roll((down, right), dims=(2, 3))
        return {**batch, "pixel_values": pixels}


def _with_tensors(rows: Dataset, processor: ViTImageProcessor) -> Dataset:
    """The pixels, computed once."""
    batches = DataLoader(with_pixels(rows, processor, "image"), batch_size=500, collate_fn=default_collate)
    pixels = torch.cat([batch["pixel_values"].flatten(1) for batch in batches]).numpy()
    features = Features({"pixel_values": List(Value("float32")), "labels": rows.features["label"]})
    return Dataset.from_dict({"pixel_values": pixels, "labels": rows["label"]}, features=features).with_format("torch")


def _bert(sources: Sources, seed: int, names: Sequence[str]) -> PreTrainedModel:
    set_seed(seed)  # of the new head
    return AutoModelForSequenceClassification.from_pretrained(sources.checkpoint, **_classes(names))


def _texts(sources: Sources, seed: int, *, name: str, columns: Sequence[str], test: str, most_tokens: int = 64) -> Data:
    tokenizer = AutoTokenizer.from_pretrained(sources.checkpoint)
    tokenizer.model_max_length = most_tokens
    train = load_file(sources.data / name / "train.parquet")
    tests, items = {}, {}
    if name == "sst2":  # unseen phrases, the same ones as in the other benchmarks
        *_, unseen = sst2.split(train["sentence"])
        tests["unseen"], items["unseen"] = _numbered(train.select(np.sort(unseen)), sources.test_rows)
        train = train.select(np.setdiff1d(np.arange(len(train)), unseen))
    tests["test"], items["test"] = _numbered(load_file(sources.data / name / f"{test}.parquet"), sources.test_rows)
    train, tests["validation"], items["validation"] = _cut(train, sources)
    train = _prepared(train, tokenizer, columns)
    for part, rows in tests.items():
        tests[part], order = _by_length(_prepared(rows, tokenizer, columns))
        items[part] = [items[part][index] for index in order]
    validation = tests.pop("validation")
    return Data(train, validation, dict(sorted(tests.items())), items, DataCollatorWithPadding(tokenizer))


def _prepared(rows: Dataset, tokenizer: AutoTokenizer, columns: Sequence[str]) -> Dataset:
    names = [name for name in rows.column_names if name != "label"]
    return tokenized(rows, tokenizer, columns).remove_columns(names).rename_column("label", "labels")


def _by_length(rows: Dataset) -> tuple[Dataset, list[int]]:
    """The rows, texts from the shortest to the longest, and which row is where."""
    if "input_ids" not in rows.column_names:
        return rows, [*range(len(rows))]
    order = np.argsort([len(ids) for ids in rows["input_ids"]], kind="stable").tolist()
    return rows.select(order), order


def _cut(rows: Dataset, sources: Sources) -> tuple[Dataset, Dataset, list[int]]:
    """What is left to train on, the validation rows, and which rows of the file these are."""
    order = np.random.default_rng(0).permutation(len(rows))
    n = min(VALIDATION_ROWS, len(rows) // 10)
    kept = np.sort(order[:n]).tolist()
    return rows.select(order[n:][: sources.train_rows]), rows.select(kept), kept


def _numbered(rows: Dataset, most: int | None) -> tuple[Dataset, list[int]]:
    """At most so many rows, and which rows of the file they are."""
    kept = np.sort(np.random.default_rng(0).permutation(len(rows))[:most]).tolist()
    return rows.select(kept), kept


def _limited(rows: Dataset, most: int | None) -> Dataset:
    return rows.select(_numbered(rows, most)[1])


def _text(name: str, *columns: str, test: str = "test", most_tokens: int = 64) -> Setting:
    load = partial(_texts, name=name, columns=columns, test=test, most_tokens=most_tokens)
    return Setting(load, _bert, padded=True, needs=("checkpoint", "data"))


_DIGITS = partial(
    _vit,
    image_size=8,
    patch_size=2,
    hidden_size=64,
    intermediate_size=128,
    num_hidden_layers=4,
    num_attention_heads=4,
)
_CIFAR10 = partial(
    _vit,
    image_size=32,
    patch_size=8,
    hidden_size=192,
    intermediate_size=768,
    num_hidden_layers=6,
    num_attention_heads=3,
)

# From the cheapest to the dearest.
SETTINGS = {
    "digits": Setting(_digits, _DIGITS),
    "cifar10": Setting(_cifar10, _CIFAR10, needs=("data",)),
    "sst2": _text("sst2", "sentence", test="validation"),
    "banking77": _text("banking77", "text"),
    "hatexplain": _text("hatexplain", "text"),
    "rte": _text("rte", "sentence1", "sentence2", test="validation", most_tokens=128),
}
