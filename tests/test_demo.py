"""The demo with a tiny model and few steps: what it writes is complete, right, repeatable and harms no other file."""

import io
import json
import math
import platform
import re
import sys

import numpy as np
import pytest
import tiny
from datasets import load_dataset
from rich.console import Console
from sklearn.datasets import load_digits as sklearn_digits
from typer.main import get_command
from typer.testing import CliRunner

from hf_compalign._tables import Table, as_text
from hf_compalign.cli import app
from hf_compalign.cli.screen import progress_bars
from hf_compalign.demo import Settings, conclusion, load_digits, prepared, run_demo
from hf_compalign.measure.audit import Audit, audit
from hf_compalign.measure.predictions import Predictions, predict
from hf_compalign.measure.statistics import Estimate
from hf_compalign.opening import load_model

TINY = Settings(
    sparsity=0.8,
    reference_steps=30,
    compression_steps=6,
    batch_size=16,
    n_items=180,
    hidden_size=16,
    layers=1,
    timed_images=4,
    timed_passes=2,
)
MODELS = ("reference", "ce", "aligned")
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
    return folder, run_demo(folder, seeds=2, settings=TINY)


def test_the_folder_is_complete(made):
    folder, results, _ = made
    entries = {"README.md", "aligned", "audits", "ce", "predictions", "reference", "results.json", "test.parquet"}
    assert {entry.name for entry in folder.iterdir()} == entries == set(results["files"])
    assert json.loads((folder / "results.json").read_text()) == results
    assert f"hf-compalign demo --output {folder} --seeds 1 --sparsity 0.8" in (folder / "README.md").read_text()


def test_screen_readme_and_json_tell_the_same(two_seeds, monkeypatch):
    folder, results = two_seeds
    monkeypatch.setattr("hf_compalign.demo.run_demo", lambda *_, **__: results)
    readme = (folder / "README.md").read_text()
    screen = CliRunner().invoke(app, ["demo", "--output", str(folder)]).stdout
    assert [len(rows) for rows in results["tables"]] == [1 + len(MODELS), 1 + len(MODELS), 1 + 2]
    for header, *rows in results["tables"]:
        assert max(map(len, as_text(Table("", header, rows)).splitlines())) < 80
    for row in (row for rows in results["tables"] for row in rows):
        assert f"| {' | '.join(row)} |" in readme
        assert re.search(r"\s+".join(map(re.escape, row)), screen)
    for text in (results["conclusion"], *results["notes"]):
        assert text in readme
        assert text in screen
    assert json.loads(CliRunner().invoke(app, ["demo", "--json"]).stdout) == results


def test_the_numbers_are_those_of_the_audits(made):
    folder, results, _ = made
    answers = {name: Predictions.load(folder / "predictions" / f"{name}.npz") for name in MODELS}
    assert results["n"] == len(answers["reference"]) == N_TEST
    for name in ("ce", "aligned"):
        again = audit(answers["reference"], answers[name])
        assert str(Audit.load(folder / "audits" / f"{name}.json").to_dict()) == str(again.to_dict())
        wanted = again.metrics
        for key in ("cie", "cie_u", "mismatch_rate", "mismatch_rate_interval", "kl"):
            assert results[name][key] == pytest.approx(wanted[key])
        assert results[name]["accuracy"] == pytest.approx(wanted["accuracy_candidate"])
        differs = answers[name].logits.argmax(-1) != answers["reference"].logits.argmax(-1)
        assert results[name]["cie"] == differs.sum()
    right = answers["reference"].logits.argmax(-1) == answers["reference"].labels
    assert results["accuracy_reference"] == pytest.approx(right.mean())
    assert results["aligned"]["cie"] > 0, "too tiny a demo to test the ratio"
    assert results["cie_ratio"] == pytest.approx(results["ce"]["cie"] / results["aligned"]["cie"])
    only = results["runs"][0]
    assert all(results[key] == value for key, value in only.items() if key != "seed")


def test_the_saved_models_give_the_saved_answers_on_the_saved_images(made):
    folder, _, _ = made
    rows = load_dataset("parquet", data_files=str(folder / "test.parquet"), split="train")
    saved = Predictions.load(folder / "predictions" / "aligned.npz")
    again = predict(folder / "aligned", rows)
    assert again.label_names == saved.label_names == tuple("0123456789")
    assert again.data_fingerprint == saved.data_fingerprint
    assert again.model_fingerprint == saved.model_fingerprint
    assert again.ids.tolist() == saved.ids.tolist()
    assert tiny.distance(again.logits, saved.logits) < tiny.ROUNDING


def test_both_students_are_pruned_alike_and_only_they_are(made):
    folder, results, _ = made
    for name, share in (("reference", 0.0), ("ce", 0.8), ("aligned", 0.8)):
        model = load_model(folder / name)
        linear = [weight for key, weight in model.named_parameters() if "layers" in key and weight.ndim == 2]
        total = sum(weight.numel() for weight in linear)
        zeros = sum(int((weight == 0).sum()) for weight in linear)
        assert zeros / total == pytest.approx(share, abs=0.05), name
        nonzero = sum(int(weight.count_nonzero()) for weight in model.parameters())
        assert results[name]["nonzero_parameters"] == nonzero
        assert results[name]["size_bytes"] == (folder / name / "model.safetensors").stat().st_size


def test_progress_reaches_the_end_of_every_stage(made):
    _, _, seen = made
    last = {stage: (done, total) for stage, done, total in seen}
    assert [total for _, total in last.values()] == [30, 6, 6, 3]
    assert all(done == total for done, total in last.values())


@pytest.mark.parametrize("prefix", ["", "Seed 10: "])
def test_bars_leave_the_last_column_of_the_screen_free(prefix):
    # A terminal that goes to the next line as soon as a line is full keeps a copy of every bar that fills it.
    console = Console(file=io.StringIO(), force_terminal=True, width=80)
    with progress_bars(console) as show:
        show(f"{prefix}Training the reference", 600, 600)
        show(f"{prefix}Pruning, aligned with the reference", 300, 300)
    written = re.sub(r"\x1b\[[^A-Za-z]*[A-Za-z]", "", console.file.getvalue())
    assert {len(line) for line in re.split("[\r\n]+", written) if "600/600" in line} == {79}


def test_several_seeds_are_pooled(two_seeds):
    folder, results = two_seeds
    assert results["seeds"] == [run["seed"] for run in results["runs"]] == [0, 1]
    assert results["n"] == 2 * N_TEST
    for name in ("ce", "aligned"):
        each = [run[name] for run in results["runs"]]
        assert results[name]["cie"] == sum(found["cie"] for found in each)
        assert results[name]["cie_u"] == sum(found["cie_u"] for found in each)
        for key in ("accuracy", "mismatch_rate", "kl", "latency_ms"):
            assert results[name][key] == pytest.approx(np.mean([found[key] for found in each]))
    assert results["cie_ratio"] == pytest.approx(results["ce"]["cie"] / results["aligned"]["cie"])
    assert "--dataset seed-0/test.parquet" in (folder / "README.md").read_text()


def test_the_same_seed_gives_the_same_results(made, two_seeds):
    timed = ("latency_ms", "latency_ms_low", "latency_ms_high")
    one, first_of_two = made[1]["runs"][0], two_seeds[1]["runs"][0]
    for name in MODELS:
        assert {k: v for k, v in one[name].items() if k not in timed} == {
            k: v for k, v in first_of_two[name].items() if k not in timed
        }
    assert one["cie_ratio_interval"] == first_of_two["cie_ratio_interval"]
    assert one["ce"] != two_seeds[1]["runs"][1]["ce"]


def test_a_former_demo_is_replaced_and_what_a_killed_one_left_is_cleared_away(two_seeds):
    folder, _ = two_seeds
    beyond_any_pid = 1 << 30
    (folder / f".out.{platform.node()}-{beyond_any_pid}.x.tmp" / "reference").mkdir(parents=True)
    (folder / "thesis.tex").write_text("precious")
    results = run_demo(folder, settings=TINY)
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
    run_demo(tmp_path, settings=TINY, overwrite=True)
    assert (tmp_path / "thesis.tex").read_text() == "precious"
    assert (tmp_path / "README.md").read_text().startswith("# A pruned model")


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
        ({"settings": Settings(sparsity=95)}, r"between 0 and 1. Got 95. Did you mean 0.95\?"),
        ({"settings": Settings(sparsity=0.0)}, "between 0 and 1. Got 0.0"),
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
    pixels = prepared(test.select([0]))[0]["pixel_values"].numpy()
    np.testing.assert_allclose(pixels, np.stack([known.images[index] / 8 - 1] * 3), atol=0.005)


def test_the_split_follows_the_seed():
    ids = [load_digits(seed, test_share=0.5, n_items=100)[1]["id"] for seed in (0, 0, 1)]
    assert ids[0] == ids[1] != ids[2]


def test_a_missing_scikit_learn_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(ImportError, match=re.escape("pip install 'hf-compalign[demo]'")):
        load_digits(0, test_share=0.5)


# ---- the words ----


@pytest.mark.parametrize(
    ("ce", "aligned", "ratio", "words"),
    [
        (30, 10, Estimate(3.0, 1.5, 6.0), "3.00 (95 % interval 1.50 to 6.00): here, alignment kept more"),
        (10, 30, Estimate(1 / 3, 0.2, 0.6), "0.33 (95 % interval 0.20 to 0.60): here, alignment kept fewer"),
        (12, 10, Estimate(1.2, 0.7, 2.0), "0.70 to 2.00), which includes 1: this does not show a difference"),
        (5, 0, Estimate(math.inf, math.inf, math.inf), "With a 0 among them, the ratio has no meaningful interval"),
        (0, 5, Estimate(0.0, 0.0, 0.0), "With a 0 among them, the ratio has no meaningful interval"),
        (2, 1, Estimate(2.0, 0.0, math.inf), "0.00 to no bound), which includes 1"),
        (0, 0, Estimate(math.nan, math.nan, math.nan), "There is nothing to compare: prune more"),
    ],
)
def test_the_conclusion_is_what_the_interval_allows(ce, aligned, ratio, words):
    text = conclusion(100, ce, aligned, ratio)
    assert words in text
    assert f"answers {ce} of 100 images differently, the aligned one {aligned}." in text


def test_the_command_line_has_the_same_default_sparsity():
    options = {option.name: option for option in get_command(app).commands["demo"].params}
    assert options["sparsity"].default == Settings().sparsity
