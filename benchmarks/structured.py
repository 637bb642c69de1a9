"""What fewer neurons and heads are worth: latency side by side, size, and the audit.

python benchmarks/structured.py --checkpoint MINILM --data SST2 --output OUT [--length 128] [--runs 60] [--recover]

MiniLM, fine-tuned on SST-2, loses half of its neurons and a quarter of its heads, or as many as a target of latency at
batch 8 asks for, in one go with 1,024 calibration rows and the correction of what remains; with --recover it is then
trained for one aligned epoch. All models are timed in turn, one pass each, at batch 1 and 8, on
all cores that torch takes by default: leave them to it.
"""

import copy

import sst2
import tables
import torch
from sst2 import Sst2
from transformers import AutoModelForSequenceClassification

from hf_compalign import audit, cache_teacher_logits, footprint, load_compressed, shrink_
from hf_compalign.measure.footprint import footprint_table

BUDGETS = {
    "FFN 50 %, heads 25 %": {"ffn": 0.5, "heads": 0.25},
    "FFN 50 %, heads 25 %, equal widths": {"ffn": 0.5, "heads": 0.25, "uniform": True},
    "target_latency 0.56": {"target_latency": 0.56},
    "target_latency 0.5": {"target_latency": 0.5},
}


def main() -> None:
    """Shrink, recover, time, weigh, audit, print."""
    parser = sst2.parser(__doc__)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--runs", type=int, default=60)
    parser.add_argument("--recover", action="store_true")
    options = parser.parse_args()
    data = Sst2(options.checkpoint, options.data)
    path = sst2.original(data, options.checkpoint, options.output / "original")
    original = AutoModelForSequenceClassification.from_pretrained(path).eval()
    models = {"dense": original}
    # The first batch says what a target is measured on; padding counts for nothing else.
    first = {name: rows[:8] for name, rows in next(iter(data.calibration(1024, seed=0))).items()}
    missing = options.length - first["input_ids"].shape[1]
    timed = {name: torch.nn.functional.pad(rows, (0, missing)) for name, rows in first.items()}
    calibration = [timed, *data.calibration(1024, seed=0)]
    for name, budget in BUDGETS.items():
        folder = sst2.folder_of(options.output / "structured", name)
        if not (folder / "config.json").is_file():
            model = copy.deepcopy(original)
            print(shrink_(model, **budget, calibration=calibration))
            if options.recover:
                rows = cache_teacher_logits(data.train, original, data_collator=data.collator, batch_size=64)
                sst2.train(model, data, rows, seed=0)
            model.save_pretrained(folder)
        models[name] = load_compressed(folder)

    reference = data.answers(original)
    one = tables.random_tokens(1, options.length)
    costs = {name: footprint(model, inputs=one, n_runs=1) for name, model in models.items()}
    for name, model in list(models.items())[1:]:
        print(f"\n{name}\n", footprint_table(costs["dense"], costs[name]), sep="\n")
        print(audit(reference, data.answers(model)))
    sizes = {name: cost.size_bytes for name, cost in costs.items()}
    print(*tables.latencies(models, sizes, length=options.length, n_runs=options.runs), sep="\n")


if __name__ == "__main__":
    main()
