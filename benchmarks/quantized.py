"""What INT8 changes of a model's answers, what aligned training gives back, and what it is worth.

python benchmarks/quantized.py --checkpoint MINILM --data SST2 --output OUT [--length 128] [--runs 60] [--epochs 1]

MiniLM, fine-tuned on SST-2, as fp32 in torch and ONNX Runtime; as INT8 by dynamic and by static quantisation; as INT8
after training with the arithmetic of ONNX Runtime's INT8 ("onnxruntime-w8a8"), aligned with the original, on the
training sentences and unlabelled phrases; and the same with half of the neurons removed first. Every row is the file
that ships, asked the 872 validation sentences through ONNX Runtime. At the end all are timed in turn, one pass each, on
all cores that torch takes by default: leave them to it.

Printed besides: how often each trained model's export differs from the model that was trained (the simulation), and how
often ONNX Runtime differs from itself with its graph optimisations switched off.
"""

import argparse
import copy
from pathlib import Path

import sst2
import torch
from sst2 import Sst2
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from hf_compalign import (
    QuantizationCallback,
    cache_teacher_logits,
    export_onnx,
    load_compressed,
    quantize_,
    shrink_,
)
from hf_compalign.data import mix_unlabelled
from hf_compalign.inference import load_model
from hf_compalign.measure.latency import interleaved_latency_ms

SCHEME = "onnxruntime-w8a8"
BATCHES = (1, 8)
LEARNING_RATE = 1e-5


def trained(data: Sst2, start: PreTrainedModel, original: PreTrainedModel, folder: Path, *, epochs: float) -> Path:
    """The model after aligned training with INT8 arithmetic, kept in the folder and made once."""
    if not (folder / "config.json").is_file():
        n_rows = int(epochs * len(data.train))
        rows = mix_unlabelled(data.train, data.transfer, seed=0).select(range(n_rows))
        rows = cache_teacher_logits(rows, original, data_collator=data.collator, batch_size=64)
        callback = QuantizationCallback(SCHEME)
        sst2.train(start, data, rows, seed=0, learning_rate=LEARNING_RATE, steps=-(-n_rows // 32), callbacks=[callback])
        start.save_pretrained(folder)
        data.tokenizer.save_pretrained(folder)
    return folder


def exported(data: Sst2, model: Path, folder: Path, quantize: str | None) -> Path:
    """The file that ships, made once."""
    path = folder / ("model.onnx" if quantize is None else "model_int8.onnx")
    if not path.is_file():
        calibration = data.calibration(256, seed=0) if quantize == "static" else None
        print(export_onnx(model, folder, quantize=quantize, calibration=calibration, overwrite=True))
    return path


def main() -> None:
    """Train, export, ask, time, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sst2.add_arguments(parser)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--runs", type=int, default=60)
    parser.add_argument("--epochs", type=float, default=1.0, help="of 6,920 rows, two thirds of them unlabelled")
    options = parser.parse_args()
    data = Sst2(options.checkpoint, options.data)
    out = options.output / "quantized"
    dense = sst2.original(data, options.checkpoint, options.output / "original")
    original = AutoModelForSequenceClassification.from_pretrained(dense).eval()
    small = copy.deepcopy(original)
    shrink_(small, ffn=0.5, calibration=[*data.calibration(1024, seed=0)])

    qat = trained(data, copy.deepcopy(original), original, out / "qat", epochs=options.epochs)
    small_qat = trained(data, small, original, out / "shrunk-qat", epochs=options.epochs)
    files = {
        "fp32, ONNX": exported(data, dense, out / "fp32", None),
        "INT8 dynamic": exported(data, dense, out / "dynamic", "dynamic"),
        "INT8 static": exported(data, dense, out / "static", "static"),
        "INT8 dynamic after aligned training": exported(data, qat, out / "qat-onnx", "dynamic"),
        "FFN 50 %, INT8 dynamic after aligned training": exported(data, small_qat, out / "shrunk-onnx", "dynamic"),
    }
    models = {"fp32, torch": original} | {name: load_model(path) for name, path in files.items()}
    answers = {name: data.answers(model) for name, model in models.items()}
    print(*sst2.table(answers["fp32, torch"], answers), sep="\n")

    untrained = copy.deepcopy(original)
    quantize_(untrained, SCHEME)
    for name, simulated in (
        ("INT8 dynamic", untrained),
        ("INT8 dynamic after aligned training", load_compressed(qat)),
        ("FFN 50 %, INT8 dynamic after aligned training", load_compressed(small_qat)),
    ):
        told = data.answers(simulated).predicted
        print(f"{name}: {(told != answers[name].predicted).sum()} answers differ from the simulation's")

    print("\n| model | bytes | batch | median ms (quartiles) | times faster |", "|---|---|---|---|---|", sep="\n")
    for batch_size in BATCHES:
        ids = torch.randint(1000, original.config.vocab_size, (batch_size, options.length))
        batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        times = interleaved_latency_ms({name: (model, batch) for name, model in models.items()}, n_runs=options.runs)
        for name, time in times.items():
            path = files.get(name, dense / "model.safetensors")
            faster = times["fp32, torch"].median_ms / time.median_ms
            spread = f"{time.median_ms:.1f} ({time.low_ms:.1f} to {time.high_ms:.1f})"
            print(f"| {name} | {path.stat().st_size:,} | {batch_size} | {spread} | {faster:.2f} |")


if __name__ == "__main__":
    main()
