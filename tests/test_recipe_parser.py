"""Recipes of trainings: flags that stand in a file, what takes whose place, and what is written."""

from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml
from transformers import TrainingArguments

from hf_compalign import AlignmentArguments
from hf_compalign.align import ModelArguments, RecipeParser
from hf_compalign.compress import CompressionArguments

TYPES = (ModelArguments, AlignmentArguments, CompressionArguments, TrainingArguments)
SAID = """
teacher_name_or_path: org/model
learning_rate: 5e-5
sparsity: 0.5
do_train: true
lr_scheduler_kwargs: {num_cycles: 2}
transfer: 0.3
transfer_kinds: [splice, drop]
metric_for_best_model:
save_strategy: no
logging_strategy: "no"
dataloader_drop_last: false
"""
RECIPES = Path(__file__).parent.parent / "examples" / "recipes"


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(SAID)
    return path


def parsed(*argv):
    return RecipeParser(TYPES).parse([str(word) for word in argv])


def alike(one, other):
    return one[:3] == other[:3] and one[3].to_dict() == other[3].to_dict()


def test_a_file_says_what_flags_say(recipe, tmp_path):
    models, alignment, compression, args = parsed("--recipe", recipe, "--output_dir", tmp_path)
    assert (models.teacher_name_or_path, args.learning_rate, compression.sparsity) == ("org/model", 5e-5, 0.5)
    assert (alignment.transfer, alignment.transfer_kinds) == (0.3, ["splice", "drop"])
    assert (args.do_train, args.dataloader_drop_last, args.lr_scheduler_kwargs) == (True, False, {"num_cycles": 2})
    # YAML takes this word for a truth value, and an empty one for nothing.
    assert (args.save_strategy, args.logging_strategy, args.metric_for_best_model) == ("no", "no", None)
    flags = "--teacher_name_or_path org/model --learning_rate 5e-5 --sparsity 0.5 --do_train --transfer 0.3 "
    flags += "--transfer_kinds splice drop --save_strategy no --logging_strategy no --dataloader_drop_last False"
    scheduler = ("--lr_scheduler_kwargs", '{"num_cycles": 2}')
    assert alike(parsed("--output_dir", tmp_path, *flags.split(), *scheduler), (models, alignment, compression, args))


@pytest.mark.parametrize("flag", [["--recipe", "{}"], ["--recipe={}"]])
def test_the_command_line_takes_the_place_of_the_file(recipe, tmp_path, flag):
    given = ["--sparsity", "0.25", *(word.format(recipe) for word in flag), "--transfer_kinds", "mask", "--seed=7"]
    _, alignment, compression, args = parsed(*given, "--output_dir", tmp_path)
    assert (compression.sparsity, alignment.transfer_kinds, args.seed) == (0.25, ["mask"], 7)
    assert args.learning_rate == 5e-5


def test_what_is_saved_makes_the_same_run_again(recipe, tmp_path):
    given = ["--output_dir", str(tmp_path), "--seed=3", "--no_skip_memory_metrics", "--save_strategy", "no"]
    for first in (given, ["--recipe", str(recipe), "--sparsity", "0.25", *given]):
        parser = RecipeParser(TYPES)
        found = parser.parse([*first, "--teacher_name_or_path", "no"])
        parser.save(found[3])
        assert alike(parsed("--recipe", tmp_path / "recipe.yaml"), found)
    keys = yaml.safe_load((tmp_path / "recipe.yaml").read_text())
    assert list(keys)[:3] == ["teacher_name_or_path", "learning_rate", "sparsity"]
    assert (keys["sparsity"], keys["seed"], keys["skip_memory_metrics"]) == (0.25, 3, False)
    assert "recipe" not in keys


def test_only_the_process_that_saves_writes(recipe, tmp_path):
    parser = RecipeParser(TYPES)
    *_, args = parser.parse(["--recipe", str(recipe), "--output_dir", str(tmp_path / "out")])
    args = type("Second", (), {"should_save": False, "output_dir": args.output_dir})()
    parser.save(args)
    assert not (tmp_path / "out").exists()


HARD = [
    ["--pruning_include", "*attention*", "*ffn*", "--sparsity", "0.5"],
    ["--run_name", "*best"],
    ["--run_name", "007"],
    ["--run_name", "1.10"],
    ["--run_name", "12:30"],
    ["--run_name", "{x}"],
    ["--run_name=--foo"],
    ["--run_name", "nan"],
    ["--weight_decay=-1e-5"],
    ["--lr_scheduler_kwargs", '{"min_lr": 1e-6, "on": true}'],
    ["--learning-rate", "1e-4", "--do-train", "--no-skip-memory-metrics"],
]


@pytest.mark.parametrize("flags", HARD, ids=lambda flags: flags[-1])
def test_values_that_are_easily_mistaken_come_back_as_they_were(tmp_path, flags):
    parser = RecipeParser(TYPES)
    found = parser.parse([*flags, "--output_dir", str(tmp_path), "--teacher_name_or_path", "x"])
    parser.save(found[3])
    assert alike(parsed("--recipe", tmp_path / "recipe.yaml"), found)


def test_numbers_in_a_dict_are_numbers(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("lr_scheduler_kwargs: {min_lr: 1e-6}")
    *_, args = parsed("--recipe", path, "--output_dir", tmp_path, "--teacher_name_or_path", "x")
    assert args.lr_scheduler_kwargs == {"min_lr": 1e-6}


def test_a_token_is_not_written(tmp_path):
    parser = RecipeParser(TYPES)
    given = ["--hub_token", "hf_secret", "--output_dir", str(tmp_path / "new"), "--teacher_name_or_path", "x"]
    *_, args = parser.parse(given)
    parser.save(args)
    assert "secret" not in (tmp_path / "new/recipe.yaml").read_text()


def test_one_recipe_is_taken(recipe):
    with pytest.raises(ValueError, match="Give one recipe. Got .*run.yaml, .*run.yaml"):
        parsed("--recipe", recipe, "--recipe", recipe)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sparsty: 0.5", "unknown key 'sparsty'. Did you mean sparsity"),
        ("- sparsity", "must hold keys and values"),
        ("sparsity: [", "is not a YAML file"),
        ("sparsity: 2", "sparsity must be"),
        ("recipe: other.yaml", "unknown key 'recipe'"),
        ("seed: 1\nseed: 2", "has the key 'seed' twice"),
        ("<<: {seed: 1}", "unknown key '<<'"),
        ("transfer_kinds: []", "nothing for transfer_kinds: an empty list"),
        ("sparsity: [0.5, 0.6]", r"has a list for sparsity, which takes one value. Got \[0.5, 0.6\]"),
    ],
)
def test_a_recipe_that_says_nothing_sensible_is_refused(tmp_path, text, message):
    path = tmp_path / "run.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        parsed("--recipe", path, "--output_dir", tmp_path, "--teacher_name_or_path", "org/model")


def test_a_recipe_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no recipe .*none.yaml. Give a YAML file"):
        parsed("--recipe", tmp_path / "none.yaml")


def test_a_list_of_one_stays_a_list(tmp_path):
    @dataclass
    class Listed:
        names: list[str] = field(default_factory=list)

    parser = RecipeParser((Listed, TrainingArguments))
    listed, args = parser.parse(["--names", "1e5", "--output_dir", str(tmp_path)])
    parser.save(args)
    again, _ = RecipeParser((Listed, TrainingArguments)).parse(["--recipe", str(tmp_path / "recipe.yaml")])
    assert again == listed == Listed(["1e5"])


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_recipes_of_the_examples_are_read(path, tmp_path):
    _, _, compression, args = parsed("--recipe", path, "--teacher_name_or_path", "x", "--output_dir", tmp_path)
    assert compression.callbacks()
    assert (args.do_train, args.do_eval) == (True, True)
    assert path.read_text().startswith("# ")
