"""Deployments side by side: what each changes, weighs and takes, and which is the fastest that keeps a limit."""

import math
from dataclasses import replace

import numpy as np
import pytest
import tiny
import torch
from matplotlib.collections import PathCollection
from traced import traced_once

from hf_compalign import DeferringModel, Deployments, audit, compare_deployments, export_onnx, export_openvino, predict
from hf_compalign.measure.audit import ModelInfo
from hf_compalign.measure.footprint import Latency, batches_of, interleaved_times_ms, peak_memory_bytes, summarized
from hf_compalign.measure.statistics import Estimate, upper_bound, wilson_interval
from hf_compalign.models import OnnxModel, OpenVinoModel, Runtime, RuntimeSettings
from hf_compalign.report.plots import plot_deployments
from hf_compalign.ship.deferral import Deferral
from hf_compalign.ship.deployments import Deployment, DeploymentOptions, speedup_of

pytest.importorskip("openvino")
ROWS = tiny.texts(30, length=9)
QUICK = DeploymentOptions(timed_batch_sizes=(1, 4), n_runs=3, batch_size=8, memory=False)


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """A model in several forms, one of them another model, and what was measured of them."""
    folder = tmp_path_factory.mktemp("deployments")
    model, other = (tiny.without_equal_tensors(tiny.bert(n_labels=3, seed=seed).eval()) for seed in (0, 1))
    other.save_pretrained(folder / "other")
    with traced_once():
        onnx = export_onnx(model, folder / "onnx").path
        exact = export_openvino(model, folder / "openvino", precision="f32").path
        half = export_openvino(model, folder / "half").path
    margins = np.sort(predict(other, ROWS).logits, axis=1)
    threshold = float(np.median(margins[:, -1] - margins[:, -2]))
    candidates = {
        "torch": model,
        "torch bf16": tiny.bert(n_labels=3).eval().bfloat16(),
        "ONNX": OnnxModel(onnx, settings=RuntimeSettings(threads=2)),
        "OpenVINO": exact,
        "OpenVINO bf16": half,
        "other": folder / "other",
        "deferring": DeferringModel(folder / "other", model, deferral(threshold)),
    }
    lines = []
    found = compare_deployments(
        model, candidates, ROWS, limits={"mismatch_rate": 0.2}, options=QUICK, progress=lines.append
    )
    return candidates, found, lines


def deferral(threshold):
    counts = {"n": 100, "answered": 90, "changed": 3, "mismatches": 40, "scores": ("margin",)}
    known = {"score": "margin", "threshold": threshold, "budget": 0.1, "confidence": 0.95, "bound": 0.09}
    return Deferral(**known, **counts, reference=ModelInfo("big", ""), candidate=ModelInfo("small", ""))


def test_each_is_held_against_the_reference_as_an_audit_does(compared):
    candidates, found, lines = compared
    reference = predict(candidates["torch"], ROWS, batch_size=8)
    for name, model in candidates.items():
        row, audited = found[name], audit(reference, predict(model, ROWS, batch_size=8))
        assert (row.n, row.mismatches) == (30, audited.metrics["cie"])
        assert row.mismatch_rate_interval == wilson_interval(row.mismatches, 30)
        assert row.mismatch_rate_bound == upper_bound(row.mismatches, 30)
        assert row.accuracy == audited.metrics["accuracy_candidate"]
        assert row.passed is (row.mismatch_rate_bound <= 0.2)
    assert [found[name].mismatches for name in ("torch", "ONNX", "OpenVINO")] == [0, 0, 0]
    assert found["other"].mismatches > found["deferring"].mismatches
    assert lines[0] == "torch: 0 of 30 answers differ"


def test_it_says_what_computes_each_and_how_much_a_pair_defers(compared):
    _, found, _ = compared
    assert found["torch bf16"].runtime.precision == "bfloat16"
    assert (found["ONNX"].runtime.threads, found["OpenVINO"].runtime.threads) == (2, torch.get_num_threads())
    assert found["deferring"].answered_rate == 0.5
    assert {row.answered_rate for row in found.rows if row.name != "deferring"} == {1.0}
    assert found["deferring"].size_bytes == found["other"].size_bytes + found["torch"].size_bytes


def test_each_is_timed_in_turn_and_alone(compared):
    _, found, _ = compared
    assert found.batch_sizes == (1, 4)
    for row in found.rows:
        for size in (1, 4):
            assert row.latency[size].median_ms > 0 < row.alone[size].median_ms
            assert row.speedup[size].low <= row.speedup[size].value <= row.speedup[size].high
    assert found["torch"].speedup[4] == Estimate(1.0, 1.0, 1.0)
    assert " (threads: " in found.machine


@pytest.mark.slow
def test_memory_is_that_of_files_in_a_process_of_their_own(compared):
    candidates, _, _ = compared
    settled = OpenVinoModel(candidates["OpenVINO bf16"], settings=RuntimeSettings("f32", threads=1))
    some = {"torch": candidates["torch"], "OpenVINO": settled, "deferring": candidates["deferring"]}
    options = replace(QUICK, timed_batch_sizes=(), memory=True)
    found = compare_deployments(candidates["torch"], some, ROWS, options=options)
    assert found["torch"].peak_memory_bytes is None  # in memory, and so is one of the pair
    assert found["deferring"].peak_memory_bytes is None
    assert 0 < found["OpenVINO"].peak_memory_bytes < 1e9


@pytest.mark.slow
def test_large_weights_show_in_the_memory(tmp_path):
    model = tiny.bert(intermediate_size=400_000)
    model.save_pretrained(tmp_path / "large")
    weights = 400_000 * 2 * model.config.num_hidden_layers * model.config.hidden_size * 4
    grown = peak_memory_bytes([tmp_path / "large"], {"input_ids": torch.ones(2, 3).long()})
    assert 0.8 * weights < grown < 3 * weights


def test_the_reports_are_whole(compared, tmp_path):
    _, found, _ = compared
    found.save(tmp_path / "deployments.json")
    assert Deployments.load(tmp_path / "deployments.json") == found
    text = str(found)
    assert "OpenVINO bf16  " in text
    assert "times faster, batch 4" in text.splitlines()[1]
    assert "ONNX: ONNX Runtime 1." in text
    assert "deferring: PyTorch 2." in text


def test_unlabeled_rows_have_no_accuracy(compared, tmp_path):
    candidates, _, _ = compared
    options = replace(QUICK, timed_batch_sizes=())
    rows = tiny.texts(5, length=9, labels=False)
    found = compare_deployments(predict(candidates["torch"], rows), {"ONNX": candidates["ONNX"]}, rows, options=options)
    assert math.isnan(found["ONNX"].accuracy)
    assert found["ONNX"].passed  # without limits
    assert "accuracy" not in str(found)
    assert " ms" not in str(found)
    found.save(tmp_path / "deployments.json")
    assert str(Deployments.load(tmp_path / "deployments.json")) == str(found)
    with pytest.raises(ValueError, match="Batches of 8 were not timed. Timed: none. Compare with timed_batch_sizes="):
        found.fastest(8)


# ---- choosing ----


def row(name, mismatches, speedup):
    bound, interval = upper_bound(mismatches, 1000), wilson_interval(mismatches, 1000)
    rates = {"mismatch_rate": mismatches / 1000, "mismatch_rate_interval": interval, "mismatch_rate_bound": bound}
    about = {"runtime": Runtime("none", "f32", 1), "n": 1000, "accuracy": 0.9, "limits": (), "size_bytes": 10}
    times = {"latency": {8: Latency(1.0, 1.0, 1.0)}, "speedup": {8: Estimate(speedup, speedup, speedup)}}
    return Deployment(name=name, mismatches=mismatches, **rates, **about, **times)


CHOICE = Deployments("big", (row("torch", 0, 1.0), row("int8", 12, 4.0), row("bf16", 1, 3.5), row("slow", 5, 2.0)))


def test_the_frontier_is_what_no_other_beats():
    assert [one.name for one in CHOICE.frontier(8)] == ["int8", "bf16", "torch"]


def test_the_fastest_that_keeps_a_bound():
    assert CHOICE.fastest(8).name == "int8"
    assert CHOICE.fastest(8, most=0.01).name == "bf16"  # 12 of 1000 can be more than 1 %
    assert CHOICE.fastest(8, most=0.001) is None  # 0 of 1000 may be 0.3 %
    with pytest.raises(KeyError, match="There is no deployment 'fp8'. There are torch, int8, bf16, slow."):
        CHOICE["fp8"]


def test_the_ratio_is_of_total_times_by_hand():
    found = speedup_of([4.0, 8.0], [2.0, 1.0])
    assert found.value == 4.0
    assert (found.low, found.high) == (2.0, 8.0)  # one round drawn twice


def test_a_speedup_with_a_wide_interval_is_said_and_times_that_spread_are_not():
    rows = [replace(one, alone={8: Latency(2.0, 1.0, 4.0)}) for one in CHOICE.rows]
    assert "Not to be trusted" not in str(Deployments("big", tuple(rows)))
    rows[1] = replace(rows[1], speedup={8: Estimate(4.0, 3.4, 4.5)})
    said = "how many times faster int8 (batch 8) is has an interval wider than a quarter of it. Time on a quiet machine"
    assert said in str(Deployments("big", tuple(rows)))


def test_every_round_has_its_own_rows():
    seen = []

    class Echo(torch.nn.Module):
        def forward(self, x):
            seen.append(int(x))

    times = interleaved_times_ms({"a": (Echo(), [{"x": torch.tensor(one)} for one in (1, 2, 3)])}, n_warmup=2, n_runs=4)
    assert seen == [2, 3, 1, 2, 3, 1]
    assert len(times["a"]) == 4
    seen.clear()
    batches = [{"x": torch.tensor(one)} for one in range(10)]
    both = {"a": (Echo(), batches), "b": (Echo(), batches)}
    times = interleaved_times_ms(both, n_warmup=0, n_runs=5, in_a_row=3)
    # In a row after one that does not count; then the other begins.
    assert seen == [0, 0, 1, 2, 0, 0, 1, 2, 3, 3, 4, 3, 3, 4]
    assert [len(of) for of in times.values()] == [5, 5]
    with pytest.raises(ValueError, match="in_a_row >= 1. Got n_runs = 5, n_warmup = 0 and in_a_row = 0"):
        interleaved_times_ms(both, n_warmup=0, n_runs=5, in_a_row=0)
    assert summarized([1.0, 2.0, 3.0]) == Latency(2.0, 1.5, 2.5)


def test_batches_go_through_the_rows_and_begin_again():
    rows = tiny.texts(5, length=4)
    first, second = batches_of(tiny.bert(n_labels=3), rows, sizes=(3, 4))
    assert first["input_ids"].tolist() == rows["input_ids"][:3]
    assert second["input_ids"].tolist() == [*rows["input_ids"][3:], *rows["input_ids"][:2]]


# ---- what is refused ----


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_runs": 0}, "n_runs must be at least 1. Got 0."),
        ({"timed_batch_sizes": (1, 0)}, "timed_batch_sizes must be at least 1. Got 0."),
        ({"batch_size": 1.5}, "batch_size must be a whole number. Got 1.5."),
    ],
)
def test_options_that_cannot_be_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        DeploymentOptions(**options)


def test_nothing_to_compare_and_other_labels_are_refused():
    with pytest.raises(ValueError, match="There is nothing to compare. Give at least one candidate"):
        compare_deployments(tiny.bert(), {}, ROWS)
    with pytest.raises(ValueError, match="must answer with the same labels"):
        compare_deployments(tiny.bert(n_labels=3), {"two": tiny.bert(n_labels=2)}, tiny.texts(4, labels=False))


@pytest.mark.slow
def test_a_process_that_fails_says_why(tmp_path):
    with pytest.raises((RuntimeError, ValueError), match="nowhere"):
        peak_memory_bytes([tmp_path / "nowhere"], {"input_ids": torch.ones(1, 2).long()})


# ---- the figure ----


def test_the_figure_shows_each_at_its_speed_and_rate():
    (panel,) = plot_deployments(CHOICE.rows, limit=0.02).axes
    dots = [tuple(one.get_offsets()[0]) for one in panel.collections if isinstance(one, PathCollection)]
    assert dots == [(1.0, 0.0), (4.0, 1.2), (3.5, 0.1), (2.0, 0.5)]
    assert [text.get_text() for text in panel.texts] == ["1", "2", "3", "4"]
    (best,) = [line for line in panel.lines if line.get_label() == "no other is better in both"]
    assert [*zip(*best.get_data(), strict=True)] == [(1.0, 0.0), (3.5, 0.1), (4.0, 1.2)]
    named = [text.get_text() for text in panel.figure.legends[0].get_texts()]
    assert named[:3] == ["no other is better in both", "2 %", "1. torch"]
    assert panel.get_xlabel() == "times faster, batches of 8"
    assert panel.get_ylabel() == "answers unlike the reference's (% of 1,000)"


def test_there_is_a_panel_for_each_batch_size():
    rows = [replace(one, speedup={1: one.speedup[8], **one.speedup}) for one in CHOICE.rows]
    assert [panel.get_xlabel()[-12:] for panel in plot_deployments(rows).axes] == ["batches of 1", "batches of 8"]
    with pytest.raises(ValueError, match="There is nothing to plot. Give at least one deployment that was timed."):
        plot_deployments([replace(one, speedup={}) for one in CHOICE.rows])
