"""The repair of an INT8 file on a vision transformer, where fixed ranges for activations go wrong.

python benchmarks/repair.py --data CIFAR10 --output OUT [--epochs 13] [--runs 60]

A small ViT is trained on 20,000 images of CIFAR-10 (no pretrained one is at hand), exported in float, and quantised four
ways: by ONNX Runtime's own quantize_static with all its defaults; by `export_onnx`, static and dynamic; and by
`repair_onnx`, static, with a limit that the plain static file misses. The limit is fixed by a rule before the search:
half of the plain file's upper bound on the mismatch rate. The search sees the first 2,000 test images. All files are
then audited on these and on the next 2,000, which no choice has seen. At the end all are timed in turn, one pass each.
"""

import argparse
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from datasets import Dataset
from torch.utils.data import DataLoader, default_collate
from transformers import AutoImageProcessor, ViTConfig, ViTForImageClassification, ViTImageProcessor, set_seed

from hf_compalign import Audit, audit, export_onnx, predict
from hf_compalign.columns import with_pixels
from hf_compalign.data import class_names, load_file
from hf_compalign.inference import load_model
from hf_compalign.measure.latency import interleaved_latency_ms
from hf_compalign.ship.repair import Repair, RepairOptions, repair_onnx

CALIBRATION_ROWS = 512
TEST_ROWS = 2000
BATCH_SIZE = 64
BATCHES = (1, 8)
SHIFT = 3  # pixels
SIZES = {"hidden_size": 192, "num_hidden_layers": 6, "num_attention_heads": 3, "intermediate_size": 768}


class Cifar10:
    """The training images, some of them for calibration, and two parts of the test images."""

    def __init__(self, folder: Path) -> None:
        self.train = load_file(str(folder / "train.parquet"))
        test = load_file(str(folder / "test.parquet"))
        self.searched = test.select(range(TEST_ROWS))
        self.unseen = test.select(range(TEST_ROWS, 2 * TEST_ROWS))

    def tensors(self, processor: ViTImageProcessor) -> tuple[torch.Tensor, torch.Tensor]:
        """Pixels [N, 3, 32, 32] and labels [N] of all training images."""
        batches = DataLoader(with_pixels(self.train, processor, "image"), batch_size=500, collate_fn=default_collate)
        parts = [(batch["pixel_values"], batch["label"]) for batch in batches]
        return torch.cat([pixels for pixels, _ in parts]), torch.cat([labels for _, labels in parts])

    def calibration(self, processor: ViTImageProcessor) -> list[dict[str, torch.Tensor]]:
        """Batches of some training images, without their labels."""
        rows = self.train.shuffle(seed=0).select(range(CALIBRATION_ROWS)).select_columns(["image"])
        return [*DataLoader(with_pixels(rows, processor, "image"), batch_size=BATCH_SIZE)]


def augmented(pixels: torch.Tensor) -> torch.Tensor:
    """The batch, half of it mirrored, all of it shifted by a few pixels."""
    down, right = torch.randint(-SHIFT, SHIFT + 1, (2,)).tolist()
    mirrored = torch.where(torch.rand(len(pixels), 1, 1, 1) < 0.5, pixels.flip(3), pixels)
    return mirrored.roll((down, right), dims=(2, 3))


def original(data: Cifar10, folder: Path, *, epochs: int, seed: int = 0) -> Path:
    """The trained model, kept in the folder and made once."""
    if (folder / "config.json").is_file():
        return folder
    set_seed(seed)
    names = dict(enumerate(class_names(data.train, "label")))
    config = ViTConfig(
        **SIZES, image_size=32, patch_size=8, id2label=names, label2id={name: index for index, name in names.items()}
    )
    model = ViTForImageClassification(config).train()
    processor = ViTImageProcessor(size={"height": 32, "width": 32}, do_resize=False)
    pixels, labels = data.tensors(processor)
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.05)
    n_steps = epochs * -(-len(labels) // BATCH_SIZE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1e-3, total_steps=n_steps, pct_start=0.1)
    for epoch in range(epochs):
        began, losses = time.perf_counter(), []
        for rows in torch.randperm(len(labels)).split(BATCH_SIZE):
            loss = model(pixel_values=augmented(pixels[rows]), labels=labels[rows]).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
            losses.append(loss.item())
        mean = sum(losses) / len(losses)
        print(f"epoch {epoch + 1}: loss {mean:.3f} ({time.perf_counter() - began:.0f} s)", flush=True)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
