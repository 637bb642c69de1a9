"""The example scripts, run from end to end on models and data of a few kilobytes."""

import contextlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
from functools import partial
from importlib import import_module
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import shipping
import tiny
import torch
import transformers
from datasets import ClassLabel, Dataset, Features, Image, Value
from safetensors.torch import load_file as load_weights

from hf_compalign.align import suggest_learning_rate, train_student
from hf_compalign.compress import load_compressed, prunable_weights, sparsity_of
from hf_compalign.compress.quantize import quantization_of, quantized_layers
from hf_compalign.data import class_names, find_text_columns, load_file
from hf_compalign.measure.audit import audit
from hf_compalign.measure.predictions import Predictions, predict
from hf_compalign.opening import model_fingerprint

EXAMPLES = Path(__file__).parent.parent / "examples"
WORDS = [f"w{index}" for index in range(tiny.VOCABULARY - 4)]
FLAGS = """
    --do_train --do_eval --disable_tqdm True --per_device_train_batch_size 8 --logging_steps 2 --max_steps 6
    --learning_rate 1e-3 --teacher_num_train_epochs 4 --teacher_learning_rate 5e-3
"""
TRAIN = FLAGS.split()


@pytest.fixture(scope="module", autouse=True)
def examples_on_path():
    sys.path.insert(0, str(EXAMPLES))
    yield
    sys.path.remove(str(EXAMPLES))


def run(script, *arguments):
    import_module(script).main([str(argument) for argument in arguments])


run_glue, run_images, run_sounds, run_bare, run_ner, run_multilabel, run_qa = (
    partial(run, f"run_{script}")
    for script in ("glue", "image_classification", "audio_classification", "no_trainer", "ner", "multilabel", "qa")
)


def texts(n, *, seed, column="sentence", n_classes=2):
    """Random words; the label is told by the first of them."""
    rng = np.random.default_rng(seed)
    first = rng.integers(0, n_classes, size=n)
    rest = rng.integers(n_classes, len(WORDS), size=(n, 4))
    rows = [" ".join(WORDS[word] for word in (head, *tail)) for head, tail in zip(first, rest, strict=True)]
    return Dataset.from_dict({column: rows, "label": [["no", "yes", "maybe"][head] for head in first]})


@pytest.fixture(scope="module")
def bert_folder(tmp_path_factory):
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    vocabulary = {word: index for index, word in enumerate([*special, *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    folder = tmp_path_factory.mktemp("bert")
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_max_length=32,
    ).save_pretrained(folder)
    tiny.bert(n_labels=2).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def text_files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("texts")
    texts(48, seed=0).to_csv(folder / "train.csv")
    labels = [name if index % 3 else None for index, name in enumerate(texts(48, seed=0)["label"])]
    texts(48, seed=0).remove_columns("label").add_column("label", labels).to_csv(folder / "partly_labeled.csv")
    texts(30, seed=1).to_csv(folder / "validation.csv")
    # Another format and another name for the column.
    texts(16, seed=2, column="text").remove_columns("label").to_parquet(folder / "transfer.parquet")
    return folder


@pytest.fixture(scope="module")
def glue_flags(bert_folder, text_files):
    return [
        *("--train_file", text_files / "train.csv", "--validation_file", text_files / "validation.csv"),
        *("--transfer_file", text_files / "transfer.parquet", "--cache_teacher", "--sparsity", "0.5"),
        *("--save_strategy", "steps", "--save_steps", "4", "--max_seq_length", "8", *TRAIN),
    ]


@pytest.fixture(scope="module")
def glue_run(glue_flags, bert_folder, tmp_path_factory):
    output = tmp_path_factory.mktemp("runs") / "glue"
    run_glue("--model_name_or_path", bert_folder, *glue_flags, "--output_dir", output)
    return output


def recomputed_audit(output):
    sides = [Predictions.load(output / f"predictions_{side}.npz") for side in ("reference", "candidate")]
    return audit(*sides)


def indexed(output):
    """The card's model-index: metric -> value."""
    header, _ = shipping.front_matter(output)
    (result,) = header["model-index"][0]["results"]
    return {metric["type"]: metric["value"] for metric in result["metrics"]}, result["dataset"], header


def check_card(output, *, items, task, loaded):
    """The card's numbers are the audit's, and its code opens the model for the task."""
    values, data, header = indexed(output)
    card, found = (output / "README.md").read_text(), recomputed_audit(output)
    assert f"the same {items} of validation." in card
    assert (header["pipeline_tag"], data["name"][:10]) == (task, "validation")
    assert values["mismatch_rate"] == pytest.approx(found.metrics["mismatch_rate"])
    code = re.search(r"```python\n(.*?)```", card, re.S).group(1).replace(f'"{output.name}"', f'"{output}"')
    known = {}
    exec(code, known)
    assert type(known["classify"].model).__name__ == loaded


def stored(output, name):
    return json.loads((output / name).read_text())


def logged(output, key):
    return [entry[key] for entry in stored(output, "trainer_state.json")["log_history"] if key in entry]


def check_output(output, *, sparsity, n):
    """What every run must leave behind; returns the saved model, which its own class opens."""
    [architecture] = stored(output, "config.json")["architectures"]
    model = getattr(transformers, architecture).from_pretrained(output)
    measured = sparsity_of(prunable_weights(model))
    assert measured == pytest.approx(sparsity, abs=1e-3)
    found = recomputed_audit(output)
    assert found.n == n
    saved = stored(output, "audit.json")
    assert (saved["n"], saved["cells"]) == (found.n, found.to_dict()["cells"])
    saved = saved["metrics"]
    for key in ("cie", "cie_u", "mismatch_rate", "agreement", "nfr", "kl", "accuracy_candidate"):
        assert saved[key] == found.metrics[key], key
    numbers, _, _ = indexed(output)
    assert numbers == {
        "accuracy": saved["accuracy_candidate"],
        "f1": saved["f1_candidate"],
        "matthews_correlation": saved["mcc_candidate"],
        "agreement": saved["agreement"],
        "mismatch_rate": saved["mismatch_rate"],
        "nfr": saved["nfr"],
    }
    # The Trainer's own evaluation saw the same two models.
    for name in ("accuracy", "f1", "mcc"):
        assert stored(output, "eval_results.json")[f"eval_{name}"] == pytest.approx(saved[f"{name}_candidate"])
    assert stored(output, "eval_results.json")["eval_mismatch_rate"] == pytest.approx(saved["mismatch_rate"])
    return model


def test_glue_from_files_leaves_a_pruned_model_its_audit_and_its_card(glue_run):
    model = check_output(glue_run, sparsity=0.5, n=30)
    assert model.config.id2label == {0: "no", 1: "yes"}
    assert transformers.AutoTokenizer.from_pretrained(glue_run).model_max_length == 8
    assert sparsity_of(prunable_weights(load_compressed(glue_run / "teacher"))) == 0
    saved = stored(glue_run, "audit.json")
    # A teacher that had learned nothing would make the test empty: the first word tells the label.
    assert saved["metrics"]["accuracy_reference"] > 0.8
    assert saved["reference"]["model"] == str(glue_run / "teacher")
    assert saved["candidate"]["model"] == str(glue_run)


def test_the_recipe_that_a_run_leaves_makes_the_same_run_again(glue_run, tmp_path):
    run_glue("--recipe", glue_run / "recipe.yaml", "--output_dir", tmp_path)
    one, other = (load_compressed(folder).state_dict() for folder in (glue_run, tmp_path))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_quantized_student_is_audited_as_it_answers(glue_run, text_files, tmp_path):
    run_glue(
        *("--teacher_name_or_path", glue_run / "teacher", "--train_file", text_files / "train.csv", *TRAIN),
        *("--validation_file", text_files / "validation.csv", "--quantization_scheme", "onnxruntime-w8a8"),
        *("--quantization_begin", "0.5", "--output_dir", tmp_path),
    )
    opened = load_compressed(tmp_path)
    assert quantization_of(opened).scheme == "onnxruntime-w8a8"
    plain = check_output(tmp_path, sparsity=0.0, n=30)
    assert quantized_layers(opened)
    assert not quantized_layers(plain)
    candidate = Predictions.load(tmp_path / "predictions_candidate.npz")
    assert candidate.model_fingerprint == model_fingerprint(opened)
    assert len(quantized_layers(opened)) == logged(tmp_path, "quantized_layers")[-1] > 0
    _, _, header = indexed(tmp_path)
    assert {"pruning", "quantization"} & {*header["tags"]} == {"quantization"}
    assert "load_compressed" in (tmp_path / "README.md").read_text()


def test_the_rows_without_labels_take_part(glue_run):
    assert stored(glue_run, "train_results.json")["train_samples"] == 48 + 16
    assert logged(glue_run, "logits_loss")
    assert logged(glue_run, "sparsity")[-1] == pytest.approx(0.5, abs=1e-3)


def test_a_second_run_takes_the_teacher_and_resumes_to_the_same_weights(
    glue_run, glue_flags, bert_folder, monkeypatch, tmp_path
):
    from hf_compalign.align import fine_tuning

    # A run that was cut off: the teacher and the first checkpoint are there, and no results.
    output = tmp_path / "glue"
    for name in ("teacher", "checkpoint-4"):
        shutil.copytree(glue_run / name, output / name)
    monkeypatch.setattr(fine_tuning, "AlignedDistillationTrainer", None)  # fine-tuning again would call it
    run_glue(
        "--model_name_or_path", bert_folder, *glue_flags, "--output_dir", output, "--resume_from_checkpoint", "True"
    )
    once, resumed = (load_weights(folder / "model.safetensors") for folder in (glue_run, output))
    assert once.keys() == resumed.keys()
    assert all(torch.equal(once[name], resumed[name]) for name in once)


def test_a_teacher_that_was_made_in_another_way_is_refused(glue_run, glue_flags, bert_folder):
    changed = [*glue_flags, "--teacher_learning_rate", "1e-5"]
    message = "fine-tuned in another way: learning_rate: 0.005 -> 1e-05.*another output_dir"
    with pytest.raises(ValueError, match=message):
        run_glue("--model_name_or_path", bert_folder, *changed, "--output_dir", glue_run)


def test_the_recipe_of_a_teacher_and_its_accuracy_are_said(bert_folder, tmp_path, caplog, capsys):
    from transformers import AutoModelForSequenceClassification

    from hf_compalign.align import ModelArguments, fine_tune_teacher

    models = ModelArguments(model_name_or_path=str(bert_folder), teacher_num_train_epochs=2.0)
    rows = tiny.texts(8, n_labels=2)
    for _ in range(2):  # the second time it is there
        caplog.clear()
        with caplog.at_level("INFO"):
            folder = fine_tune_teacher(
                models,
                tiny.arguments(tmp_path, num_train_epochs=9, learning_rate=1.0),
                auto_class=AutoModelForSequenceClassification,
                names=["no", "yes"],
                recipe={},
                train_dataset=rows,
                eval_dataset=rows,
                compute_metrics=lambda _: {"accuracy": 0.625},
            )
        recipe = "2 epochs at a learning rate of 5e-05 (--teacher_num_train_epochs, --teacher_learning_rate)"
        assert recipe in caplog.text
    assert stored(Path(folder), "eval_results.json")["eval_accuracy"] == 0.625
    assert capsys.readouterr().out.count("eval_accuracy") == 2  # logged and listed once


def test_plain_recovery_of_the_same_teacher(glue_run, text_files, tmp_path, monkeypatch, caplog):
    short = partial(suggest_learning_rate, rates=[1e-4, 1e-3], steps=2)
    monkeypatch.setattr(sys.modules[train_student.__module__], "suggest_learning_rate", short)
    caplog.set_level("INFO")
    run_glue(
        *("--train_file", text_files / "train.csv", "--validation_file", text_files / "validation.csv"),
        *("--teacher_name_or_path", glue_run / "teacher", "--sparsity", "0.5", "--pruning_pattern", "layer"),
        *("--pruning_schedule", "constant", "--suggest_learning_rate"),
        *("--preset", "labels", "--max_train_samples", "24", "--max_eval_samples", "20"),
        *(*TRAIN, "--output_dir", tmp_path, "--test_file", text_files / "validation.csv", "--pad_to_max_length"),
        *("--learning_rate", "9.9"),
    )
    found = re.search(r"Suggested: (.*)\.$|The lowest, (.*),", caplog.text, re.M)
    assert 0 < max(logged(tmp_path, "learning_rate")) <= float(found.group(1) or found.group(2))
    # Audited on the 20 drawn from the test file, which are those of the validation file here.
    model = check_output(tmp_path, sparsity=0.5, n=20)
    assert all(
        (weight == 0).float().mean() == pytest.approx(0.5, abs=1e-3) for weight in prunable_weights(model).values()
    )
    assert stored(tmp_path, "train_results.json")["train_samples"] == 24
    assert not logged(tmp_path, "logits_loss")
    assert not (tmp_path / "teacher").exists()


class BegunError(Exception):
    """The teacher would be fine-tuned now."""


def begin(models, args, *, names, train_dataset, **options):
    """In place of the training: tell what it would begin with."""
    raise BegunError(names, train_dataset, options)


# The columns of a task of GLUE on the Hub, its texts first, and the names of its classes.
GLUE = {
    "cola": ("sentence", ["unacceptable", "acceptable"]),
    "sst2": ("sentence", ["negative", "positive"]),
    "mrpc": ("sentence1 sentence2", ["not_equivalent", "equivalent"]),
    "qqp": ("question1 question2", ["not_duplicate", "duplicate"]),
    "stsb": ("sentence1 sentence2", None),
    "mnli": ("premise hypothesis", ["entailment", "neutral", "contradiction"]),
    "qnli": ("question sentence", ["entailment", "not_entailment"]),
    "rte": ("sentence1 sentence2", ["entailment", "not_entailment"]),
    "wnli": ("sentence1 sentence2", ["not_entailment", "entailment"]),
}


def of_glue(task, *sizes):
    """Splits of a task of GLUE with so many rows, as the Hub has them."""
    columns, classes = GLUE[task]
    splits = []
    for seed, n in enumerate(sizes):
        rows = texts(n, seed=seed, n_classes=len(classes or "12"))
        labels = [["no", "yes", "maybe"].index(name) for name in rows["label"]]
        label = ClassLabel(names=classes) if classes else Value("float32")
        found = dict.fromkeys(columns.split(), rows["sentence"]) | {"idx": list(range(n))}
        found["label"] = labels if classes else [4.5 * label + 0.25 for label in labels]
        features = {name: Value("string") for name in columns.split()} | {"idx": Value("int32"), "label": label}
        splits.append(Dataset.from_dict(found, Features(features)))
    return splits


def test_the_columns_and_classes_of_every_task_of_glue_are_found():
    for task, (columns, classes) in GLUE.items():
        (rows,) = of_glue(task, 9)
        assert find_text_columns(rows) == tuple(columns.split()), task
        assert classes is None or list(class_names(rows, "label")) == classes, task


# A text, a pair, values, and three classes with two validation splits.
@pytest.mark.parametrize("task", ["cola", "rte", "stsb", "mnli"])
def test_a_task_of_glue_is_read_by_its_columns_and_labels(task, bert_folder, monkeypatch, tmp_path):
    import run_glue as script

    columns, classes = GLUE[task]
    train, validation, other = of_glue(task, 9, 6, 5)
    names = ("validation_matched", "validation_mismatched") if task == "mnli" else ("validation", "test")
    splits = {"train": train, names[0]: validation, names[1]: other}
    monkeypatch.setattr(script, "load_dataset", lambda *name: {("nyu-mll/glue", task): splits}[name])
    monkeypatch.setattr(script, "fine_tune_teacher", begin)
    tolerance = [] if classes else ["--tolerance", "0.5"]
    with pytest.raises(BegunError) as begun:
        run_glue("--task_name", task, "--model_name_or_path", bert_folder, *TRAIN, *tolerance, "--output_dir", tmp_path)
    found, rows, options = begun.value.args
    assert list(found) == (classes or ["score"])
    assert rows["labels"] == train["label"]
    assert options.get("problem_type") == (None if classes else "regression")
    assert rows["input_ids"][0].count(3) == len(columns.split()), "both texts of a pair are asked"
    assert len(options["eval_dataset"]) == 6
    answers = np.eye(len(classes))[[0, 1, 1]] if classes else np.array([[0.0], [1.0], [0.5]])
    scored = options["compute_metrics"](transformers.EvalPrediction(answers, np.array([0, 1, 0])))
    wanted = {"accuracy", "f1", "mcc"} if classes else {"pearson", "spearman"}
    assert {*scored} == wanted
    assert all(0 < value < 1 for value in scored.values())


def test_a_regression_is_compressed_and_its_values_are_compared(bert_folder, tmp_path, capsys):
    files = {"train": tmp_path / "train.parquet", "validation": tmp_path / "validation.parquet"}
    for path, rows in zip(files.values(), of_glue("stsb", 32, 16), strict=True):
        rows.to_parquet(path)
    given = [part for name, path in files.items() for part in (f"--{name}_file", path)]
    run_glue(
        *("--model_name_or_path", bert_folder, *given, *TRAIN, "--ignore_mismatched_sizes", "--cache_teacher"),
        *("--sparsity", "0.5", "--tolerance", "0.25", "--output_dir", tmp_path / "out"),
    )
    found = stored(tmp_path / "out", "values.json")
    assert (found["n"], found["tolerance"]) == (16, 0.25)
    assert f"{found['mismatches']} of 16 values moved by more than 0.25" in capsys.readouterr().out
    assert stored(tmp_path / "out/teacher", "eval_results.json")["eval_pearson"] > 0.8
    evaluated = stored(tmp_path / "out", "eval_results.json")
    assert evaluated["eval_mean_shift"] == pytest.approx(found["mean_shift"]["value"], abs=1e-5)
    config = stored(tmp_path / "out", "config.json")
    assert (config["problem_type"], config["id2label"]) == ("regression", {"0": "score"})
    given += ["--teacher_name_or_path", tmp_path / "out/teacher", *TRAIN, "--output_dir", tmp_path]
    with pytest.raises(ValueError, match="column 'label' holds numbers.* Say with tolerance from which change on"):
        run_glue(*given)
    with pytest.raises(ValueError, match="transfer_file is for texts with classes. Leave it out: this is a regression"):
        run_glue(*given, "--tolerance", "1", "--transfer_file", files["train"])


def test_long_texts_are_read_in_windows_by_both_models(bert_folder, tmp_path):
    # The first windows are all the same: who reads no further gives all texts one answer.
    for name, n in (("train", 48), ("validation", 20)):
        rows = texts(n, seed=len(name))
        ends = [" ".join([*[WORDS[-1]] * 9, *text.split()]) for text in rows["sentence"]]
        rows.remove_columns("sentence").add_column("sentence", ends).to_csv(tmp_path / f"{name}.csv")
    given = ["--train_file", tmp_path / "train.csv", "--validation_file", tmp_path / "validation.csv", *TRAIN]
    windows = ["--max_seq_length", "8", "--doc_stride", "2"]
    start = ["--model_name_or_path", bert_folder, "--cache_teacher", "--sparsity", "0.5"]
    run_glue(*start, *given, *windows, "--output_dir", tmp_path / "out")
    for folder in (tmp_path / "out", tmp_path / "out/teacher"):
        assert stored(folder, "config.json")["text_windows"] == {"length": 8, "stride": 2}
    answers = Predictions.load(tmp_path / "out/predictions_reference.npz")
    assert len(np.unique(answers.logits, axis=0)) == 20
    found = recomputed_audit(tmp_path / "out")
    assert stored(tmp_path / "out", "eval_results.json")["eval_mismatch_rate"] == found.metrics["mismatch_rate"]
    # A teacher that is given reads texts as it has learned to.
    given += ["--teacher_name_or_path", tmp_path / "out/teacher"]
    run_glue(*given, "--output_dir", tmp_path / "again")
    assert stored(tmp_path / "again", "config.json")["text_windows"] == {"length": 8, "stride": 2}
    with pytest.raises(ValueError, match=r"reads long texts as its config says: Windows\(length=8, stride=2\). Got"):
        run_glue(*given, *windows[:-1], "3", "--output_dir", tmp_path / "other")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--sparsity", "80", "--do_train"], r"sparsity must be in \[0, 1\). Got 80.0. Did you mean 0.8"),
        (["--pruning_pattern", "layer", "--do_train"], "pruning_pattern='layer' would be ignored: nothing is pruned"),
        (["--do_eval"], "Give do_train, and do_eval for the audit"),
        (["--do_train", "--do_predict"], "give test_file instead of do_predict"),
        (["--do_train", "--do_eval"], "nothing to evaluate on. Give validation_file or test_file"),
        (["--do_train", "--teacher_name_or_path", "x"], "Give either model_name_or_path.* or teacher_name_or_path"),
        (["--do_train", "--task_name", "sst2"], "Give one of task_name, dataset_name and train_file"),
        (["--do_train", "--validation_file", "x.csv", "--task_name", "sst2"], "Give one of task_name, dataset_name"),
        (["--do_train", "--label_column_name", "labl"], "There is no column 'labl'.*Did you mean 'label'"),
        (["--do_train", "--tolerance", "1"], "tolerance is for a regression. Got 1, and classes in the column 'label'"),
    ],
)
def test_glue_refuses_what_it_would_ignore_or_cannot_do(flags, message, bert_folder, text_files, tmp_path):
    given = ["--model_name_or_path", bert_folder, "--train_file", text_files / "train.csv", "--output_dir", tmp_path]
    with pytest.raises(ValueError, match=message):
        run_glue(*given, *flags)


def test_columns_that_cannot_be_told_are_asked_for(glue_run, text_files, tmp_path):
    texts(8, seed=0).rename_column("label", "target").to_json(tmp_path / "unnamed.json")
    given = ["--teacher_name_or_path", glue_run / "teacher", "--do_train", "--output_dir", tmp_path / "out"]
    with pytest.raises(ValueError, match="Name the label column with label_column_name: one of sentence, target"):
        run_glue(*given, "--train_file", tmp_path / "unnamed.json", "--text_column_names", "sentence")
    texts(8, seed=0).add_column("text_pair", WORDS[:8]).rename_column("sentence", "text").to_json(
        tmp_path / "pairs.json"
    )
    given += ["--train_file", text_files / "train.csv", "--transfer_file", tmp_path / "pairs.json"]
    with pytest.raises(ValueError, match=r"transfer_file must have the text columns \('sentence',\). Got \['text'"):
        run_glue(*given)


def test_the_card_with_the_audit_is_what_ends_up_on_the_hub(glue_run, text_files, monkeypatch, tmp_path):
    pushed = []

    def init_hf_repo(trainer, *args, **kwargs):
        trainer.hub_model_id = "someone/pruned"
        trainer.push_in_progress = None

    def push_to_hub(trainer, *args, **kwargs):
        folder = Path(trainer.args.output_dir)
        (folder / "README.md").write_text("a draft")
        pushed.append({path.name for path in folder.iterdir()})

    monkeypatch.setattr(transformers.Trainer, "init_hf_repo", init_hf_repo)
    monkeypatch.setattr(transformers.Trainer, "push_to_hub", push_to_hub)
    monkeypatch.setattr(
        huggingface_hub.ModelCard, "push_to_hub", lambda card, repo_id, **_: pushed.append((repo_id, str(card)))
    )
    rows = {name: load_file(text_files / f"{name}.csv") for name in ("train", "validation")}
    splits = {"train": rows["train"], "validation_matched": rows["validation"]}
    monkeypatch.setattr(import_module("run_glue"), "load_dataset", lambda *name: splits)
    flags = [
        "--task_name",
        "mnli",
        "--teacher_name_or_path",
        glue_run / "teacher",
        *TRAIN,
        "--save_strategy",
        "no",
        "--push_to_hub",
    ]
    run_glue(*flags, "--output_dir", tmp_path)
    assert {"model.safetensors", "audit.json", "predictions_candidate.npz"} <= pushed[-2]
    repo_id, card = pushed[-1]
    assert repo_id == "someone/pruned"
    assert 'model="someone/pruned"' in card
    assert card.strip() == (tmp_path / "README.md").read_text().strip()
    _, dataset, header = indexed(tmp_path)
    assert dataset == {"name": "mnli", "type": "nyu-mll/glue", "config": "mnli", "split": "validation_matched"}
    assert "pruning" not in header["tags"]


# ---- without a Trainer ----


def bare_flags(teacher, text_files, output, *, batch, accumulation):
    flags = {
        "teacher_name_or_path": teacher,
        "train_file": text_files / "partly_labeled.csv",
        "validation_file": text_files / "validation.csv",
        "output_dir": output,
        "per_device_train_batch_size": batch,
        "gradient_accumulation_steps": accumulation,
        "learning_rate": 1e-3,
        "sparsity": 0.6,
    }
    return [str(word) for name, value in flags.items() for word in (f"--{name}", value)]


def told(text):
    """The numbers of each optimizer step: the three losses and the sparsity."""
    found = re.findall(r"step \d+ of 18: task (.*), agreement (.*), logits (.*), sparsity (.*)", text)
    return np.array(found, dtype=float)


@pytest.fixture(scope="module")
def bare_run(glue_run, text_files, tmp_path_factory):
    """The output folder of the bare loop, and what it printed."""
    folder = tmp_path_factory.mktemp("runs") / "bare"
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        run_bare(*bare_flags(glue_run / "teacher", text_files, folder, batch=8, accumulation=1))
    return folder, printed.getvalue()


def test_the_bare_loop_leaves_a_pruned_model_and_tells_its_mismatches(bare_run, glue_run, text_files):
    folder, printed = bare_run
    losses, sparsity = told(printed)[:, :3], told(printed)[:, 3]
    # 48 rows, three epochs, and the schedule ends in the middle: the zeros are kept from there on.
    assert len(sparsity) == 18
    assert (np.diff(sparsity) >= 0).all()
    assert 0 < sparsity[0] < sparsity[4] < 0.59
    assert sparsity[8:] == pytest.approx(0.6, abs=1e-3)
    assert losses[0, 2] == pytest.approx(0, abs=1e-9), "it starts as the teacher"
    assert losses[8:, 2].min() > 0
    assert not np.allclose(losses[:, 0], losses[:, 1]), "the rows without labels count for the teacher's terms alone"
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder)
    assert sparsity_of(prunable_weights(model)) == pytest.approx(0.6, abs=1e-3)
    rows = load_file(text_files / "validation.csv")
    found = audit(predict(glue_run / "teacher", rows), predict(folder, rows))
    assert str(found).splitlines()[0] in printed
    assert found.n == 30


@pytest.mark.slow
def test_the_bare_loop_gives_the_same_with_accumulation_and_with_two_processes(
    bare_run, glue_run, text_files, tmp_path, capsys
):
    folder, printed = bare_run
    run_bare(*bare_flags(glue_run / "teacher", text_files, tmp_path / "one", batch=2, accumulation=4))
    accumulated = capsys.readouterr().out
    script = [str(EXAMPLES / "run_no_trainer.py")]
    script += bare_flags(glue_run / "teacher", text_files, tmp_path / "two", batch=2, accumulation=2)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", *script]
    environment = os.environ | {"ACCELERATE_USE_CPU": "true"}
    done = subprocess.run(launch, capture_output=True, text=True, env=environment, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    for output, text in ((tmp_path / "one", accumulated), (tmp_path / "two", done.stdout)):
        np.testing.assert_allclose(told(text), told(printed), rtol=1e-3, atol=1e-4)
        once, again = (load_weights(path / "model.safetensors") for path in (folder, output))
        assert all(torch.allclose(once[name], again[name], atol=1e-3) for name in once)


def test_the_bare_loop_refuses_what_it_cannot_do(glue_run, text_files, tmp_path):
    given = bare_flags(glue_run / "teacher", text_files, tmp_path, batch=8, accumulation=1)
    with pytest.raises(ValueError, match=r"sparsity must be in \[0, 1\). Got 80.0. Did you mean 0.8"):
        run_bare(*given, "--sparsity", "80")
    with pytest.raises(ValueError, match=r"weights must be 3 numbers, for task, agreement, logits. Got \[1.0\]"):
        run_bare(*given, "--weights", "1")
    texts(8, seed=0).rename_column("label", "target").to_json(tmp_path / "unnamed.json")
    with pytest.raises(ValueError, match="Name the label column with label_column_name: one of sentence, target"):
        run_bare(*given, "--train_file", tmp_path / "unnamed.json", "--text_column_names", "sentence")


# ---- images ----


def pictures(n, *, seed):
    """Noise around a brightness that tells the class."""
    from PIL.Image import fromarray

    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, size=n)
    noise = rng.integers(0, 60, size=(n, 8, 8, 3))
    return [fromarray(pixels.astype(np.uint8)) for pixels in noise + 180 * labels[:, None, None, None]], labels


@pytest.fixture(scope="module")
def vit_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vit")
    tiny.vit(n_labels=2, num_channels=3).save_pretrained(folder)
    transformers.ViTImageProcessor(size={"height": 8, "width": 8}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def image_folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("images")
    for split, n, seed in (("train", 40, 0), ("validation", 20, 1), ("transfer", 12, 2)):
        for index, (picture, label) in enumerate(zip(*pictures(n, seed=seed), strict=True)):
            folder = root / split / ("" if split == "transfer" else ["dark", "light"][label])
            folder.mkdir(parents=True, exist_ok=True)
            picture.save(folder / f"{index}.png")
    return root


@pytest.fixture(scope="module")
def image_run(vit_folder, image_folders, tmp_path_factory):
    output = tmp_path_factory.mktemp("runs") / "images"
    run_images(
        *("--model_name_or_path", vit_folder, "--train_dir", image_folders / "train", "--sparsity", "0.6"),
        *("--validation_dir", image_folders / "validation", "--transfer_file", image_folders / "transfer"),
        *("--train_augmentation", *TRAIN, "--output_dir", output),
    )
    return output


def test_images_from_folders_leave_a_pruned_model_its_audit_and_its_card(image_run):
    model = check_output(image_run, sparsity=0.6, n=20)
    assert model.config.id2label == {0: "dark", 1: "light"}
    assert transformers.AutoImageProcessor.from_pretrained(image_run).size["height"] == 8
    assert stored(image_run, "train_results.json")["train_samples"] == 40 + 12
    assert stored(image_run, "audit.json")["metrics"]["accuracy_reference"] > 0.8
    assert indexed(image_run)[2]["pipeline_tag"] == "image-classification"


def test_images_from_parquet_with_a_cached_teacher_and_a_split_of_their_own(image_run, tmp_path):
    images, labels = pictures(40, seed=3)
    features = Features({"picture": Image(), "kind": ClassLabel(names=["light", "dark"]), "n": Value("int64")})
    # The classes are numbered the other way round than the teacher's.
    columns = {"picture": images, "kind": (1 - labels).tolist(), "n": list(range(40))}
    Dataset.from_dict(columns, features=features).to_parquet(tmp_path / "train.parquet")
    flags = ["--train_file", tmp_path / "train.parquet", "--teacher_name_or_path", image_run / "teacher"]
    run_images(*flags, "--cache_teacher", "--train_val_split", "0.25", *TRAIN, "--output_dir", tmp_path / "out")
    check_output(tmp_path / "out", sparsity=0.0, n=10)
    assert stored(tmp_path / "out", "train_results.json")["train_samples"] == 30
    # Labels matched by number would put it at nearly 0.
    assert stored(tmp_path / "out", "audit.json")["metrics"]["accuracy_reference"] > 0.8


@pytest.mark.parametrize("script", ["run_glue", "run_image_classification"])
def test_classes_are_those_of_all_rows_and_every_split_is_checked_first(
    script, bert_folder, vit_folder, monkeypatch, tmp_path
):
    def parquet(name, labels):
        if script == "run_glue":
            rows = texts(len(labels), seed=0).remove_columns("label")
        else:
            rows = Dataset.from_dict({"image": pictures(len(labels), seed=0)[0]}, Features({"image": Image()}))
        rows.add_column("label", labels).to_parquet(tmp_path / f"{name}.parquet")
        return tmp_path / f"{name}.parquet"

    monkeypatch.setattr(import_module(script), "fine_tune_teacher", begin)
    model = bert_folder if script == "run_glue" else vit_folder
    train, right = parquet("train", ["no", "yes"] * 20 + ["maybe"]), parquet("right", ["maybe", "no"])
    given = ["--model_name_or_path", model, "--train_file", train, "--max_train_samples", "4", "--output_dir", tmp_path]
    with pytest.raises(BegunError) as begun:
        run(script, *given, *TRAIN, "--validation_file", right)
    names, rows, _ = begun.value.args
    assert (names, len(rows)) == (("maybe", "no", "yes"), 4)
    wrong = parquet("wrong", ["other", "no"])
    for flags in (["--validation_file", wrong], ["--validation_file", right, "--test_file", wrong]):
        with pytest.raises(ValueError, match=r"names of the model's labels \(maybe, no, yes\). Got other"):
            run(script, *given, *TRAIN, *flags)


def test_cached_logits_of_augmented_images_are_refused(image_run, image_folders, tmp_path):
    with pytest.raises(ValueError, match="stale: the inputs of row .* preprocessing has changed or is random"):
        run_images(
            *("--teacher_name_or_path", image_run / "teacher", "--train_dir", image_folders / "train"),
            *("--train_augmentation", "--cache_teacher", *TRAIN, "--output_dir", tmp_path),
        )


def test_augmentation_keeps_the_content_and_changes_the_picture():
    import random

    import run_image_classification as script
    from PIL.Image import fromarray

    random.seed(0)
    pixels = np.arange(16 * 24, dtype=np.uint16).reshape(16, 24).astype(np.int32)
    seen = set()
    for _ in range(50):
        crop = np.asarray(script.flip_and_crop(fromarray(pixels)))
        assert crop.shape == (14, 21)
        # A crop, perhaps mirrored: neighbors still differ by one.
        assert set(np.diff(crop, axis=1).ravel().tolist()) in ({1}, {-1})
        seen.add(crop.tobytes())
    assert len(seen) > 10


# ---- sounds ----


@pytest.fixture(scope="module")
def ast_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ast")
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    shape = {"patch_size": 8, "frequency_stride": 8, "time_stride": 8, "max_length": 16, "num_mel_bins": 16}
    torch.manual_seed(0)
    config = transformers.ASTConfig(**sizes, **shape, num_labels=2, initializer_range=0.2)
    transformers.ASTForAudioClassification(config).save_pretrained(folder)
    transformers.ASTFeatureExtractor(sampling_rate=16000, num_mel_bins=16, max_length=16).save_pretrained(folder)
    return folder


def test_sounds_are_classified_compressed_and_audited(ast_folder, tmp_path):
    """Noise, loud or quiet."""
    rng = np.random.default_rng(0)
    for name, n in (("train", 32), ("validation", 20)):
        loud = rng.integers(0, 2, n)
        sounds = rng.normal(size=(n, 2000)) * 0.1 ** (1 + 3 * (1 - loud[:, None]))
        rows = {"audio": sounds.tolist(), "label": [["quiet", "loud"][one] for one in loud]}
        Dataset.from_dict(rows).to_parquet(tmp_path / f"{name}.parquet")
    run_sounds(
        *("--model_name_or_path", ast_folder, "--train_file", tmp_path / "train.parquet", "--sparsity", "0.5"),
        *("--validation_file", tmp_path / "validation.parquet", "--audio_column_name", "audio", *TRAIN),
        *("--max_length_seconds", "0.1", "--output_dir", tmp_path / "out"),
    )
    found = recomputed_audit(tmp_path / "out")
    assert (found.n, found.label_names) == (20, ("loud", "quiet"))
    assert found.metrics["accuracy_reference"] > 0.8
    evaluated = stored(tmp_path / "out", "eval_results.json")
    assert evaluated["eval_mismatch_rate"] == pytest.approx(found.metrics["mismatch_rate"])
    assert evaluated["eval_accuracy"] == pytest.approx(found.metrics["accuracy_candidate"])
    check_card(tmp_path / "out", items="20 examples", task="audio-classification", loaded="ASTForAudioClassification")
    model = transformers.AutoModelForAudioClassification.from_pretrained(tmp_path / "out")
    assert sparsity_of(prunable_weights(model)) == pytest.approx(0.5, abs=1e-2)


def test_the_training_hears_a_random_part_of_a_long_sound():
    class Whole:
        sampling_rate = 10

        def __call__(self, sounds, *, sampling_rate):
            return sounds

    hear = import_module("run_audio_classification").RandomParts(Whole(), 0.5)
    heard = [hear([np.arange(8), np.arange(3)], sampling_rate=10) for _ in range(40)]
    assert {tuple(long) for long, _ in heard} == {tuple(range(start, start + 5)) for start in range(4)}
    assert all(short.tolist() == [0, 1, 2] for _, short in heard)


# ---- their page ----


def test_every_flag_of_the_page_exists(capsys):
    page, known = (EXAMPLES / "README.md").read_text(), {}
    for path in EXAMPLES.glob("*.py"):
        with pytest.raises(SystemExit):
            run(path.stem, "--help")
        known[path.stem] = set(re.findall(r"--\w+", capsys.readouterr().out))
        command = re.search(rf"python examples/{path.stem}\.py.*?\n```", page, re.S).group()
        assert set(re.findall(r"--\w+", command)) <= known[path.stem], path.stem
    every = set().union(*known.values()) | {"--num_processes"}
    named = set(re.findall(r"--\w+", page))
    beginnings = {flag for flag in named if flag.endswith("_")}
    assert all(any(flag.startswith(one) for flag in every) for one in beginnings)
    assert named - beginnings <= every


@pytest.fixture(scope="module")
def tagged_files(tmp_path_factory):
    """Words whose tag is told by the word: w0 begins a name, w1 goes on with it, and all others are outside."""
    folder, tags = tmp_path_factory.mktemp("tagged"), {"w0": "B-X", "w1": "I-X"}
    rng = np.random.default_rng(0)
    for name, n in (("train", 48), ("validation", 20)):
        words = [[WORDS[place] for place in rng.integers(0, 4, rng.integers(2, 7))] for _ in range(n)]
        rows = {"tokens": words, "ner_tags": [[tags.get(word, "O") for word in text] for text in words]}
        Dataset.from_dict(rows).to_parquet(folder / f"{name}.parquet")
    return folder


def test_words_are_tagged_compressed_and_audited(bert_folder, tagged_files, tmp_path, capsys):
    run_ner(
        *("--model_name_or_path", bert_folder, "--train_file", tagged_files / "train.parquet", "--sparsity", "0.5"),
        *("--validation_file", tagged_files / "validation.parquet", "--max_seq_length", "16", *TRAIN),
        *("--ignore_mismatched_sizes", "True", "--output_dir", tmp_path),
    )
    found, rows = recomputed_audit(tmp_path), load_file(tagged_files / "validation.parquet")
    assert (found.n, found.n_examples) == (sum(map(len, rows["tokens"])), 20)
    assert found.label_names == ("B-X", "I-X", "O")
    assert found.metrics["accuracy_reference"] > 0.8
    assert stored(tmp_path, "audit.json")["metrics"]["cie"] == found.metrics["cie"]
    assert stored(tmp_path, "eval_results.json")["eval_mismatch_rate"] == pytest.approx(found.metrics["mismatch_rate"])
    assert stored(tmp_path, "eval_results.json")["eval_accuracy"] == pytest.approx(found.metrics["accuracy_candidate"])
    assert "entities of the reference in 20 texts the candidate keeps" in capsys.readouterr().out
    items = f"{found.n} items in 20 examples"
    check_card(tmp_path, items=items, task="token-classification", loaded="BertForTokenClassification")
    model = transformers.AutoModelForTokenClassification.from_pretrained(tmp_path)
    assert sparsity_of(prunable_weights(model)) == pytest.approx(0.5, abs=1e-3)


def test_words_without_a_column_or_data_to_evaluate_on_are_refused(bert_folder, tagged_files, tmp_path):
    given = ("--train_file", tagged_files / "train.parquet", *TRAIN, "--output_dir", tmp_path)
    with pytest.raises(ValueError, match="There is nothing to evaluate on. Give validation_file, or leave do_eval out"):
        run_ner("--model_name_or_path", bert_folder, *given)
    with pytest.raises(ValueError, match="There is no column 'tag'"):
        run_ner(
            *("--model_name_or_path", bert_folder, "--validation_file", tagged_files / "validation.parquet"),
            *("--label_column_name", "tag", *given),
        )
    with pytest.raises(ValueError, match="Give dataset_name or train_file. Got None and None"):
        run_ner("--model_name_or_path", bert_folder, *TRAIN, "--output_dir", tmp_path)


def test_several_labels_are_compressed_and_audited_label_by_label(bert_folder, tmp_path):
    rng = np.random.default_rng(0)
    for name, n in (("train", 64), ("validation", 20)):
        words = rng.integers(0, 4, (n, 3))
        rows = {"text": [" ".join(WORDS[word] for word in text) for text in words]}
        rows |= {f"has {word}": (words == word).any(1).astype(int).tolist() for word in range(2)}
        Dataset.from_dict(rows).to_csv(tmp_path / f"{name}.csv")
    given = ("--train_file", tmp_path / "train.csv", "--validation_file", tmp_path / "validation.csv", *TRAIN)
    run_multilabel(
        *("--model_name_or_path", bert_folder, *given, "--label_column_names", "has 0", "has 1", "--sparsity", "0.5"),
        *("--teacher_num_train_epochs", "12", "--output_dir", tmp_path / "out"),
    )
    found = recomputed_audit(tmp_path / "out")
    assert (found.n, found.n_examples, found.label_names) == (40, 20, ("no", "yes"))
    assert found.metrics["accuracy_reference"] > 0.8
    for name in ("mismatch_rate", "accuracy", "f1"):
        evaluated = stored(tmp_path / "out", "eval_results.json")[f"eval_{name}"]
        assert evaluated == pytest.approx(found.metrics[name if name == "mismatch_rate" else f"{name}_candidate"])
    assert stored(tmp_path / "out", "config.json")["problem_type"] == "multi_label_classification"
    given_items = "40 items in 20 examples"
    check_card(tmp_path / "out", items=given_items, task="text-classification", loaded="BertForSequenceClassification")
    with pytest.raises(ValueError, match="Name the columns of the labels with label_column_names, such as toxic"):
        run_multilabel("--model_name_or_path", bert_folder, *given, "--output_dir", tmp_path / "out")


def test_questions_about_texts_are_answered_by_both_models(bert_folder, tmp_path, capsys):
    """The answer is w0, wherever it is; texts are longer than a window."""
    rng = np.random.default_rng(0)
    for name, n in (("train", 64), ("validation", 20)):
        rows = []
        for number in range(n):
            words = [WORDS[place] for place in rng.integers(1, 5, 14)]
            place = int(rng.integers(0, 14))
            words[place] = WORDS[0]
            start = len(" ".join(words[:place])) + (place > 0)
            answers = {"text": [WORDS[0]], "answer_start": [start]}
            rows.append({"id": f"q{number}", "question": WORDS[6], "context": " ".join(words), "answers": answers})
        Dataset.from_list(rows).to_parquet(tmp_path / f"{name}.parquet")
    run_qa(
        *("--model_name_or_path", bert_folder, "--train_file", tmp_path / "train.parquet", "--sparsity", "0.3"),
        *("--validation_file", tmp_path / "validation.parquet", *TRAIN, "--teacher_num_train_epochs", "20"),
        *("--max_seq_length", "14", "--doc_stride", "4", "--max_answer_length", "3", "--output_dir", tmp_path / "out"),
    )
    found = stored(tmp_path / "out", "answers.json")
    assert found["n"] == 20
    assert found["reference"]["exact_match"] > 0.6
    assert "of 20 questions have another answer" in capsys.readouterr().out
    assert 0 <= stored(tmp_path / "out", "eval_results.json")["eval_mismatch_rate"] < 1
    load_file(tmp_path / "train.parquet").remove_columns("context").to_parquet(tmp_path / "plain.parquet")
    flags = ("--train_file", tmp_path / "plain.parquet", "--validation_file", tmp_path / "validation.parquet")
    with pytest.raises(ValueError, match="There is no column 'context'"):
        run_qa("--model_name_or_path", bert_folder, *flags, *TRAIN, "--output_dir", tmp_path / "out")


def test_the_place_of_an_answer_is_that_of_its_tokens_if_the_window_holds_it_whole():
    place = import_module("run_qa").Questions._place
    parts, offsets = [None, 0, None, 1, 1, 1, None], [(0, 0), (0, 2), (0, 0), (10, 14), (15, 17), (18, 20), (0, 0)]
    answer = {"text": ["xx y"], "answer_start": [15]}
    assert place(parts, offsets, answer) == (4, 5)
    assert place(parts, offsets, {"text": ["x"], "answer_start": [16]}) == (4, 4)
    assert place(parts, offsets, {"text": ["x" * 9], "answer_start": [15]}) == (0, 0)
    assert place(parts, offsets, {"text": ["x"], "answer_start": [3]}) == (0, 0)
    assert place(parts, offsets, {"text": [], "answer_start": []}) == (0, 0)
