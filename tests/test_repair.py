"""The repair of INT8 exports: real files, measured by ONNX Runtime."""

import copy
import json
from pathlib import Path

import pytest
import tiny
import torch
from traced import traced_once

from hf_compalign.compress.export import graph_layers
from hf_compalign.compress.export import onnx as export
from hf_compalign.compress.quantize import quantize_
from hf_compalign.measure.audit import Audit, audit
from hf_compalign.measure.predictions import predict
from hf_compalign.measure.statistics import upper_bound
from hf_compalign.ship import Frontier
from hf_compalign.ship.repair import RepairOptions, repair_onnx
from hf_compalign.ship.repair import repairing as repair

pytest.importorskip("onnxruntime")

N = 160
# With no mismatch of 160 the upper bound is 1.9 %, with one 2.9 %.
LIMITS = {"mismatch_rate": 0.03}
UNTIMED = RepairOptions(timed_batch_sizes=())


@pytest.fixture(scope="module", autouse=True)
def _traced_once(tmp_path_factory):
    with traced_once(tmp_path_factory.mktemp("traced")):
        yield


@pytest.fixture(scope="module")
def model():
    return tiny.bert(num_hidden_layers=1, hidden_size=32, intermediate_size=64, initializer_range=0.8)


@pytest.fixture(scope="module")
def rows():
    return tiny.texts(N)


@pytest.fixture(scope="module")
def repaired(model, rows, tmp_path_factory):
    """(the result, its folder, the lines that were reported)"""
    lines, folder = [], tmp_path_factory.mktemp("repair") / "out"
    before = tiny.flat(model).clone()
    options = RepairOptions(batch_size=40, probe_rows=100, timed_batch_sizes=(2,), n_runs=1)
    found = repair_onnx(model, folder, limits=LIMITS, dataset=rows, options=options, progress=lines.append)
    assert tiny.flat(model).equal(before)
    return found, folder, lines


def test_the_file_in_the_folder_keeps_the_limit_that_int8_does_not(repaired, model, rows):
    found, folder, _ = repaired
    answers = predict(folder / "model_int8.onnx", rows, batch_size=40)
    again = audit(predict(model, rows), answers, limits=LIMITS)
    assert found.passed
    assert again.passed
    assert again.metrics == found.audit.metrics
    first = found.frontier.points[0]
    assert first.kept == ()
    assert not first.passed
    assert 0 < len(found.frontier.chosen) < len(found.frontier.points[1].kept)


def test_exactly_the_chosen_layers_are_in_float(repaired):
    found, folder, _ = repaired
    in_float = {*found.frontier.chosen, "classifier"}
    assert {*found.export.float_layers} == in_float
    # What could still be quantized in the file is what was not.
    assert {*graph_layers(folder / "model_int8.onnx", "dynamic")} == in_float
    assert not in_float & {*found.export.quantized_layers}
    everything = in_float | {*found.export.quantized_layers}
    assert {"bert.pooler.dense", "bert.encoder.layer.0.attention.self.query"} < everything


def test_each_layer_in_float_was_measured_to_be_needed(repaired):
    found, _, _ = repaired
    by_layers = {frozenset(point.kept): point for point in found.frontier.points}
    chosen = frozenset(found.frontier.chosen)
    assert found.complete
    assert chosen
    assert not any(by_layers[chosen - {layer}].passed for layer in chosen)


def test_sensitivities_are_of_single_layers_against_the_float_file(repaired, model, rows, tmp_path):
    found, _, _ = repaired
    one = found.frontier.sensitivities[0]
    everything = {*found.export.quantized_layers, *found.export.float_layers}
    patterns = [layer for layer in everything - {*one.layers} if layer != "classifier"]
    made = export.export_onnx(model, tmp_path / "one", quantize="dynamic", exclude=patterns)
    sample = rows.shuffle(seed=0).select(range(100))
    expected, got = predict(model, sample), predict(made.path, sample, batch_size=40)
    assert one.n == 100
    assert one.flips == (expected.predicted != got.predicted).sum()
    assert one.logit_error == pytest.approx(((expected.logits - got.logits) ** 2).mean(), rel=1e-3)
    assert one.size_bytes == made.size_bytes


def test_everything_is_written_beside_the_file(repaired):
    found, folder, _ = repaired
    names = {path.name for path in folder.iterdir()}
    assert names == {"model_int8.onnx", "config.json", "audit.json", "frontier.json", "frontier.png"}
    assert json.loads((folder / "config.json").read_text())["architectures"] == ["BertForSequenceClassification"]
    assert Frontier.load(folder / "frontier.json") == found.frontier
    assert Audit.load(folder / "audit.json").metrics == found.audit.metrics
    assert (folder / "frontier.png").read_bytes().startswith(b"\x89PNG")
    assert found.export.path == folder / "model_int8.onnx"
    assert found.export.size_bytes == found.export.path.stat().st_size == found.frontier.chosen_point.size_bytes


def test_the_path_is_told_line_by_line(repaired):
    found, _, lines = repaired
    n_layers = len(found.frontier.points[1].kept)
    assert lines[0] == f"{n_layers} layers can be INT8 (dynamic); in float in any case: classifier"
    numbered = [line for line in lines if line[:4].strip().isdigit()]
    assert len(numbered) == len(found.frontier.points) + len(found.frontier.sensitivities)
    assert str(found) == found.frontier.verdict
    assert str(found).startswith(f"KEPT: {len(found.frontier.chosen)} of {n_layers} layers stay in float: ")


def test_the_files_worth_a_look_are_timed_beside_the_model(repaired):
    found, _, _ = repaired
    assert found.frontier.baselines["torch"].keys() == {2}
    in_float = found.frontier.points[1]
    assert ("float ONNX" in found.frontier.baselines) != bool(in_float.latency)  # once, under either name
    assert found.frontier.chosen_point.latency[2].median_ms > 0
    assert "onnxruntime" in found.frontier.machine


def test_a_file_within_the_limit_is_what_the_export_writes(model, rows, tmp_path):
    plain = export.export_onnx(model, tmp_path / "plain", quantize="dynamic", exclude=["*.pooler.*"])
    options = RepairOptions(exclude=["*.pooler.*"], timed_batch_sizes=(1,), n_runs=1)
    found = repair_onnx(
        model, tmp_path / "out", limits={"mismatch_rate": 0.9}, dataset=rows.select(range(40)), options=options
    )
    assert found.passed
    assert found.export.path.read_bytes() == plain.path.read_bytes()
    assert found.export.float_layers == plain.float_layers == ("bert.pooler.dense", "classifier")
    assert len(found.frontier.points) == 1
    assert {*found.frontier.baselines} == {"torch", "float ONNX"}
    assert str(found) == f"KEPT: with all {len(plain.quantized_layers)} layers in INT8."


def test_when_no_set_suffices_it_says_so_and_leaves_the_best(model, rows, tmp_path, monkeypatch):
    def missing(*args, **kwargs):
        raise ImportError("A figure needs packages: pip install 'hf-compalign[report]'")

    monkeypatch.setattr(repair, "plot_frontier", missing)
    other = predict(tiny.bert(seed=7), rows)
    k = int((other.predicted != predict(model, rows).predicted).sum())
    lines = []
    found = repair_onnx(
        model, tmp_path / "out", limits=LIMITS, dataset=rows, reference=other, options=UNTIMED, progress=lines.append
    )
    assert not found.passed
    assert found.complete
    assert found.frontier.points[1].mismatches == k > 30
    assert str(found).startswith("NOT KEPT: no set of layers suffices. Even with all of them in float")
    assert found.export.path.is_file()
    assert len(found.frontier.points) == 2
    assert not (tmp_path / "out" / "frontier.png").exists()
    assert lines[-1].startswith("No frontier.png:")
    assert "pip install 'hf-compalign[report]'" in lines[-1]


def test_few_more_items_are_asked_for_where_they_would_show_it(model, rows, tmp_path):
    reference = predict(model, rows)
    reference.logits[0] = -reference.logits[0]
    found = repair_onnx(
        model, tmp_path / "out", limits={"mismatch_rate": 0.02}, dataset=rows, reference=reference, options=UNTIMED
    )
    assert not found.passed
    assert "Even with all of them in float 1 of 160 answers differ" in str(found)
    assert "At this rate it would take some 386 items to show it." in str(found)
    assert upper_bound(3, 386) <= 0.02  # 386 / 160 is more than 2


def test_static_files_of_images_are_repaired_within_a_budget(tmp_path):
    model, rows = tiny.vit(num_hidden_layers=1, initializer_range=0.5), tiny.images(N)
    # Ranges of images in the dark do not fit those by day.
    dark = [{"pixel_values": 0.05 * torch.tensor(tiny.images(8)["pixel_values"])}]
    options = RepairOptions(
        quantize="static", calibration=dark, max_measurements=1, timed_batch_sizes=(), overwrite=True
    )
    (tmp_path / "mine.txt").write_text("stays")
    found = repair_onnx(model, tmp_path, limits={"mismatch_rate": 0.02}, dataset=rows, options=options)
    assert not found.complete
    assert str(found) == (
        "NOT KEPT by any file so far, but the 1 measurements were spent: allow more with max_measurements "
        "(--max-measurements)."
    )
    assert found.export.quantize == "static"
    assert (tmp_path / "mine.txt").read_text() == "stays"
    more = RepairOptions(**vars(options) | {"max_measurements": 3})
    found = repair_onnx(model, tmp_path, limits={"mismatch_rate": 0.02}, dataset=rows, options=more)
    assert found.passed
    assert not found.complete
    assert "stay in float. Fewer may do, but the 3 measurements were spent" in str(found)


def test_a_model_that_simulates_the_file_is_repaired_like_any(model, rows, tmp_path):
    simulated = copy.deepcopy(model)
    quantize_(simulated, "onnxruntime-w8a8")
    options = RepairOptions(max_measurements=2, timed_batch_sizes=(), batch_size=N)
    found = repair_onnx(
        simulated, tmp_path / "out", limits=LIMITS, dataset=rows, reference=predict(model, rows), options=options
    )
    assert [len(point.kept) for point in found.frontier.points] == [0, len(found.frontier.points[-1].kept)]
    assert found.frontier.points[-1].mismatches == 0  # in float it is the float model


# ---- bad input ----


@pytest.mark.parametrize(
    ("limits", "options", "message"),
    [
        ({}, {}, "A repair needs a limit to keep"),
        ({"mismatches": 0.1}, {}, "There is no limit 'mismatches'"),
        ({"mismatch_rate": 0.5}, {"probe_rows": 0}, "probe_rows must be 1 or more. Got 0."),
        ({"mismatch_rate": 0.5}, {"max_measurements": 0}, "max_measurements must be 1 or more"),
        ({"mismatch_rate": 0.5}, {"quantize": "static"}, "quantize='static' fixes the ranges"),
        ({"mismatch_rate": 0.01}, {}, "95 % upper bound is 0.01855. Give at least 299 items, or a limit above that."),
        ({"nfr": 0.0}, {}, "The limit nfr=0 cannot be shown to be kept.* 0.01855. Give a limit above that."),
    ],
)
def test_bad_input_is_refused_and_nothing_written(model, rows, tmp_path, limits, options, message):
    with pytest.raises(ValueError, match=message):
        repair_onnx(model, tmp_path / "out", limits=limits, dataset=rows, options=RepairOptions(**options))
    assert not [*tmp_path.iterdir()]


def test_a_folder_that_holds_something_is_refused(model, rows, tmp_path):
    Path(tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(ValueError, match="is not empty: it holds thesis.tex"):
        repair_onnx(model, tmp_path, limits=LIMITS, dataset=rows)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_file_that_is_exported_already_is_refused(repaired, rows, tmp_path):
    with pytest.raises(ValueError, match="ONNX"):
        repair_onnx(repaired[0].export.path, tmp_path / "out", limits={"mismatch_rate": 0.05}, dataset=rows)
    assert not (tmp_path / "out").exists()
