"""The repair of an INT8 file on a vision transformer, where fixed ranges for activations go wrong.

python benchmarks/repair.py --data CIFAR10 --output OUT [--epochs 13] [--runs 60]

A small ViT is trained on 20,000 images of CIFAR-10 (no pretrained one is at hand), exported in float, and quantized
four ways: by ONNX Runtime's own quantize_static with all its defaults; by `export_onnx`, static and dynamic; and by
`repair_int8`, static, with a limit that the plain static file misses. The limit is fixed by a rule before the search:
half of the plain file's upper bound on the mismatch rate, to 0.1 %. The repair gets the first 4,000 test images, to
search on one half and to judge on the other. All files are then audited on these and on the next 4,000, which no choice
has seen. At the end all are timed in turn, one
pass each.
"""

import argparse
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from datasets import Dataset
from tables import BATCHES, head, mismatches, row, spread
from torch.utils.data import DataLoader, default_collate
from transformers import AutoImageProcessor, ViTConfig, ViTForImageClassification, ViTImageProcessor, set_seed

from hf_compalign import Audit, audit, export_onnx, predict
from hf_compalign.data import class_names, load_file, with_pixels
from hf_compalign.measure.footprint import interleaved_latency_ms
from hf_compalign.opening import load_model
from hf_compalign.ship.repair import Repair, RepairOptions, repair_int8

CALIBRATION_ROWS = 512
TEST_ROWS = 4000
BATCH_SIZE = 64
SHIFT = 2  # pixels
SIZES = {"hidden_size": 192, "num_hidden_layers": 6, "num_attention_heads": 3, "intermediate_size": 768}


class Cifar10:
    """The training images, some of them for calibration, and two parts of the test images."""

    def __init__(self, folder: Path) -> None:
        self.train = load_file(str(folder / "train.parquet"))
        test = load_file(str(folder / "test.parquet"))
        self.given = test.select(range(TEST_ROWS))
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
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=4e-4, total_steps=n_steps, pct_start=0.1)
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


def quantized_by_default(float_file: Path, folder: Path, calibration: list[dict[str, torch.Tensor]]) -> Path:
    """What quantize_static makes of the float file, told nothing but the data."""
    from onnxruntime.quantization import CalibrationDataReader, quantize_static

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.feeds = ({"pixel_values": batch["pixel_values"].numpy()} for batch in calibration)

        def get_next(self) -> dict[str, object] | None:
            return next(self.feeds, None)

    shutil.copytree(float_file.parent, folder, dirs_exist_ok=True)
    path = folder / float_file.name
    quantize_static(float_file, path, Reader())
    return path


def repaired(data: Cifar10, dense: Path, folder: Path, *, limit: float, n_runs: int) -> Repair:
    """The repair of the static file, told as it goes."""
    options = RepairOptions(
        quantize="static",
        calibration=data.calibration(AutoImageProcessor.from_pretrained(dense)),
        batch_size=BATCH_SIZE,
        timed_batch_sizes=BATCHES,
        n_runs=n_runs,
        overwrite=True,
    )
    began = time.perf_counter()
    found = repair_int8(
        dense, folder, limits={"mismatch_rate": limit}, dataset=data.given, options=options, progress=print
    )
    frontier = found.frontier
    n_measured = len(frontier.points) + len(frontier.sensitivities)
    print(found, f"{n_measured} measurements, {time.perf_counter() - began:.0f} s, timing included", sep="\n")
    return found


def against(dense: Path, path: Path, rows: Dataset) -> Audit:
    """What a file changes of the trained model's answers."""
    return audit(*(predict(model, rows, batch_size=BATCH_SIZE) for model in (dense, path)))


def table(dense: Path, files: Mapping[str, Path], data: Cifar10, *, n_runs: int) -> Iterator[str]:
    """Lines of a Markdown table; the latencies are medians, and all files and the torch model are timed in turn."""
    models = {"fp32, torch": load_model(dense)} | {name: load_model(path) for name, path in files.items()}
    pixels = data.calibration(AutoImageProcessor.from_pretrained(dense))[0]["pixel_values"]
    times = [
        interleaved_latency_ms(
            {name: (model, {"pixel_values": pixels[:size]}) for name, model in models.items()}, n_runs=n_runs
        )
        for size in BATCHES
    ]
    titles = ("file", "accuracy, unseen", "mismatches, given", "mismatches, unseen", "bytes")
    yield head(*titles, *(f"ms, batch {size}" for size in BATCHES))
    for name, path in {"fp32, torch": dense / "model.safetensors", **files}.items():
        source = dense if name not in files else path
        given, unseen = (against(dense, source, rows) for rows in (data.given, data.unseen))
        latencies = [spread(one[name], digits=2) for one in times]
        cells = [name, f"{unseen.metrics['accuracy_candidate']:.2%}", mismatches(given), mismatches(unseen)]
        yield row(*cells, f"{path.stat().st_size:,}", *latencies)


def main() -> None:
    """Train, export, repair, audit, time, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of train.parquet and test.parquet")
    parser.add_argument("--output", type=Path, required=True, help="where the models go")
    parser.add_argument("--epochs", type=int, default=13)
    parser.add_argument("--runs", type=int, default=60)
    options = parser.parse_args()
    data = Cifar10(options.data)
    dense = original(data, options.output / "original", epochs=options.epochs)
    calibration = data.calibration(AutoImageProcessor.from_pretrained(dense))
    exports = {
        "fp32, ONNX": export_onnx(dense, options.output / "float", overwrite=True),
        "INT8 dynamic": export_onnx(dense, options.output / "dynamic", quantize="dynamic", overwrite=True),
        "INT8 static": export_onnx(
            dense, options.output / "static", quantize="static", calibration=calibration, overwrite=True
        ),
    }
    files = {name: export.path for name, export in exports.items()}
    by_default = quantized_by_default(files["fp32, ONNX"], options.output / "defaults", calibration)

    plain = against(dense, files["INT8 static"], data.given)
    bound = plain.metrics["mismatch_rate_upper_bound"]
    limit = round(bound / 2, 3)
    print(f"INT8 static: {mismatches(plain)}; upper bound {bound:.2%}, half of which is the limit: {limit:.1%}")
    found = repaired(data, dense, options.output / "repaired", limit=limit, n_runs=options.runs)

    files = {
        "fp32, ONNX": files["fp32, ONNX"],
        "INT8, quantize_static's defaults": by_default,
        "INT8 dynamic": files["INT8 dynamic"],
        "INT8 static": files["INT8 static"],
        "INT8 static, repaired": found.export.path,
    }
    print(f"\n{torch.get_num_threads()} threads, {options.runs} passes each in turn; {found.frontier.machine}")
    print(*table(dense, files, data, n_runs=options.runs), sep="\n")


if __name__ == "__main__":
    main()
