"""One number in, one folder out: what is tried, what is proved, what is written, and what a killed search leaves."""

import copy
import json
from dataclasses import replace

import numpy as np
import pytest
import shipping
import tiny
import torch

from hf_compalign import (
    Compression,
    DeferringModel,
    SearchOptions,
    audit,
    compress_model,
    load_chosen,
    predict,
    read_in_windows,
    shrink_,
)
from hf_compalign.measure.audit import ModelInfo, Verdict
from hf_compalign.measure.statistics import Estimate, upper_bound
from hf_compalign.models import FileModel, Runtime
from hf_compalign.opening import load_model
from hf_compalign.search import Plan, Search, Step, Tried, as_chosen, plan_of
from hf_compalign.search.climbing import joined, why_not
from hf_compalign.search.recovering import recover
from hf_compalign.search.setting import setting_of
from hf_compalign.search.working import work_folder
from hf_compalign.search.workshop import _slug
from hf_compalign.ship.deferral import Deferral
from hf_compalign.ship.deployments import Deployment, Deployments

pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.usefixtures("traced_once")
N, LIMIT = 250, {"mismatch_rate": 0.2}
QUICK = SearchOptions(formats=("onnx",), cuts=(0.5,), repair_measurements=0, n_runs=2, batch_size=4)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """The folder of a model of texts."""
    return shipping.saved(tmp_path_factory.mktemp("model"), shipping.model())


@pytest.fixture(scope="module")
def rows():
    return shipping.raw_texts(N)


@pytest.fixture(scope="module")
def done(model, rows, tmp_path_factory):
    """A search to its end: what came out, the lines that it said, and the folder."""
    folder, lines = tmp_path_factory.mktemp("done") / "out", []
    return compress_model(model, rows, folder, limits=LIMIT, options=QUICK, progress=lines.append), lines, folder


# ---- the whole job ----


def test_the_chosen_file_keeps_the_limit_on_rows_that_chose_nothing(done, model, rows):
    found, _, folder = done
    assert found.passed
    chosen, tried = found.chosen, found.search.tried
    assert {one.measured.n for one in tried} == {100}  # a fifth calibrates
    assert chosen.n == 100
    assert chosen.mismatch_rate_bound == pytest.approx(upper_bound(chosen.mismatches, chosen.n))
    assert chosen.mismatch_rate_bound <= 0.2
    said = json.loads(next((folder / "onnx").glob("*.audit.json")).read_text())
    assert said["n"] == 100
    assert {one["name"] for one in said["limits"]} == {"mismatch_rate"}


def test_the_folder_ships_with_the_record_and_loads(done, model, rows):
    found, _, folder = done
    assert {"model.safetensors", "README.md", "audit.json", "compression.json"} <= {
        one.name for one in folder.iterdir()
    }
    # The card is about what was chosen, not about the weights.
    card = (folder / "README.md").read_text()
    assert "This is about `onnx/" in card
    assert f"{found.chosen.n - found.chosen.mismatches} of them like the original" in card
    assert Compression.load(folder / "compression.json").to_dict() == found.to_dict()
    step = next(one.step for one in found.search.tried if one.name == found.chosen.name)
    file = next((folder / "onnx").glob("model.onnx" if not step.int8 else "model_int8.onnx"))
    again = predict(file, rows)
    # Of all rows about as many change as on those that prove: the file is the one that was measured.
    changed = (again.predicted != predict(model, rows).predicted).sum()
    assert changed <= N * (found.chosen.mismatch_rate_bound + 0.1)


def test_the_folder_means_what_was_chosen(done, rows, caplog, monkeypatch):
    """Not the weights of PyTorch beside it, which a command or a test would otherwise hold against the original."""
    found, _, folder = done
    chosen = load_chosen(folder)
    assert isinstance(chosen, DeferringModel if found.chosen.answered_rate < 1 else FileModel)
    assert as_chosen(str(folder)).path == chosen.path
    assert as_chosen("a/hub-id") == "a/hub-id"
    proved = found.chosen.n, found.chosen.mismatches
    assert audit(found.model, chosen, rows).metrics["cie"] <= proved[1] + N - proved[0]
    load_model(folder)
    assert "opens its weights of PyTorch; hf_compalign.load_chosen(folder) opens what was chosen" in caplog.text
    with pytest.raises(ValueError, match="holds no compression.json, so compress_model did not write it"):
        load_chosen(folder.parent)


def test_what_was_worked_with_is_gone_at_the_end(done):
    assert not work_folder(done[2]).exists()


def test_every_step_is_tried_or_left_out_with_a_reason(done):
    found, lines, _ = done
    names = {one.name for one in found.search.tried} | {*found.search.left_out}
    assert {"ONNX", "ONNX INT8", "50 % cut, ONNX"} <= names
    assert all(any(name in line for line in lines) for name in names)
    assert all(found.search.left_out.values())


def test_the_sentence_says_what_was_measured(done):
    found, _, _ = done
    original, chosen = found.proved.rows[:2]
    assert str(found).endswith(found.sentence)
    times = chosen.speedup[4].value  # of tiny models it may be below 1
    words = f"{times:.1f} times faster" if times >= 1 else f"{times:.2f} times as fast"
    assert found.sentence.startswith(f"{chosen.name}: {words}")
    assert f"{100 * chosen.size_bytes / original.size_bytes:.0f} % of the bytes" in found.sentence
    assert f"at most {100 * chosen.mismatch_rate_bound:.2f} % with 95 % confidence" in found.sentence


def test_a_search_for_bytes_defers_nothing(model, rows, tmp_path):
    found = compress_model(model, rows, tmp_path / "out", limits=LIMIT, options=replace(QUICK, objective="bytes"))
    assert all(one.deferral is None for one in found.search.tried)
    promising = [one for one in found.search.tried if one.promises]
    assert found.search.best.measured.size_bytes == min(one.measured.size_bytes for one in promising)


@pytest.mark.parametrize("windows", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_cut_models_are_trained_where_there_are_rows(model, rows, tmp_path, capsys, monkeypatch, windows):
    def shrink_and_forget_(network, **how):
        shrink_(network, **how)
        torch.manual_seed(0)
        torch.nn.init.normal_(network.classifier.weight, std=0.5)

    monkeypatch.setattr("hf_compalign.search.workshop.shrink_", shrink_and_forget_)
    if windows:
        model = shipping.saved(tmp_path / "windows", read_in_windows(shipping.model(), length=6, stride=1))
    options = replace(QUICK, int8=False, train_steps=8, learning_rate=1e-2, train_batch_size=8, deferral=False)
    train = shipping.raw_texts(N + 30).select(range(N, N + 30))
    found = compress_model(model, rows, tmp_path / "out", limits=LIMIT, train=train, options=options)
    trained = found.search.of(Step("onnx", cut=0.5, trained=True))
    assert trained is not None
    whole, cut = (found.search.of(Step("onnx", cut=share)).measured for share in (0.0, 0.5))
    assert trained.measured.size_bytes == pytest.approx(cut.size_bytes, rel=0.1)
    assert cut.size_bytes < whole.size_bytes
    assert trained.measured.mismatches < cut.mismatches
    assert trained.measured.n == 125  # the rows to train on calibrate too
    assert not capsys.readouterr().out  # what a command prints there is its result


def test_a_training_that_makes_a_model_worse_is_not_taken(model, rows, tmp_path):
    options = replace(QUICK, train_steps=8, learning_rate=0.9, train_batch_size=8)
    train = shipping.raw_texts(N + 90).select(range(N, N + 90))
    setting = setting_of(model, rows, limits=LIMIT, calibration=None, train=train, options=options)
    student = copy.deepcopy(setting.network)  # nothing answers more like the original
    with pytest.raises(ValueError, match="no checkpoint of 8 steps changes fewer of 250 rows than the cut by itself"):
        recover(student, setting, rows, tmp_path)
    # Nor is it trained again when a search that was killed goes on.
    written = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.*")}
    with pytest.raises(ValueError, match="no checkpoint"):
        recover(student, setting, rows, tmp_path)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.*")} == written


# ---- a search that is cut short ----


class KilledError(Exception):
    pass


def test_a_killed_search_goes_on_to_the_same_result(done, model, rows, tmp_path):
    whole, output = done[0], tmp_path / "out"

    def kill(line):
        if line.startswith("tried  ONNX INT8"):
            raise KilledError

    with pytest.raises(KilledError):
        compress_model(model, rows, output, limits=LIMIT, options=QUICK, progress=kill)
    assert not output.exists()
    made = work_folder(output) / "files" / "onnx" / "model.onnx"
    before = made.stat().st_mtime_ns
    assert [one.name for one in Search.load(work_folder(output) / "search.json").tried] == ["ONNX"]
    seen = []
    again = compress_model(
        model, rows, output, limits=LIMIT, options=QUICK, progress=lambda line: seen.append(made.stat().st_mtime_ns)
    )
    assert before == seen[0]  # not made again
    changed = [{one.name: one.measured.mismatches for one in found.search.tried} for found in (whole, again)]
    assert all(changed[0][name] == changed[1][name] for name in changed[0].keys() & changed[1].keys())
    assert again.passed


def test_another_recipe_does_not_go_on_in_its_place(model, rows, tmp_path):
    output = tmp_path / "out"

    def kill(line):
        raise KilledError

    with pytest.raises(KilledError):
        compress_model(model, rows, output, limits=LIMIT, options=QUICK, progress=kill)
    with pytest.raises(
        ValueError, match=r"cut short, with another recipe: limits: .*0\.2.* -> .*0\.3.*remove the folder"
    ):
        compress_model(model, rows, output, limits={"mismatch_rate": 0.3}, options=QUICK)
    with pytest.raises(ValueError, match=r"another recipe: dataset: "):
        compress_model(model, rows.shuffle(seed=5), output, limits=LIMIT, options=QUICK)


@pytest.mark.parametrize("part", ["dataset", "calibration", "train"])
@pytest.mark.parametrize(
    "change",
    [
        lambda rows: rows.shuffle(seed=5),
        lambda rows: rows.map(lambda row: {"text": f"{row['text']} w1"}),
        lambda rows: rows.map(lambda row: {"label": (row["label"] + 1) % 3}),
    ],
    ids=["order", "texts", "labels"],
)
def test_a_recipe_tells_what_rows_hold_and_their_order(model, part, change):
    """Behind the same ids too: with rows in another order, those that chose would prove."""
    texts = shipping.raw_texts(60).add_column("idx", [*range(60)])
    given = {
        name: texts.select(range(at, at + 20)) for at, name in ((0, "dataset"), (20, "calibration"), (40, "train"))
    }
    changed = given | {part: change(given[part])}
    was, now = (setting_of(model, **rows, limits=LIMIT, options=QUICK).recipe() for rows in (given, changed))
    assert [name for name in was if was[name] != now[name]] == [part]


def test_two_searches_do_not_work_in_one_folder(model, rows, tmp_path):
    output = tmp_path / "out"
    work_folder(output).mkdir()
    running = work_folder(output) / "running.json"
    running.write_text(json.dumps({"machine": "elsewhere", "process": 1}))
    with pytest.raises(ValueError, match="Another search works in .*: process 1 on elsewhere"):
        compress_model(model, rows, output, limits=LIMIT, options=QUICK)


# ---- what cannot work ----


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"limits": {}}, "There is nothing to keep"),
        ({"limits": {"mismatch_rate": 0.001}}, r"mismatch_rate=0\.001 cannot be shown .* Give at least"),
        ({"limits": {"speed": 1}}, "speed"),
        ({"dataset": shipping.raw_texts(4)}, "A fifth of the rows calibrates, and of 4 that is none"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_tried(model, rows, tmp_path, how, words):
    arguments = {"dataset": rows, "limits": LIMIT} | how
    with pytest.raises(ValueError, match=words):
        compress_model(model, output=tmp_path / "out", options=QUICK, **arguments)
    assert not (tmp_path / "out").exists()


def test_a_folder_that_holds_something_is_not_touched(model, rows, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("mine")
    with pytest.raises(ValueError, match=r"out is not empty.*overwrite=True"):
        compress_model(model, rows, tmp_path / "out", limits=LIMIT, options=QUICK)
    with pytest.raises(ValueError, match="is a file. Give a folder"):
        compress_model(model, rows, tmp_path / "out" / "thesis.tex", limits=LIMIT, options=QUICK)


def test_what_no_artifact_wrote_is_refused_before_the_search(model, rows, tmp_path):
    (tmp_path / "out" / "onnx").mkdir(parents=True)
    (tmp_path / "out" / "onnx" / "mine.onnx").write_text("mine")
    with pytest.raises(ValueError, match=r"out holds onnx/mine.onnx, which no artifact wrote.* Move it away, or give"):
        compress_model("no-model", rows, tmp_path / "out", limits=LIMIT, options=replace(QUICK, overwrite=True))


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ({"objective": "speed"}, "objective must be one of latency, bytes. Got 'speed'"),
        ({"formats": ("tflite",)}, "formats must be a list with some of openvino, onnx. Got"),
        ({"formats": "onnx"}, "formats must be a list"),
        ({"formats": 3}, "formats must be a list with some of openvino, onnx. Got 3"),
        ({"formats": []}, r"formats must be a list with some of openvino, onnx. Got \[\]"),
        ({"formats": [["onnx"]]}, "formats must be a list with some of"),
        ({"cuts": 0.25}, r"cuts must be a list of shares, such as \[0\.25, 0\.5\], or \[\] for none. Got 0\.25"),
        ({"cuts": None}, "cuts must be a list of shares.* Got None"),
        ({"cuts": "none"}, "cuts must be a list of shares.* Got 'none'"),
        ({"learning_rate": "high"}, r"learning_rate must be in \(0, 1\). Got 'high'"),
        ({"seed": -1}, "seed must be"),
        ({"cuts": (50,)}, r"cuts must be .*50.*Did you mean 0\.5"),
        ({"search_share": 1.0}, "search_share must be"),
        ({"n_runs": 0}, "n_runs must be"),
        ({"learning_rate": 0.0}, r"learning_rate must be in \(0, 1\)"),
    ],
)
def test_options_out_of_range_are_refused(option, words):
    with pytest.raises(ValueError, match=words):
        SearchOptions(**option)


# ---- the plan ----


def test_a_plan_names_every_step_and_what_the_rows_can_show(model, rows):
    plan = plan_of(model, rows, limits=LIMIT, options=QUICK)
    assert isinstance(plan, Plan)
    assert [*plan.steps] == ["the original's answers", "ONNX", "ONNX INT8", "50 % cut, ONNX", "50 % cut, ONNX INT8"]
    assert plan.rows == {"choose": 100, "prove": 100, "calibrate": 50}
    assert plan.least == pytest.approx(1 - 0.05 ** (1 / 100))
    assert all(seconds > 0 for seconds in plan.steps.values())
    assert "At best they show at most 2.95 %" in str(plan)


def test_a_plan_says_which_rows_are_left_out(model, rows):
    train = shipping.raw_texts(N + 40).select(range(N - 10, N + 40))
    plan = plan_of(model, rows, limits=LIMIT, train=train, options=QUICK)
    # Ten rows are the same, and two words of another stand in the dataset too.
    assert (plan.rows["train"], plan.rows["calibrate"]) == (39, 39)
    assert str(plan).startswith("left out  11 of the 50 rows of train: they ask what rows of the dataset ask\nRows: ")


# ---- what is left out, and the order of the proof ----


def tried(step, *, mismatches, times, promises, answered=1.0, size_bytes=100):
    verdict = Verdict("mismatch_rate", 0.01, mismatches / 1000, 0.0, passed=promises)
    measured = Deployment(
        name=step.name,
        runtime=Runtime("test", "f32", 1),
        n=1000,
        mismatches=mismatches,
        mismatch_rate=mismatches / 1000,
        mismatch_rate_interval=(0.0, 1.0),
        mismatch_rate_bound=upper_bound(mismatches, 1000),
        accuracy=0.9,
        limits=(verdict,),
        size_bytes=size_bytes,
        speedup={8: Estimate(times, times, times)},
        answered_rate=answered,
    )
    return Tried(step, measured, (verdict,))


FLOAT, INT8 = Step("openvino"), Step("openvino", int8=True)
QUARTER, HALF = Step("openvino", cut=0.25), Step("openvino", cut=0.5)


def test_no_two_cuts_share_a_name():
    """By its name a file and its answers are found again."""
    names = {
        0.25: "25",
        0.5: "50",
        0.12: "12",
        0.125: "12.5",
        0.004: "0.4",
        1e-7: "0.00001",
        0.29: "29",
        1 / 3: "33.33333333333333",
    }
    names |= {0.57: "57", np.float64(0.3): "30"}
    assert {cut: Step("onnx", cut=cut, trained=True).weights for cut in names} == {
        cut: f"{name} % cut and trained" for cut, name in names.items()
    }
    slugs = {_slug(Step("onnx", cut=cut).name) for cut in names}
    assert len(slugs) == len(names)
    assert _slug(Step("onnx", cut=0.125).name) == "12-5-cut-onnx"


def test_int8_of_a_cut_is_left_out_where_int8_is_no_faster():
    first = tried(FLOAT, mismatches=0, times=3, promises=True)
    slow = Search("latency", 8, (first, tried(INT8, mismatches=9, times=3, promises=False)))
    assert "no faster" in why_not(replace(QUARTER, int8=True), slow)
    assert why_not(QUARTER, slow) is None
    assert why_not(replace(QUARTER, int8=True), replace(slow, objective="bytes")) is None
    fast = replace(slow, tried=(first, tried(INT8, mismatches=9, times=4, promises=False)))
    assert why_not(replace(QUARTER, int8=True), fast) is None


def test_a_stronger_cut_is_left_out_where_a_weaker_changes_too_much():
    first = tried(FLOAT, mismatches=0, times=3, promises=True)
    for mismatches, left_out in ((40, False), (60, True)):  # of 1,000, at a limit of 1 %
        found = Search("latency", 8, (first, tried(QUARTER, mismatches=mismatches, times=4, promises=False)))
        assert (why_not(HALF, found) is not None) == left_out
        assert why_not(HALF, replace(found, objective="bytes")) is not None
    assert why_not(replace(HALF, trained=True), found) is None


def test_int8_is_left_out_where_the_training_was():
    trained = replace(HALF, trained=True)
    for left_out in ({}, {trained.name: "no checkpoint is better"}):
        found = Search("latency", 8, (tried(FLOAT, mismatches=0, times=3, promises=True),), left_out)
        assert why_not(replace(trained, int8=True), found) == left_out.get(trained.name)


def test_what_keeps_the_limits_already_is_not_trained():
    """But its INT8 may be, where that does not."""
    rows = [tried(replace(HALF, int8=int8), mismatches=9, times=3, promises=not int8) for int8 in (False, True)]
    trained = replace(HALF, trained=True)
    found = Search("latency", 8, (*rows,), {})
    assert why_not(trained, found) == "it keeps the limits without training"
    assert (
        why_not(replace(trained, int8=True), replace(found, left_out={trained.name: why_not(trained, found)})) is None
    )


def test_only_int8_that_would_be_the_best_is_repaired():
    repair = replace(INT8, repaired=True)
    first = tried(FLOAT, mismatches=0, times=3, promises=True)
    for times, promises, left_out in ((4, True, True), (2, False, True), (4, False, False)):
        found = Search("latency", 8, (first, tried(INT8, mismatches=20, times=times, promises=promises)))
        assert (why_not(repair, found) is not None) == left_out


def test_the_proof_begins_with_the_safest_and_knows_no_beaten_file():
    slow_and_wrong = tried(Step("onnx"), mismatches=5, times=2, promises=True)
    rows = (
        tried(FLOAT, mismatches=0, times=3, promises=True),
        slow_and_wrong,
        tried(QUARTER, mismatches=3, times=4, promises=True),
        tried(HALF, mismatches=50, times=6, promises=False),
    )
    found = Search("latency", 8, rows)
    assert [one.name for one in found.sequence] == [FLOAT.name, QUARTER.name]
    assert found.best.name == QUARTER.name
    assert found.fallback.name == FLOAT.name


def test_a_file_that_gains_nothing_is_said_to_and_what_came_next():
    whole = tried(FLOAT, mismatches=0, times=1, promises=True, size_bytes=400).measured
    slow = tried(Step("onnx"), mismatches=0, times=0.99, promises=True, size_bytes=408).measured
    next_one = tried(INT8, mismatches=8, times=2, promises=True).measured
    next_one = replace(next_one, limits=(replace(next_one.limits[0], passed=False),))
    proved = Deployments("m", (whole, slow))
    found = Compression("m", {"mismatch_rate": 0.01}, Search("latency", 8), (slow, next_one), proved, 1000)
    assert found.passed
    assert "0.99 times as fast" in found.sentence
    assert "No file that keeps the limits is faster than the original. Next comes OpenVINO INT8: 8 of" in found.sentence
    assert "items that prove would show it; there are 1,000." in found.sentence
    small = replace(found, search=Search("bytes", 8), judged=(slow,))
    assert small.sentence.endswith("No file that keeps the limits is smaller than the original.")
    fast = replace(found, proved=Deployments("m", (whole, replace(slow, speedup={8: Estimate(2.0, 2.0, 2.0)}))))
    assert "No file" not in fast.sentence


def test_what_comes_nearest_is_named_where_nothing_keeps_the_limit():
    near = tried(FLOAT, mismatches=8, times=3, promises=True).measured
    found = Compression("m", {"mismatch_rate": 0.01}, Search("latency", 8), (near,), None, 1000)
    assert not found.passed
    assert found.sentence.startswith("Nothing keeps mismatch_rate=0.01. Nearest comes OpenVINO: 8 of 1,000 changed")
    needed = int(found.sentence.split("rate ")[1].split(" items")[0].replace(",", ""))
    # That many items with this rate do show it.
    assert upper_bound(round(0.008 * needed), needed) <= 0.0101
    beyond = tried(FLOAT, mismatches=20, times=3, promises=True).measured
    assert "More rows would not help" in replace(found, judged=(beyond,)).sentence
    assert "no file could be made" in replace(found, judged=()).sentence


def nothing(*tried, n_proving):
    limits = {verdict.name: verdict.limit for verdict in tried[0].expected}
    return Compression("m", limits, Search("latency", 8, tried), (), None, n_proving).sentence


def expecting(one, **verdict):
    return replace(one, expected=(replace(one.expected[0], **verdict),))


def test_what_promised_too_little_is_said_with_what_was_expected_of_it():
    """In numbers of the rows that prove, which may be more or fewer than those that choose."""
    near = expecting(tried(FLOAT, mismatches=8, times=3, promises=False), upper_bound=0.0234)
    far = expecting(tried(INT8, mismatches=7, times=3, promises=False), upper_bound=0.05)
    assert nothing(far, near, n_proving=250).startswith(
        "Nothing keeps mismatch_rate=0.01: no file promised enough to be proved. Nearest comes OpenVINO: 8 of 1,000 "
        "items that choose changed, so the 250 items that prove are expected to show at most 2.34 % for mismatch_rate. "
        "At this rate it takes "
    )
    needed = int(near.measured.limits[0].needed)
    assert nothing(near, n_proving=250).endswith(f"takes {needed:,} items that prove, and some more as a margin.")
    beyond = expecting(tried(FLOAT, mismatches=20, times=3, promises=False), upper_bound=0.04)
    assert nothing(beyond, n_proving=250).endswith(
        "More rows would not help; a larger limit, or rows to train on, would."
    )
    labeled = expecting(near, name="nfr", n_examples=60)
    assert "the 30 examples that prove are expected to show at most 2.34 % for nfr" in nothing(labeled, n_proving=30)


def test_a_search_that_expects_too_little_counts_the_rows_that_prove(model, rows, tmp_path, monkeypatch):
    """Of each four rows three choose here."""
    said = {}
    monkeypatch.setattr("hf_compalign.search.compressing._climbed", lambda shop, judged, report: said["found"])
    said["found"] = Search("latency", 8, (tried(FLOAT, mismatches=8, times=3, promises=False),))
    how = replace(QUICK, search_share=0.75)
    found = compress_model(model, rows, tmp_path / "out", limits=LIMIT, options=how)
    assert not found.passed
    assert found.n_proving == 50
    assert "so the 50 items that prove are expected to show" in found.sentence


def test_joined_answers_are_those_of_the_pair():
    small, large = (tiny.bert(seed=seed).eval() for seed in (0, 1))
    rows = tiny.texts(40)
    candidate, reference = predict(small, rows), predict(large, rows)
    margins = np.sort(candidate.logits, axis=1)
    threshold = float(np.median(margins[:, -1] - margins[:, -2]))
    known = {"score": "margin", "threshold": threshold, "budget": 0.5, "confidence": 0.95, "bound": 0.5}
    counts = {"n": 40, "answered": 20, "changed": 1, "mismatches": 9, "scores": ("margin",)}
    rule = Deferral(**known, **counts, reference=ModelInfo("", ""), candidate=ModelInfo("", ""))
    pair = predict(DeferringModel(small, large, rule), rows)
    np.testing.assert_allclose(joined(rule, candidate, reference).logits, pair.logits, atol=1e-5)
    assert 0 < (pair.logits == candidate.logits).all(axis=1).sum() < 40
