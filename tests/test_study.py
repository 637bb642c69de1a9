"""The study: its grid, a run of it on tiny sizes, what is skipped and what is made again, and its errors."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

import study  # noqa: E402
import study_grid  # noqa: E402
import study_records  # noqa: E402
from study_grid import ARMS, COMPRESSIONS, PRESETS, Cell, Plan, Training, cells  # noqa: E402

TINY = Plan(
    Training(3, 1e-3, 16),
    ("magnitude-50",),
    ("none", "ce", "ours"),
    steps=2,
    rates=(1e-4, 1e-3),
    int8_rates=(1e-4,),
    seeds=1,
    own_references=True,
    train_rows=64,
    test_rows=40,
    calibration_rows=32,
)


def command(*words):
    options = study.parser().parse_args([*map(str, words)])
    options.command(options)


@pytest.fixture(scope="module")
def studied(tmp_path_factory):
    """The output folder of a tiny study."""
    output = tmp_path_factory.mktemp("study")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PRESETS, "smoke", {"digits": TINY})
        command("run", "--preset", "smoke", "--output", output)
        yield output


def test_the_study_makes_every_run_of_the_grid_and_those_of_the_choices(studied):
    runs = [(run.recipe["arm"], run.recipe["learning_rate"]) for run in study_records.read_all(studied)]
    assert sorted(runs, key=str) == sorted(
        [("none", None), ("ce", 1e-4), ("ce", 1e-3), ("ours", 1e-4), ("ours", 1e-3)], key=str
    )


def test_what_is_done_is_skipped_and_what_is_missing_is_made(studied):
    paths = sorted((studied / "runs").rglob("*.json"))
    before = {path: path.stat().st_mtime_ns for path in paths}
    paths[0].unlink()
    paths[0].with_name(f".{paths[0].name}.0.tmp").touch()  # of a process that was killed
    command("run", "--preset", "smoke", "--output", studied)
    after = {
        path: path.stat().st_mtime_ns for path in sorted((studied / "runs").rglob("*.json")) if path.name[0] != "."
    }
    assert {path for path in paths if before[path] != after[path]} == {paths[0]}


def test_a_record_counts_the_mismatches_with_the_reference(studied):
    reference = json.loads((studied / "models/digits/seed0/reference/reference.json").read_text())
    labels = np.array(reference["about"]["labels"]["test"])
    original = np.array(reference["parts"]["test"]["predicted"])
    assert len(labels) == TINY.test_rows == len(reference["about"]["items"]["test"])
    for run in study_records.read_all(studied):
        found = run.parts["test"]
        assert found.metrics["cie"] == (found.predicted != original).sum()
        assert found.metrics["cie_u"] == ((found.predicted != labels) & (original == labels)).sum()
        assert found.metrics["accuracy"] == (found.predicted == labels).mean()


def test_a_pruned_start_stays_pruned(studied):
    for run in study_records.read_all(studied):
        assert run.about["achieved_sparsity"] == pytest.approx(0.5, abs=1e-3)


def test_the_learning_rate_is_that_with_the_fewest_mismatches_on_validation():
    def tried(rate, cie, kl):
        parts = {"validation": study_records.Answers(np.zeros(1), {"cie": cie, "kl": kl})}
        return study_records.Run({"learning_rate": rate}, {}, parts)

    runs = [tried(1e-4, 5, 0.1), tried(1e-3, 4, 0.3), tried(1e-2, 4, 0.2), tried(2e-2, 4, 0.2)]
    assert study_records.best(runs).recipe["learning_rate"] == 1e-2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--preset", "fast"], "--preset must be of smoke, cpu.*Got fast"),
        (["--settings", "mnist"], "--settings must be of digits, cifar10.*Got mnist"),
        (["--preset", "smoke", "--settings", "sst2"], "--settings must be of digits. Got sst2"),
        (["--compressions", "obs-55"], "--compressions must be of magnitude-30.*Got obs-55"),
        (["--arms", "ce", "mine"], "--arms must be of none, ce.*Got mine"),
        (["--settings", "sst2"], "The setting sst2 needs --checkpoint and --data"),
        (["--settings", "digits", "--worker", "2/2"], "--worker must be i/n with 0 <= i < n.*Got '2/2'"),
    ],
)
def test_unknown_names_are_refused(tmp_path, words, message):
    with pytest.raises(ValueError, match=message):
        command("run", "--output", tmp_path, *words)


def test_a_half_written_run_is_named_with_what_to_do(studied, tmp_path):
    path = next((studied / "runs").rglob("*.json"))
    whole = path.read_text()
    damaged = tmp_path / "half.json"
    damaged.write_text(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"half.json is not a JSON file.*Remove .*half.json"):
        study_records.read(damaged)
    record = json.loads(whole)
    del record["parts"]["test"]["metrics"]
    damaged.write_text(json.dumps(record))
    with pytest.raises(ValueError, match=r"half.json cannot be read. It is no whole run.*Remove"):
        study_records.read(damaged)


def test_a_run_of_another_recipe_is_not_taken_for_it(studied):
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PRESETS, "smoke", {"digits": replace(TINY, steps=3)})
        with pytest.raises(ValueError, match="of another recipe: steps is 2, here 3. Give another --output"):
            command("run", "--preset", "smoke", "--output", studied, "--arms", "ce")


def test_a_run_that_another_process_makes_is_left_to_it(tmp_path):
    path = tmp_path / "run.json"
    with study_records.claimed(path, wait=False) as first, study_records.claimed(path, wait=False) as second:
        assert (first, second) == (True, False)
    with study_records.claimed(path, wait=False) as again:
        assert again


def test_workers_share_the_cells():
    everything = [*cells(PRESETS["cpu"])]
    shares = [everything[study.worker_of(f"{index}/3")] for index in range(3)]
    assert sorted(map(len, shares))[0] >= len(everything) // 3
    assert {cell for share in shares for cell in share} == {*everything}


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_name_what_there_is(preset):
    for cell in cells(PRESETS[preset]):
        assert cell.setting in study.SETTINGS
        assert cell.compression in COMPRESSIONS
        assert cell.arm in ARMS


def test_the_smallest_learning_rates_are_tried_first_and_int8_has_no_weights_in_between():
    plan = replace(TINY, compressions=("obs-70", "int8"), arms=("ce", "interpolation"))
    found = [*cells({"digits": plan})]
    assert found[:2] == [Cell("digits", 0, "obs-50", "ce", rate) for rate in TINY.rates]
    assert not any(cell.compression == "int8" and study_grid.ARMS[cell.arm].halfway for cell in found)
