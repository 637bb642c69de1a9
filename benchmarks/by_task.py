"""CE alone against aligned recovery, task by task, through the example scripts: which answers change, for three seeds.

    python benchmarks/by_task.py run --checkpoint MINILM --data DATA --output OUT [--tasks text names] [--recipe FILE]
    python benchmarks/by_task.py table --output OUT [--recipe FILE]

MINILM is a pretrained encoder of BERT's kind. DATA holds the folders sst2, rte, trec, banking77, hatexplain and
cifar10, with their rows in parquet files; `by_task_data.py` makes the sets of the other tasks from these.

The rule: each task's original is fine-tuned with its labels; then half of its weights are pruned during one epoch, by
magnitude over all layers, with `--preset labels` and with `--preset default`, all else the same, for seeds 0, 1 and 2.
With a recipe, such as examples/recipes/prune-half.yaml, what is not in COMMON or among the flags of a task is as the
recipe has it. Nothing is chosen, so all rows of evaluation count. Fewer is the number of mismatches of the first over
that of the second: the geometric mean over the seeds, half a mismatch added to both, with Student's 95 % interval over
them.

A run that is there is not run again.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tables
from by_task_data import GROUPS, ORIGINALS, SETS
from scipy import stats

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
SEEDS = (0, 1, 2)
ARMS = {"CE alone": "labels", "aligned": "default"}
COMMON = (
    "--sparsity 0.5 --do_train --do_eval --num_train_epochs 1 --per_device_train_batch_size 32 "
    "--per_device_eval_batch_size 64 --save_strategy no --disable_tqdm true --report_to none"
)


@dataclass(frozen=True)
class Task:
    """A row of the table.

    Attributes:
        title: what the items are.
        script: of the examples.
        flags: of the script, beside the data and what all have.
    """

    title: str
    script: str
    flags: str = ""


TASKS = {
    "text": Task("phrases, 2 classes (SST-2)", "run_glue", "--max_seq_length 64"),
    "questions": Task("questions, 6 classes (TREC)", "run_glue", "--max_seq_length 64 --teacher_num_train_epochs 4"),
    "pairs": Task("pairs of texts, 2 classes (RTE)", "run_glue", "--max_seq_length 96 --teacher_num_train_epochs 3"),
    "intents": Task(
        "questions, 77 classes (BANKING77)",
        "run_glue",
        "--max_seq_length 64 --teacher_num_train_epochs 6 --teacher_learning_rate 2e-4",
    ),
    "numbers": Task("posts, a number (HateXplain)", "run_glue", "--max_seq_length 64 --tolerance 0.1"),
    "labels": Task(
        "labels of posts (HateXplain)",
        "run_multilabel",
        "--max_seq_length 64 --teacher_num_train_epochs 8 --teacher_learning_rate 1e-4 --label_column_names "
        + " ".join(GROUPS),
    ),
    "names": Task("words, 7 tags", "run_ner", "--max_seq_length 64"),
    "spans": Task(
        "answers in texts",
        "run_qa",
        "--max_seq_length 128 --doc_stride 32 --teacher_num_train_epochs 12 --teacher_learning_rate 1e-4",
    ),
    "images": Task(
        "images, 10 classes (CIFAR-10)",
        "run_image_classification",
        "--teacher_num_train_epochs 10 --teacher_learning_rate 1e-3 --learning_rate 3e-4 --ignore_mismatched_sizes",
    ),
    "sounds": Task(
        "sounds, 4 classes",
        "run_audio_classification",
        "--teacher_num_train_epochs 30 --teacher_learning_rate 1e-3 --learning_rate 3e-4 --ignore_mismatched_sizes",
    ),
}


def run(args: argparse.Namespace) -> None:
    """Every run of these tasks, one after the other."""
    begin = _prefix(args.recipe)
    for name in args.tasks:
        folder = args.output / name
        files = SETS[name](args.data, folder / "data")
        start = ORIGINALS[name](folder / "untrained") if name in ORIGINALS else args.checkpoint
        for seed in SEEDS:
            for arm, preset in ARMS.items():
                data = f"--train_file {files[0]} --validation_file {files[1]}"
                data += f" --recipe {args.recipe}" if args.recipe else ""
                run_name = f"{begin}{preset}-{seed}"
                _run(TASKS[name], start, folder, run_name, f"{data} --preset {preset} --seed {seed}")
                print(name, arm, seed, flush=True)


def _run(task: Task, start: str, folder: Path, name: str, flags: str) -> None:
    output = folder / name
    if (output / "done").is_file():
        return
    # The first run fine-tunes the original, which all others take.
    teacher = next((path for path in sorted(folder.glob("*/teacher")) if (path.parent / "done").is_file()), None)
    models = f"--model_name_or_path {start}" if teacher is None else f"--teacher_name_or_path {teacher}"
    given = f"{EXAMPLES / task.script}.py {models} {task.flags} {COMMON} {flags} --output_dir {output}".split()
    log = folder / f"{name}.log"
    with log.open("w") as file:
        env = os.environ | {"TQDM_DISABLE": "1", "HF_HUB_OFFLINE": "1"}
        done = subprocess.run([sys.executable, *given], stdout=file, stderr=file, env=env, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(given)} ended with {done.returncode}; the last lines of {log}: {log.read_text()[-2000:]}")
    (output / "done").touch()


@dataclass(frozen=True)
class Result:
    """Of one run: items, how many of them changed, and how good both models are."""

    items: int
    mismatches: int
    scores: tuple[float, float]

    @classmethod
    def read(cls, output: Path) -> "Result":
        """From what the script saved."""
        if (path := output / "values.json").is_file():
            found = json.loads(path.read_text())
            return cls(found["n"], found["mismatches"], (found["r2_reference"], found["r2_candidate"]))
        if (path := output / "answers.json").is_file():
            found = json.loads(path.read_text())
            both = (found["reference"]["exact_match"], found["candidate"]["exact_match"])
            return cls(found["n"], found["mismatches"], both)
        found = json.loads((output / "audit.json").read_text())
        metrics = found["metrics"]
        return cls(found["n"], metrics["cie"], (metrics["accuracy_reference"], metrics["accuracy_candidate"]))


def table(args: argparse.Namespace) -> None:
    """What the runs of all tasks that are there say."""
    print(tables.head("items", "how many", "score", "CE alone", "aligned", "fewer"))
    for name, task in TASKS.items():
        folder, begin = args.output / name, _prefix(args.recipe)
        runs = {preset: [folder / f"{begin}{preset}-{seed}" for seed in SEEDS] for preset in ARMS.values()}
        if not all((path / "done").is_file() for paths in runs.values() for path in paths):
            continue
        ce, aligned = ([Result.read(path) for path in paths] for paths in runs.values())
        before = ce[0].scores[0]
        cells = [
            f"{_mean(run.mismatches / run.items for run in arm)} ({_mean(run.scores[1] for run in arm)})"
            for arm in (ce, aligned)
        ]
        counts = [np.log([run.mismatches + 0.5 for run in arm]) for arm in (ce, aligned)]
        middle, error = np.mean(counts[0] - counts[1]), stats.sem(counts[0] - counts[1])
        low, high = np.exp(middle + np.array([-1, 1]) * stats.t.ppf(0.975, len(SEEDS) - 1) * error)
        fewer = f"{np.exp(middle):.1f} ({low:.1f} to {high:.1f})"
        print(tables.row(task.title, f"{ce[0].items:,}", f"{before:.1%}", *cells, fewer))


def _prefix(recipe: Path | None) -> str:
    """What the names of its runs begin with."""
    return "" if recipe is None else f"{recipe.stem}-"


def _mean(rates: Iterable[float]) -> str:
    return f"{np.mean([*rates]):.2%}"


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(required=True)
    running = verbs.add_parser("run", help="every run of these tasks")
    running.add_argument("--checkpoint", required=True, help="the pretrained encoder: a folder or a Hub id")
    running.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    running.add_argument("--tasks", nargs="+", choices=TASKS, default=[*TASKS], metavar="TASK", help=", ".join(TASKS))
    running.set_defaults(verb=run)
    printing = verbs.add_parser("table", help="what the runs say, in Markdown")
    printing.set_defaults(verb=table)
    for verb in (running, printing):
        verb.add_argument("--recipe", type=Path, help="of the training of the students")
        verb.add_argument("--output", type=Path, required=True, help="where the sets, models and results go")
    args = parser.parse_args()
    args.verb(args)


if __name__ == "__main__":
    main()
