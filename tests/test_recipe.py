"""Recipes: keys, values, what ships, and hf-compalign compress, which takes them."""

import inspect
import json

import pytest
import shipping
import yaml
from commands import call, error_of
from traced import traced_once

from hf_compalign.cli.compress import compress
from hf_compalign.search import KEYS, recipe_of, shipped_recipes

pytest.importorskip("onnxruntime")
SAID = {"model": "m", "dataset": "d.csv", "output": "out", "limits": {"mismatch_rate": 0.01}}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A model, its rows, and a recipe for a quick search."""
    folder = tmp_path_factory.mktemp("recipes")
    shipping.saved(folder / "model", shipping.model())
    shipping.raw_texts(250).to_parquet(folder / "rows.parquet")
    keys = {"formats": ["onnx"], "cuts": [], "int8": False, "repair_measurements": 0, "n_runs": 2}
    (folder / "quick.yaml").write_text(yaml.safe_dump(keys | {"limits": {"mismatch_rate": 0.2}}))
    return folder


def written(folder, text):
    path = folder / "r.yaml"
    path.write_text(text)
    return path


def test_what_is_given_takes_the_place_of_what_the_file_says(tmp_path):
    path = written(tmp_path, "objective: bytes\nbatch_size: 4\nlimits: {mismatch_rate: 0.02}\n")
    found = recipe_of({"model": "m", "dataset": "d", "output": "o", "batch_size": 16, "seed": None}, path)
    assert (found.objective, found.batch_size, found.limits, found.seed) == ("bytes", 16, {"mismatch_rate": 0.02}, 0)


def test_a_saved_recipe_is_read_as_it_was(tmp_path):
    found = recipe_of(SAID | {"cuts": [0.4], "text_column": ["a", "b"]})
    found.save(tmp_path / "recipe.yaml")
    assert [*yaml.safe_load((tmp_path / "recipe.yaml").read_text())] == sorted(KEYS, key=[*KEYS].index)
    again = recipe_of({}, tmp_path / "recipe.yaml")
    assert again.to_yaml() == found.to_yaml()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("objectiv: bytes", "unknown key 'objectiv'. Did you mean objective?"),
        ("- 1", "must hold keys and values.*Got list"),
        ("a: [", "is not a YAML file"),
        ("batch_size: many", "batch_size must be a whole number. Got 'many'"),
        ("objective: speed", "objective must be one of latency, bytes"),
        ("limits: 0.01", "limits must be an object"),
        ("cuts: 0.25", r"cuts must be a list of numbers. Got 0\.25"),
        ("cuts: null", "cuts must be a list of numbers. Got None"),
        ("cuts: none", "cuts must be a list of numbers. Got 'none'"),
        ("cuts: [quarter]", r"cuts.0 must be a number. Got 'quarter'"),
        ("cuts: [25]", r"cuts must be .*Did you mean 0\.25"),
        ("formats: 3", "formats must be a list of texts. Got 3"),
        ("formats: []", "formats must be a list with some of openvino, onnx. Got"),
        ("text_column: text", "text_column must be a list of texts. Got 'text'"),
    ],
)
def test_a_wrong_file_is_refused_with_what_is_wrong(tmp_path, text, words):
    with pytest.raises(ValueError, match=words):
        recipe_of(SAID if "limits" not in text else SAID | {"limits": None}, written(tmp_path, text))


def test_what_is_nowhere_said_is_asked_for():
    for name in ("model", "dataset", "output", "limits"):
        with pytest.raises(ValueError, match=f"There is no {name}. Say it on the command line"):
            recipe_of({key: value for key, value in SAID.items() if key != name})
    with pytest.raises(FileNotFoundError, match="There is no recipe fats. Those that ship: .*fast"):
        recipe_of(SAID, "fats")


@pytest.mark.parametrize("name", shipped_recipes())
def test_a_recipe_that_ships_says_what_it_is_for_and_is_right(name):
    assert shipped_recipes()[name].endswith(".") or ";" in shipped_recipes()[name]
    found = recipe_of({key: value for key, value in SAID.items() if key != "limits"} | {"train": "t.csv"}, name)
    assert found.limits["mismatch_rate"] <= 0.01


def test_every_key_is_an_option_of_the_command():
    names = {*inspect.signature(compress).parameters} | {"limits"}
    assert {*KEYS} <= names


# ---- the command ----


def test_the_command_does_the_whole_job_and_saves_its_recipe(place, tmp_path):
    """Also in the place of an earlier artifact, which had other files."""
    (tmp_path / "out" / "onnx").mkdir(parents=True)
    for name in ("audit.json", "onnx/model_int8.onnx", "onnx/model_int8.audit.json", "mine.txt"):
        (tmp_path / "out" / name).write_text("{}")
    with traced_once():
        done = call(
            "compress", place / "model", "--dataset", place / "rows.parquet", "--recipe", place / "quick.yaml",
            "--output", tmp_path / "out", "--overwrite",
        )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert {path.name for path in (tmp_path / "out" / "onnx").iterdir()} == {"model.onnx", "model.audit.json"}
    assert (tmp_path / "out" / "mine.txt").read_text() == "{}"
    assert "times" in done.stdout.splitlines()[-1]
    assert "changed" in done.stdout.splitlines()[-1]
    assert "tried  ONNX" in done.stderr
    again = recipe_of({}, tmp_path / "out" / "recipe.yaml")
    assert (again.limits, again.formats, again.model) == ({"mismatch_rate": 0.2}, ("onnx",), str(place / "model"))
    said = json.loads((tmp_path / "out" / "compression.json").read_text())
    assert said["kind"] == "hf_compalign.compression"


def test_a_dry_run_writes_nothing(place, tmp_path):
    done = call(
        "compress", place / "model", "--dataset", place / "rows.parquet", "--recipe", place / "quick.yaml",
        "--output", tmp_path / "out", "--dry-run",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "the original's answers" in done.stdout
    as_json = call(
        "compress", place / "model", "--dataset", place / "rows.parquet", "--recipe", place / "quick.yaml",
        "--output", tmp_path / "out", "--dry-run", "--json",
    )  # fmt: skip
    found = json.loads(as_json.stdout)
    assert (found["rows"], [*found["steps"]]) == (
        {"choose": 100, "prove": 100, "calibrate": 50}, ["the original's answers", "ONNX"]
    )  # fmt: skip
    assert [*tmp_path.iterdir()] == []


def test_bad_input_is_one_line(place, tmp_path):
    recipe = written(tmp_path, "cuts: 0.25")
    said = error_of(call("compress", "m", "--dataset", "d", "--output", "o", "--recipe", recipe))
    assert said == "Error: cuts must be a list of numbers. Got 0.25."
    said = error_of(call("compress", place / "model", "--dataset", place / "rows.parquet", "--output", tmp_path / "o"))
    assert said == "Error: There is no limits. Say it on the command line, or as limits: in the recipe."


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--recipe", "trained"],
            "The recipe trained sets train_steps, and there are no rows to train on. Give --train",
        ),
        (["--train-steps", "400"], "There is no --train, so --train-steps would be ignored. Leave it out"),
        (["--seed", "0", "--learning-rate", "0.001"], "no --train, so --learning-rate, --seed would be ignored"),
        (["--train-batch-size", "8"], "There is no --train, so --train-batch-size would be ignored"),
        (
            ["--no-int8", "--repair-measurements", "4"],
            "Only INT8 is repaired, so --repair-measurements would be ignored",
        ),
        (["--for", "bytes", "--deferral"], "so --deferral would be ignored"),
        (["--limit", "mismatch_rate=0.2"], "--limit names mismatch_rate twice, as 0.01 and 0.2. Leave one out."),
    ],
)
def test_what_would_be_ignored_is_refused(words, message):
    said = ["--limit", "mismatch_rate=0.01", "--dataset", "nowhere.csv", "--output", "o"]
    assert message in error_of(call("compress", "m", *said, *words))


def test_a_recipe_may_say_what_only_a_training_takes(tmp_path):
    """One that a run without a training saved says its defaults; with rows to train on, any is right."""
    recipe_of(SAID).save(tmp_path / "recipe.yaml")
    assert recipe_of({}, tmp_path / "recipe.yaml").train is None
    assert recipe_of(SAID | {"train": "t.csv"}, "trained").train_steps == 1000
    with pytest.raises(ValueError, match="sets learning_rate, seed, and there are no rows to train on"):
        recipe_of(SAID, written(tmp_path, "seed: 3\nlearning_rate: 0.001"))


def test_recipes_are_listed_and_printed():
    listed = call("recipes")
    assert listed.exit_code == 0
    assert {line.split()[0] for line in listed.stdout.splitlines()} == {*shipped_recipes()}
    assert yaml.safe_load(call("recipes", "small").stdout)["objective"] == "bytes"
    assert "There is no recipe big" in error_of(call("recipes", "big"))
