"""The study: its grid, a run of it on tiny sizes, what is skipped and what is made again, and its errors."""

import json
import re
import sys
from contextlib import ExitStack
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

import study  # noqa: E402
import study_counts  # noqa: E402
import study_grid  # noqa: E402
import study_records  # noqa: E402
from study_grid import ARMS, COMPRESSIONS, PRESETS, Cell, Plan, Training, cells  # noqa: E402

TINY = Plan(
    Training(3, 1e-3, 16),
    ("magnitude-50",),
    ("none", "ce", "logits"),
    steps=2,
    rates=(3e-2, 1e-1),  # so high that answers change in two steps
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


@pytest.fixture
def page(tmp_path):
    path = tmp_path / "results.md"
    path.write_text("before\n\n<!-- study -->\nold\n<!-- /study -->\n\nafter\n")
    return path


def test_the_study_makes_every_run_of_the_grid_and_those_of_the_choices(studied):
    runs = [(run.recipe["arm"], run.recipe["learning_rate"]) for run in study_records.read_all(studied)]
    wanted = [("none", None), *product(("ce", "logits"), TINY.rates)]
    assert sorted(runs, key=str) == sorted(wanted, key=str)


def test_what_is_done_is_skipped_and_what_is_missing_is_made(studied, monkeypatch):
    paths = sorted((studied / "runs").rglob("*.json"))
    before = {path: path.stat().st_mtime_ns for path in paths}
    killed, busy = paths[:2]
    killed.unlink()
    leftover = killed.with_name(f".{killed.name}.1.tmp")
    leftover.touch()
    busy.unlink()
    other = ExitStack()
    other.enter_context(study_records.claimed(busy))  # by another process, which dies without a result
    monkeypatch.setattr(study.time, "sleep", lambda seconds: other.close())
    command("run", "--preset", "smoke", "--output", studied)
    after = {path: path.stat().st_mtime_ns for path in paths}
    assert {path for path in paths if before[path] != after[path]} == {killed, busy}
    assert len([*study_records.read_all(studied)]) == len(paths)


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


# ---- the report ----


def test_the_ratio_counts_every_item_with_all_its_seeds():
    # Two seeds ask three items each: CE changes items 0, 1 and 1, 2, the arm item 1 twice.
    ce = study_counts.Changes.summed(
        [(np.arange(3), np.array([1, 1, 0]), np.array([1, 0, 0])), (np.arange(3), np.array([0, 1, 1]), np.zeros(3))]
    )
    arm = study_counts.Changes.summed([(np.arange(3), np.array([0, 1, 0]), np.zeros(3))] * 2)
    assert ce.mismatches.tolist() == [1, 2, 1]
    assert ce.lost.tolist() == [1, 0, 0]
    assert ce.asked.tolist() == [2, 2, 2]
    found = study_counts.ratio(ce.mismatches, arm.mismatches)
    assert found.value == 4 / 2
    # Item 1 alone gives 1, in one of 27 draws; without it the arm has no mismatch, in eight of them.
    assert (found.low, found.high) == (1.0, np.inf)
    gap = study_counts.difference(arm.mismatches, ce.mismatches)
    assert (gap.value, gap.low, gap.high) == (-2, -3, 0)


def test_a_ratio_to_no_mismatches_has_an_interval():
    found = study_counts.ratio(np.array([1] * 20 + [0] * 80), np.zeros(100, dtype=int))
    assert found.value == found.high == np.inf
    assert found.low == pytest.approx(4.94, abs=0.01)


def test_the_best_cell_is_the_one_that_is_sure_to_be_good(studied, monkeypatch):
    few, many = study_counts.Estimate(np.inf, 1.5, np.inf), study_counts.Estimate(4.0, 3.0, 5.0)
    found = study.study_report.Report(study_counts.Study(studied))
    places = [study_counts.Place("digits", "test", name) for name in ("magnitude-50", "magnitude-60", "obs-50")]
    monkeypatch.setattr(found, "cells", lambda: zip(places, (few, many, few), strict=True))
    best, median, *_ = found.sentences()
    assert "is magnitude 60 % on digits (test)" in best
    assert "4.00 times (3.00 to 5.00) fewer" in best
    assert "the median of 3 cells is ∞" in median


def test_what_an_arm_keeps_of_ces_mismatches_is_a_mean_over_cells(studied, monkeypatch):
    found = study_counts.Study(studied)
    assert found.kept("ce", [("digits", "magnitude-50")]) == 1
    m = {("magnitude-50", "ce"): 7, ("magnitude-50", "hidden"): 1, ("obs-50", "ce"): 1, ("obs-50", "hidden"): 0}
    monkeypatch.setattr(found, "seeds", lambda place: [0, 1])
    monkeypatch.setattr(found, "mean", lambda place, arm, metric: m[place.compression, arm] / 2)
    cells = [("digits", "magnitude-50"), ("digits", "obs-50")]
    assert found.kept("hidden", cells) == pytest.approx(((2 / 8) * (1 / 2)) ** 0.5)


def test_the_whole_recipe_is_compared_with_what_people_do(studied, monkeypatch):
    found = study_counts.Study(studied)
    mismatches = {("magnitude-50", "ce"): np.array([1, 1, 1, 0]), ("obs-50", "hidden"): np.array([0, 1, 0, 0])}
    seeds = {"magnitude-50": [0, 1], "obs-50": [0, 1]}
    monkeypatch.setattr(found, "seeds", lambda place: seeds.get(place.compression, []))

    def changes(place, arm):
        counts = mismatches.get((place.compression, arm))
        return None if counts is None else study_counts.Changes(counts, counts, counts)

    monkeypatch.setattr(found, "changes", changes)
    assert found.recipe("digits", "test", "50", "hidden").value == 3
    assert found.recipe("digits", "test", "60", "hidden") is None
    seeds["obs-50"] = [0]
    assert found.recipe("digits", "test", "50", "hidden") is None


def test_the_page_says_what_the_records_say(studied, page, monkeypatch):
    command("report", "--output", studied, "--page", page)
    text = page.read_text()
    assert text.startswith("before\n\n<!-- study -->")
    assert text.endswith("<!-- /study -->\n\nafter\n")
    assert "old" not in text
    reference = json.loads((studied / "models/digits/seed0/reference/reference.json").read_text())
    original = np.array(reference["parts"]["test"]["predicted"])
    found = study_counts.Study(studied)
    (place,) = found.places("digits", "test")
    changed = {arm: found.of(place, arm)[0].parts["test"].predicted != original for arm in TINY.arms}
    floor = json.loads((studied / "models/digits/seed0/reference/floor.json").read_text())
    again = np.array(floor["parts"]["test"]["predicted"]) != original
    cells = [1, again.sum(), *(found.sum() for found in changed.values())]  # one seed, the floor and the arms
    counted, ratios, *_ = [line.split(" | ") for line in text.splitlines() if line.startswith("| magnitude 50 % |")]
    assert [int(cell.split(" (")[0]) for cell in counted[1:]] == cells
    ce, ours = changed["ce"].sum(), changed["logits"].sum()
    assert ratios[2].startswith(f"{ce / ours:.2f} (" if ours else "∞ (" if ce else "0 / 0")
    assert "Against no training" not in text  # the default was not run
    monkeypatch.setattr(study.study_report, "OURS", "ce")
    fewer, more = ((np.sign(changed["ce"].sum() - changed["none"].sum()) == sign) for sign in (-1, 1))
    command("report", "--output", studied, "--page", page)
    told = re.search(r"Against no training, `ce` has fewer .* in (\d) of 1 cells, and more in (\d)", page.read_text())
    assert int(told[1]) <= fewer
    assert int(told[2]) <= more


def test_the_picture_is_the_same_every_time(studied, page):
    pictures = []
    for _ in range(2):
        command("report", "--output", studied, "--page", page)
        pictures.append((page.parent / "assets/study-digits.svg").read_bytes())
    assert pictures[0] == pictures[1]
    assert b"seed floor" in pictures[0]


def test_a_report_needs_runs_and_marks(studied, page, tmp_path):
    with pytest.raises(ValueError, match="There are no runs in .*Make some with"):
        command("report", "--output", tmp_path, "--page", page)
    page.write_text("<!-- /study --> <!-- study -->")
    with pytest.raises(ValueError, match="has no lines <!-- study --> and <!-- /study -->.*Add them"):
        command("report", "--output", studied, "--page", page)
