"""The demo's data: scikit-learn's 1,797 real handwritten digits, as images of 8 x 8 pixels."""

import numpy as np
import torch
from datasets import ClassLabel, Dataset, Features, Image, Value
from torch import Tensor
from transformers import ViTImageProcessor

from hf_compalign._extras import needs_extra
from hf_compalign.data import with_pixels

SIZE = 8
NAMES = tuple(map(str, range(10)))
_BRIGHTEST = 16  # scikit-learn keeps each pixel as a number from 0 to 16


def load_digits(seed: int, *, test_share: float, n_items: int | None = None) -> tuple[Dataset, Dataset]:
    """Training and test items with the columns id, image and label; every digit has its share in both.

    Args:
        seed: of the split.
        test_share: the share of the test items, in (0, 1).
        n_items: take only the first so many items.

    Raises:
        ImportError: scikit-learn or Pillow is not installed.
    """
    with needs_extra("demo", what="The demo"):
        from PIL.Image import fromarray
        from sklearn import datasets

    found = datasets.load_digits()
    images = np.rint(found.images[:n_items] * (255 / _BRIGHTEST)).astype(np.uint8)
    columns = {
        "id": [f"digit-{index:04d}" for index in range(len(images))],
        "image": [fromarray(image) for image in images],
        "label": found.target[: len(images)],
    }
    features = Features({"id": Value("string"), "image": Image(), "label": ClassLabel(names=list(NAMES))})
    split = Dataset.from_dict(columns, features=features).train_test_split(
        test_size=test_share, stratify_by_column="label", seed=seed
    )
    return split["train"], split["test"]


def image_processor() -> ViTImageProcessor:
    """Pixels in [-1, 1]. Saved beside a model, it prepares any image like the digits."""
    return ViTImageProcessor(
        size={"height": SIZE, "width": SIZE}, image_mean=[0.5, 0.5, 0.5], image_std=[0.5, 0.5, 0.5]
    )


def training_rows(dataset: Dataset) -> list[dict[str, Tensor]]:
    """What a Trainer takes, in memory: per image pixel_values, float32 [3, 8, 8], and labels, int64 [].

    For so small a model, reading each row from a `datasets.Dataset` would take longer than to train on it.
    """
    pixels = with_pixels(dataset, image_processor(), "image")[:]["pixel_values"]
    return [
        {"pixel_values": torch.as_tensor(image), "labels": torch.tensor(label)}
        for image, label in zip(pixels, dataset["label"], strict=True)
    ]
