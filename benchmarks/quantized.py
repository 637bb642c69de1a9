"""What INT8 changes of a model's answers, what aligned training gives back, and what it is worth.

python benchmarks/quantized.py --checkpoint MINILM --data SST2 --output OUT [--length 128] [--runs 60] [--epochs 2]
    [--only NAME] [--only_latency]

MiniLM, fine-tuned on SST-2, as fp32 in torch and in ONNX Runtime; as INT8 by dynamic and by static quantization; as
INT8 after training with the arithmetic of ONNX Runtime's INT8 ("onnxruntime-w8a8"), aligned with the original's logits
on the training sentences and unlabeled phrases; the same with half of the neurons removed first; and, without
training, with the layers in float that `repair_int8` chose on 4,000 unlabeled phrases, so that the upper bound of
their mismatches is within 1 %. Every row is the file that ships, asked through ONNX Runtime: the 872 validation
sentences, and 5,000 phrases that nothing was trained or chosen on. At the end all are timed in turn, one pass each, on
all cores that torch takes by default: leave them to it. --only makes one trained model and ends, so that two cores can
train two.

Printed besides: how often an export differs from the torch model that simulates it.
"""

import copy
from dataclasses import dataclass
from pathlib import Path

import sst2
import tables
from sst2 import Sst2
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from hf_compalign import (
    AlignmentArguments,
    QuantizationCallback,
    cache_teacher_logits,
    export_onnx,
    load_compressed,
    quantize_,
    repair_int8,
    shrink_,
)
from hf_compalign.data import mix_unlabeled
from hf_compalign.opening import load_model
from hf_compalign.ship import Frontier
from hf_compalign.ship.repair import RepairOptions

SCHEME = "onnxruntime-w8a8"
LEARNING_RATE = 5e-6
# The original is where the student begins: to stay there, its logits say more than labels and predictions do.
ALIGNMENT = AlignmentArguments()
LIMITS = {"mismatch_rate": 0.01}
REPAIR_ROWS = 4000  # half of them to search on, the others to judge


@dataclass(frozen=True)
class Int8:
    """One way to an INT8 file."""

    mode: str = "dynamic"
    shrunk: bool = False
    trained: bool = False
    repaired: bool = False


ROWS = {
    "INT8 dynamic": Int8(),
    "INT8 static": Int8("static"),
    "INT8 dynamic, aligned training": Int8(trained=True),
    "INT8 dynamic, repaired": Int8(repaired=True),
    "FFN 50 %, INT8 dynamic": Int8(shrunk=True),
    "FFN 50 %, INT8 dynamic, aligned training": Int8(shrunk=True, trained=True),
}


class Models:
    """The torch models and the files, each made once and kept."""

    def __init__(self, data: Sst2, dense: Path, folder: Path, epochs: int) -> None:
        self.data, self.dense, self.folder, self.epochs = data, dense, folder, epochs
        self.original: PreTrainedModel = AutoModelForSequenceClassification.from_pretrained(dense).eval()

    def _saved(self, model: PreTrainedModel, folder: Path) -> Path:
        model.save_pretrained(folder)
        self.data.tokenizer.save_pretrained(folder)
        return folder

    def _start(self, way: Int8) -> Path:
        folder = self.folder / "shrunk"
        if not way.shrunk:
            return self.dense
        if not (folder / "config.json").is_file():
            model = copy.deepcopy(self.original)
            print(shrink_(model, ffn=0.5, calibration=[*self.data.calibration(1024, seed=0)]))
            self._saved(model, folder)
        return folder

    def in_float(self, name: str) -> list[str] | None:
        """The layers that the search kept in float, made and saved once."""
        if not ROWS[name].repaired:
            return None
        folder = self.folder / "repaired"
        if not (folder / "frontier.json").is_file():
            rows = self.data.transfer.shuffle(seed=1).select(range(REPAIR_ROWS))
            options = RepairOptions(processing_class=self.data.tokenizer, timed_batch_sizes=())
            print(repair_int8(self.dense, folder, limits=LIMITS, dataset=rows, options=options, progress=print))
        return list(Frontier.load(folder / "frontier.json").chosen)

    def torch_model(self, name: str) -> Path:
        """What is exported: a model in float, or one that was trained with the arithmetic of INT8."""
        way = ROWS[name]
        folder = sst2.folder_of(self.folder / "torch", name)
        if not way.trained:
            return self._start(way)
        if not (folder / "config.json").is_file():
            model = load_compressed(self._start(way))
            data = self.data
            rows = mix_unlabeled(data.train, data.transfer, seed=0).select(range(self.epochs * len(data.train)))
            rows = cache_teacher_logits(rows, self.original, data_collator=data.collator, batch_size=64)
            sst2.train(
                model,
                data,
                rows,
                seed=0,
                learning_rate=LEARNING_RATE * (4 if way.shrunk else 1),
                callbacks=[QuantizationCallback(SCHEME, exclude=self.in_float(name))],
                alignment=ALIGNMENT,
                epochs=self.epochs,
            )
            self._saved(model, folder)
        return folder

    def file(self, name: str) -> Path:
        """The file that ships."""
        way = ROWS[name]
        folder = sst2.folder_of(self.folder / "onnx", name)
        if not (folder / "model_int8.onnx").is_file():
            calibration = [*self.data.calibration(512, seed=0)] if way.mode == "static" else None
            exclude = None if way.trained else self.in_float(name)
            source = self.torch_model(name)
            print(export_onnx(source, folder, quantize=way.mode, calibration=calibration, exclude=exclude))
        return folder / "model_int8.onnx"

    def simulated(self, name: str) -> PreTrainedModel:
        """The torch model that computes what the file does."""
        model = load_compressed(self.torch_model(name))
        if not ROWS[name].trained:
            quantize_(model, SCHEME, exclude=self.in_float(name))
        return model


def compare(data: Sst2, made: Models, models: dict[str, PreTrainedModel]) -> None:
    """What each file changes of the original's answers, and how far it is from its simulation."""
    answers = {name: data.answers(model) for name, model in models.items()}
    print("\nThe validation sentences", *tables.answers(answers["fp32, torch"], answers), sep="\n")
    more = {name: data.answers(model, data.unseen) for name, model in models.items()}
    print(f"\n{len(data.unseen)} other phrases", *tables.answers(more["fp32, torch"], more), "", sep="\n")
    for name, way in ROWS.items():
        if way.mode == "dynamic":
            simulated = made.simulated(name)
            told = [data.answers(simulated).predicted, data.answers(simulated, data.unseen).predicted]
            files_say = [answers[name].predicted, more[name].predicted]
            few, many = (int((one != other).sum()) for one, other in zip(told, files_say, strict=True))
            print(f"{name}: {few} and {many} answers differ from the simulation's")


def main() -> None:
    """Train, export, ask, time, print."""
    parser = sst2.parser(__doc__)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--runs", type=int, default=60)
    parser.add_argument("--epochs", type=int, default=2, help="of 6,920 rows, two thirds of them unlabeled")
    parser.add_argument("--only", choices=[name for name, way in ROWS.items() if way.trained])
    parser.add_argument("--only_latency", action="store_true")
    options = parser.parse_args()
    data = Sst2(options.checkpoint, options.data)
    dense = sst2.original(data, options.checkpoint, options.output / "original")
    made = Models(data, dense, options.output / "quantized", options.epochs)
    if options.only:
        print(made.torch_model(options.only))
        return
    float_file = options.output / "quantized" / "onnx" / "fp32" / "model.onnx"
    if not float_file.is_file():
        print(export_onnx(dense, float_file.parent))
    files = {"fp32, ONNX": float_file} | {name: made.file(name) for name in ROWS}
    models = {"fp32, torch": made.original} | {name: load_model(path) for name, path in files.items()}
    if not options.only_latency:
        compare(data, made, models)
    weights = {"fp32, torch": dense / "model.safetensors"} | files
    sizes = {name: path.stat().st_size for name, path in weights.items()}
    print(*tables.latencies(models, sizes, length=options.length, n_runs=options.runs), sep="\n")


if __name__ == "__main__":
    main()
