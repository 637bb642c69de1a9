"""The demo with a tiny model and few steps: what it writes is complete, right, repeatable and harms no other file."""

import io
import json
import math
import pickle
import platform
import re
import sys
from dataclasses import replace

import numpy as np
import pytest
import tiny
from datasets import load_dataset
from rich.console import Console
from sklearn.datasets import load_digits as sklearn_digits
from typer.main import get_command
from typer.testing import CliRunner

from hf_compalign._tables import as_markdown, as_text
from hf_compalign.cli import app
from hf_compalign.cli.screen import progress_bars
from hf_compalign.demo import (
    Answers,
    Settings,
    bars,
    conclusion,
    load_digits,
    main_table,
    notes,
    ratios,
    run_demo,
    training_rows,
)
from hf_compalign.measure.audit import Audit, audit
from hf_compalign.measure.predictions import Predictions, predict
from hf_compalign.opening import load_model

TINY = Settings(
    sparsities=(0.5, 0.8), reference_steps=30, recovery_steps=6, batch_size=16, n_items=180, hidden_size=16, layers=1
)
TINIEST = replace(TINY, sparsities=(0.8,), reference_steps=2, recovery_steps=1)
STUDENTS = ("ce", "aligned", "obs_ce", "obs_aligned")
STARTS = ("start", "obs_start")
LEVELS = ("0.5", "0.8")
N_TEST = 60


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The folder of one run, its results, and what was reported on the way."""
    folder = tmp_path_factory.mktemp("demo") / "out"
    seen = []
    results = run_demo(folder, settings=TINY, progress=lambda *report: seen.append(report))
    return folder, results, seen


@pytest.fixture(scope="module")
def two_seeds(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two_seeds") / "out"
    return folder, run_demo(folder, seeds=2, settings=replace(TINY, sparsities=(0.8,)))


def answers(folder, name):
    return Predictions.load(folder / "predictions" / f"{name}.npz")


def test_the_folder_is_complete(made):
    folder, results, _ = made
    entries = {"README.md", "audits", "curve.png", "predictions", "reference", "results.json", "test.parquet", *LEVELS}
    assert {entry.name for entry in folder.iterdir()} == entries == set(results["files"])
    for level in LEVELS:
        assert {entry.name for entry in (folder / level).iterdir()} == {*STUDENTS}
    assert json.loads((folder / "results.json").read_text()) == results
    assert (folder / "curve.png").read_bytes().startswith(b"\x89PNG")
    readme = (folder / "README.md").read_text()
    assert f"hf-compalign demo --output {folder} --seeds 1 --sparsities 0.5,0.8" in readme
    assert "(curve.png)" in readme


def test_screen_readme_and_json_tell_the_same(two_seeds, monkeypatch):
    folder, results = two_seeds
    given = {}
    monkeypatch.setattr("hf_compalign.demo.run_demo", lambda *_, **options: given.update(options) or results)
    readme = (folder / "README.md").read_text()
    screen = CliRunner().invoke(app, ["demo", "--output", str(folder), "--sparsities", "0.5, 0.8"]).stdout
    assert given["settings"].sparsities == (0.5, 0.8)
    table = main_table(results)
    assert as_markdown(table) in readme
    for text in (as_text(table), bars(results), *notes(results), conclusion(results)):
        assert text in screen
    for text in (*notes(results), conclusion(results)):
        assert text in readme
    for run in results["runs"]:
        counts = [f"{run['by_sparsity']['0.8'][name]['cie']} of {N_TEST}" for name in STUDENTS]
        assert f"| {run['seed']} | 80 % | {' | '.join(counts)} |" in readme
    start = results["by_sparsity"]["0.8"]["obs_start"]
    assert f"| 80 % | obs, no training | {100 * start['accuracy']:.1f} % | {start['cie']} |" in readme
    assert json.loads(CliRunner().invoke(app, ["demo", "--json"]).stdout) == results


def test_the_screen_has_80_columns(two_seeds):
    _, results = two_seeds
    crowded = json.loads(json.dumps(results))
    crowded["n"] = 17_970
    for models in crowded["by_sparsity"].values():
        for name in STUDENTS:
            models[name] |= {"cie": 12_345, "cie_u": 1_345}
        models |= {"start_ratio_interval": [10.01, 99.92], "recipe_ratio_interval": [10.01, None]}
    for found in (results, crowded):
        lines = [*as_text(main_table(found)).splitlines(), *bars(found).splitlines()]
        assert max(map(len, lines)) < 80


def test_the_numbers_are_those_of_the_audits(made):
    folder, results, _ = made
    reference = answers(folder, "reference")
    assert results["n"] == len(reference) == N_TEST
    assert [*results["by_sparsity"]] == [*LEVELS]
    right = reference.logits.argmax(-1) == reference.labels
    assert results["reference"]["accuracy"] == pytest.approx(right.mean())
    for level, models in results["by_sparsity"].items():
        for name in (*STUDENTS, *STARTS):
            found = answers(folder, f"{level}/{name}")
            wanted = audit(reference, found)
            if name in STUDENTS:
                kept = Audit.load(folder / "audits" / level / f"{name}.json")
                assert str(kept.to_dict()) == str(wanted.to_dict())
            for key in ("cie", "cie_u", "mismatch_rate", "mismatch_rate_interval", "kl"):
                assert models[name][key] == pytest.approx(wanted.metrics[key])
            assert models[name]["accuracy"] == pytest.approx(wanted.metrics["accuracy_candidate"])
            differs = found.logits.argmax(-1) != reference.logits.argmax(-1)
            assert (models[name]["cie"], models[name]["cie_u"]) == (differs.sum(), (differs & right).sum())
    assert {key: results[key] for key in ("n", "reference", "by_sparsity")}.items() <= results["runs"][0].items()


def test_each_ratio_is_that_of_its_two_models(two_seeds):
    _, results = two_seeds
    for models in results["by_sparsity"].values():
        for stem, first, second in (
            ("cie", "ce", "aligned"),
            ("obs", "obs_ce", "obs_aligned"),
            ("start", "ce", "obs_ce"),
            ("recipe", "ce", "obs_aligned"),
        ):
            for key, counted in ((f"{stem}_ratio", "cie"), (f"{stem}_u_ratio", "cie_u")):
                low, high = models[f"{key}_interval"]
                assert models[second][counted] > 0, "too tiny a demo to test the ratio"
                assert models[key] == pytest.approx(models[first][counted] / models[second][counted])
                assert low <= models[key] <= (math.inf if high is None else high)


def test_a_ratio_to_nothing_has_no_value_but_a_lower_end():
    perfect = Predictions([[1.0, 0.0]] * 40, [0] * 40, [*map(str, range(40))], ["a", "b"])
    pruned = replace(perfect, logits=[[0.0, 1.0]] * 20 + [[1.0, 0.0]] * 20)
    answers = Answers.of([{"reference": perfect, "0.5/ce": pruned, "0.5/aligned": perfect}])
    found = ratios(answers, "0.5", {"cie": ("ce", "aligned")})
    assert found == {
        "cie_ratio": None,
        "cie_ratio_interval": [pytest.approx(4.94, abs=0.01), None],
        "cie_u_ratio": None,
        "cie_u_ratio_interval": [pytest.approx(4.94, abs=0.01), None],
    }
    back = ratios(answers, "0.5", {"cie": ("aligned", "ce")})
    assert (back["cie_ratio"], back["cie_ratio_interval"]) == (0.0, [0.0, pytest.approx(1 / 4.94, abs=0.01)])


def test_the_saved_models_give_the_saved_answers_on_the_saved_images(made):
    folder, _, _ = made
    rows = load_dataset("parquet", data_files=str(folder / "test.parquet"), split="train")
    saved = answers(folder, "0.8/obs_aligned")
    again = predict(folder / "0.8" / "obs_aligned", rows)
    assert again.label_names == saved.label_names == tuple("0123456789")
    assert again.data_fingerprint == saved.data_fingerprint
    assert again.model_fingerprint == saved.model_fingerprint
    assert again.ids.tolist() == saved.ids.tolist()
    assert tiny.distance(again.logits, saved.logits) < tiny.ROUNDING


def linear_weights(folder):
    return {
        key: weight for key, weight in load_model(folder).named_parameters() if "layers" in key and weight.ndim == 2
    }


def test_students_of_one_pruning_have_the_same_zeros(made):
    folder, _, _ = made
    assert all((weight != 0).all() for weight in linear_weights(folder / "reference").values())
    zeros = {}
    for level in LEVELS:
        for name in STUDENTS:
            weights = linear_weights(folder / level / name)
            zeros[level, name] = {key: weight == 0 for key, weight in weights.items()}
            share = sum(int(zero.sum()) for zero in zeros[level, name].values()) / sum(
                weight.numel() for weight in weights.values()
            )
            assert share == pytest.approx(float(level), abs=0.01)
        for one, other in (("ce", "aligned"), ("obs_ce", "obs_aligned")):
            assert all((zeros[level, one][key] == zero).all() for key, zero in zeros[level, other].items())
        assert any((zeros[level, "ce"][key] != zero).any() for key, zero in zeros[level, "obs_ce"].items())


def test_progress_reaches_the_end_of_every_stage(made):
    _, _, seen = made
    last = {stage: (done, total) for stage, done, total in seen}
    assert [total for _, total in last.values()] == [30, 24, 24]
    assert all(done == total for done, total in last.values())


@pytest.mark.parametrize("of", ["", "12.5 % "])
def test_bars_leave_the_last_column_of_the_screen_free(of):
    # A terminal that goes to the next line as soon as a line is full keeps a copy of every bar that fills it.
    console = Console(file=io.StringIO(), force_terminal=True, width=80)
    with progress_bars(console) as show:
        show("Training the reference", 600, 600)
        show(f"{of}pruned, 4 trainings", 3600, 3600)
    written = re.sub(r"\x1b\[[^A-Za-z]*[A-Za-z]", "", console.file.getvalue())
    assert {len(line) for line in re.split("[\r\n]+", written) if "600/600" in line} == {79}


def test_several_seeds_are_pooled(two_seeds):
    folder, results = two_seeds
    assert results["seeds"] == [run["seed"] for run in results["runs"]] == [0, 1]
    assert results["n"] == 2 * N_TEST
    for level, models in results["by_sparsity"].items():
        for name in (*STUDENTS, *STARTS):
            each = [run["by_sparsity"][level][name] for run in results["runs"]]
            for key in ("cie", "cie_u"):
                assert models[name][key] == sum(found[key] for found in each)
            for key in ("accuracy", "mismatch_rate", "kl"):
                assert models[name][key] == pytest.approx(np.mean([found[key] for found in each]))
    assert "--dataset seed-0/test.parquet" in (folder / "README.md").read_text()


def test_the_same_seed_gives_the_same_results(made, two_seeds):
    one, (first_of_two, second) = made[1]["runs"][0], two_seeds[1]["runs"]
    assert one["reference"] == first_of_two["reference"]
    assert one["by_sparsity"]["0.8"] == first_of_two["by_sparsity"]["0.8"] != second["by_sparsity"]["0.8"]


def test_the_jobs_can_go_to_other_processes(tmp_path, monkeypatch):
    given = {}

    def record(jobs, tick, **options):
        given.update(jobs=[*jobs], **options)
        raise KeyboardInterrupt

    monkeypatch.setattr("hf_compalign.demo.folder.do_all", record)
    with pytest.raises(KeyboardInterrupt):
        run_demo(tmp_path, seeds=2, settings=TINY, processes=3, prepare=print)
    assert pickle.loads(pickle.dumps(given["jobs"])) == given["jobs"]
    assert [job.run.seed for job in given["jobs"]] == [0, 1]
    assert (given["processes"], given["prepare"]) == (3, print)


def test_a_former_demo_is_replaced_and_what_a_killed_one_left_is_cleared_away(two_seeds):
    folder, _ = two_seeds
    beyond_any_pid = 1 << 30
    (folder / f".out.{platform.node()}-{beyond_any_pid}.x.tmp" / "reference").mkdir(parents=True)
    (folder / "thesis.tex").write_text("precious")
    results = run_demo(folder, settings=TINIEST)
    assert {entry.name for entry in folder.iterdir()} == {*results["files"], "thesis.tex"}


def test_a_folder_with_other_files_is_refused_and_left_alone(tmp_path):
    (tmp_path / "reference").mkdir()
    (tmp_path / "reference" / "thesis.tex").write_text("precious")
    with pytest.raises(ValueError, match="not empty: it holds reference.*--overwrite"):
        run_demo(tmp_path, settings=TINY)
    (tmp_path / "results.json").write_text('{"kind": "another", "files": ["reference"]}')
    with pytest.raises(ValueError, match="not empty: it holds"):
        run_demo(tmp_path, settings=TINY)
    assert (tmp_path / "reference" / "thesis.tex").read_text() == "precious"


def test_overwrite_replaces_only_its_own_names(tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    (tmp_path / "README.md").write_text("old")
    run_demo(tmp_path, settings=TINIEST, overwrite=True)
    assert (tmp_path / "thesis.tex").read_text() == "precious"
    assert (tmp_path / "README.md").read_text().startswith("# Pruned models")


def test_an_interrupted_demo_leaves_nothing_behind(tmp_path):
    def interrupt(stage, done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_demo(tmp_path, settings=TINY, progress=interrupt)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seeds": 0}, "seeds must be 1 or more. Got 0"),
        ({"settings": Settings(sparsities=(0.5, 95))}, r"between 0 and 1. Got 95. Did you mean 0.95\?"),
        ({"settings": Settings(sparsities=(0.0,))}, "between 0 and 1. Got 0.0"),
        ({"settings": Settings(sparsities=())}, "no sparsity. Give at least one, such as 0.5"),
        ({"settings": Settings(sparsities=(0.5, 0.50))}, "must differ. Got 0.5, 0.5"),
    ],
)
def test_options_out_of_range_are_refused(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        run_demo(tmp_path, **options)


def test_an_output_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(ValueError, match="out is a file. Give a folder"):
        run_demo(tmp_path / "out", settings=TINY)


# ---- the data ----


def test_the_images_are_scikit_learns_digits():
    train, test = load_digits(0, test_share=1 / 3)
    assert (len(train), len(test)) == (1198, 599)
    assert not set(train["id"]) & set(test["id"])
    counts = np.bincount(test["label"])
    assert counts.max() - counts.min() <= 3  # of 174 to 183 of each digit
    known = sklearn_digits()
    row = test[0]
    index = int(re.fullmatch(r"digit-(\d{4})", row["id"])[1])
    assert known.target[index] == row["label"]
    np.testing.assert_array_equal(np.round(np.asarray(row["image"], dtype=float) * 16 / 255), known.images[index])
    pixels = training_rows(test.select([0]))[0]["pixel_values"].numpy()
    np.testing.assert_allclose(pixels, np.stack([known.images[index] / 8 - 1] * 3), atol=0.005)


def test_the_split_follows_the_seed():
    ids = [load_digits(seed, test_share=0.5, n_items=100)[1]["id"] for seed in (0, 0, 1)]
    assert ids[0] == ids[1] != ids[2]


@pytest.mark.parametrize("package", ["sklearn", "PIL", "matplotlib"])
def test_a_missing_package_says_how_to_install_it(monkeypatch, tmp_path, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=re.escape("pip install 'hf-compalign[demo]'")):
        run_demo(tmp_path / "new")
    assert not (tmp_path / "new").exists()
    if package == "sklearn":
        with pytest.raises(ImportError, match=re.escape("pip install 'hf-compalign[demo]'")):
            load_digits(0, test_share=0.5)


# ---- the words ----


def level(first, second, value, interval):
    """The results at one sparsity, as far as the words read them."""
    counts = {"ce": first, "aligned": second, "obs_ce": second, "obs_aligned": second}
    found = {name: {"cie": cie, "cie_u": 0, "accuracy": 0.9} for name, cie in counts.items()}
    for ratio in ("cie", "start", "recipe"):
        found |= {f"{ratio}_ratio": value, f"{ratio}_ratio_interval": interval}
    return found


MORE, FEWER, UNCLEAR = level(30, 10, 3.0, [1.5, 6.0]), level(10, 30, 1 / 3, [0.2, 0.6]), level(12, 10, 1.2, [0.7, 2.0])
NONE_LEFT, NEVER, FEW = level(20, 0, None, [4.94, None]), level(0, 0, None, [0.0, None]), level(2, 1, 2.0, [0.0, None])


@pytest.mark.parametrize(
    ("models", "words"),
    [
        (
            MORE,
            "keeps more of the reference's answers at 50 % (10 against 30 mismatches, ratio 3.00, 95 % interval 1.50",
        ),
        (
            FEWER,
            "keeps fewer of the reference's answers at 50 % (30 against 10 mismatches, ratio 0.33, 95 % interval 0.20",
        ),
        (UNCLEAR, "shows no difference at 50 % (10 against 12 mismatches, ratio 1.20, 95 % interval 0.70 to 2.00)"),
        (NONE_LEFT, "keeps more of the reference's answers at 50 % (0 against 20 mismatches, ratio 4.94 or more)"),
        (NEVER, "leaves nothing to compare at 50 % (0 against 0 mismatches)"),
        (FEW, "shows no difference at 50 % (1 against 2 mismatches, ratio 2.00, 95 % interval 0.00 or more)"),
    ],
)
def test_the_conclusion_is_what_the_interval_allows(models, words):
    text = conclusion({"n": 100, "by_sparsity": {"0.5": models}})
    assert f"On 100 test images, aligned training from the same pruned weights as CE {words}" in text
    assert f"obs + aligned instead of magnitude + CE, {words}" in text


def test_the_conclusion_says_at_which_sparsity():
    text = conclusion({"n": 100, "by_sparsity": {"0.5": MORE, "0.6": NONE_LEFT, "0.75": UNCLEAR, "0.9": MORE}})
    assert re.search(r"keeps more .* at 50 % \(.*\), 60 % \(.*\) and 90 % \(.*\); shows no difference at 75 % \(", text)


def test_bars_are_as_long_as_the_counts():
    found = {"n": 1797, "by_sparsity": {"0.5": MORE, "0.6": NONE_LEFT, "0.7": level(920, 1, 920.0, [100.0, None])}}
    lines = bars(found).splitlines()
    assert lines[0] == "Mismatches with the reference, of 1,797:"
    assert lines[1] == "50 %  magnitude + CE       # 30"
    assert lines[2] == "      magnitude + aligned  # 10"
    assert lines[6] == "      magnitude + aligned  0"
    assert lines[9] == f"70 %  magnitude + CE       {'#' * 44} 920"
    assert lines[10] == "      magnitude + aligned  # 1"
    assert "##### 5" in bars({"n": 60, "by_sparsity": {"0.5": level(5, 0, None, [1.0, None])}})


def test_the_table_shows_counts_where_there_is_no_ratio():
    found = {"reference": {"accuracy": 0.968}, "by_sparsity": {"0.5": NONE_LEFT}}
    rows = main_table(found).rows
    assert rows[0] == ["0 %", "the reference", "96.8 %", "-", "-", "-", "-"]
    assert rows[1] == ["50 %", "magnitude + CE", "90.0 %", "20", "0", "-", "-"]
    assert rows[2] == ["50 %", "magnitude + aligned", "90.0 %", "0", "0", "20/0", "4.94 or more"]


def test_the_command_line_has_the_same_default_sparsities():
    options = {option.name: option for option in get_command(app).commands["demo"].params}
    assert options["sparsities"].default == ",".join(map(str, Settings().sparsities))
