"""The repair of INT8 exports: real files of each format, measured by its runtime."""

import copy
import json
import math
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from exported import weight_types

from hf_compalign.compress.export import export_openvino, graph_layers
from hf_compalign.compress.export import onnx as export
from hf_compalign.compress.quantize import quantize_
from hf_compalign.measure.audit import Audit, audit
from hf_compalign.measure.predictions import predict
from hf_compalign.measure.statistics import items_needed, upper_bound
from hf_compalign.ship import Frontier
from hf_compalign.ship.repair import RepairOptions, repair_int8
from hf_compalign.ship.repair import repairing as repair
from hf_compalign.ship.repair.parts import rows_needed

pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.usefixtures("traced_once")

N = 400  # rows to search on, and as many to judge on
LIMITS = {"mismatch_rate": 0.025}  # four mismatches of 400 are within it, five are not
UNTIMED = RepairOptions(timed_batch_sizes=())


@pytest.fixture(scope="module")
def model():
    return tiny.bert(num_hidden_layers=1, hidden_size=32, intermediate_size=64, initializer_range=0.6)


@pytest.fixture(scope="module")
def rows():
    return tiny.texts(2 * N)


def part(rows, which):
    """The rows that are searched on, or the others."""
    order = np.random.default_rng(0).permutation(len(rows))
    return rows.select(sorted(order[:N] if which == "searched" else order[N:]))


OPENVINO = {"quantize": "static", "precision": "f32", "calibration": tiny.texts(24, seed=3)}
INT8 = {"onnx": {"quantize": "dynamic"}, "openvino": OPENVINO}


@pytest.fixture(scope="module", params=["onnx", pytest.param("openvino", marks=pytest.mark.slow)])
def repaired(request, model, rows, tmp_path_factory):
    """(the result, its folder, the lines that were reported)"""
    if request.param == "openvino":
        pytest.importorskip("openvino")
        pytest.importorskip("nncf")
    lines, folder = [], tmp_path_factory.mktemp("repair") / "out"
    before = tiny.flat(model).clone()
    options = RepairOptions(batch_size=40, probe_rows=100, timed_batch_sizes=(2,), n_runs=1, **INT8[request.param])
    given = {"limits": LIMITS, "dataset": rows, "options": options}
    found = repair_int8(model, folder, **given, file_format=request.param, progress=lines.append)
    assert tiny.flat(model).equal(before)
    return found, folder, lines


def test_the_file_in_the_folder_keeps_the_limit_on_rows_that_the_search_has_not_seen(repaired, model, rows):
    found, folder, _ = repaired
    unseen = part(rows, "judged")
    again = audit(predict(model, unseen), predict(folder, unseen, batch_size=40), limits=LIMITS)
    assert found.passed
    assert again.passed
    assert again.metrics == found.audit.metrics
    assert again.data_fingerprint == found.audit.data_fingerprint
    assert (found.n_searched, found.n_judged, found.audit.n) == (N, N, N)


def test_int8_does_not_keep_the_limit_and_fewer_layers_than_all_do(repaired, model, rows):
    found, folder, _ = repaired
    first, second = found.frontier.points[:2]
    assert first.kept == ()
    assert not first.passed
    assert 0 < len(found.frontier.chosen) < len(second.kept)
    assert second.mismatches == 0
    searched = part(rows, "searched")
    asked = predict(folder, searched, batch_size=40).predicted != predict(model, searched).predicted
    assert found.frontier.chosen_point.mismatches == asked.sum()


def test_files_are_judged_from_the_safest_on_and_the_last_within_the_limit_is_chosen(repaired):
    frontier = repaired[0].frontier
    good_enough = sorted((point.kept for point in frontier.points if point.passed), key=len, reverse=True)
    judged = [point.kept for point in frontier.judged]
    assert [*map(len, judged)] == [*map(len, good_enough)][: len(judged)]
    assert {*judged} <= {*good_enough}
    passed = [point.passed for point in frontier.judged]
    assert passed[:-1] == [True] * (len(passed) - 1)
    assert passed[-1] == (len(judged) == len(good_enough)) or not passed[-1]
    assert frontier.chosen == judged[sum(passed) - 1]


def test_a_file_is_good_enough_if_one_standard_deviation_more_than_expected_is_within_the_limit(repaired):
    for point in repaired[0].frontier.points:
        k = point.mismatches  # as many items judge as were searched on
        most = math.ceil(k + math.sqrt(2 * k * (1 - k / N)))
        assert point.limits[0].upper_bound == pytest.approx(upper_bound(most, N))
        assert point.passed == (most <= 4)


def test_exactly_the_chosen_layers_are_in_float(repaired):
    found, _, _ = repaired
    in_float = {*found.frontier.chosen, "classifier"}
    assert {*found.export.float_layers} == in_float
    # What could still be quantized in an ONNX file is what was not.
    path = found.export.path
    if path.suffix == ".onnx":
        assert {*graph_layers(path, "dynamic")} == in_float
    else:
        assert {layer for layer, kind in weight_types(path).items() if kind == "f32"} == in_float
    assert not in_float & {*found.export.quantized_layers}
    everything = in_float | {*found.export.quantized_layers}
    assert {"bert.pooler.dense", "bert.encoder.layer.0.attention.self.query"} < everything


def test_each_layer_in_float_was_measured_to_be_needed(repaired):
    found, _, _ = repaired
    by_layers = {frozenset(point.kept): point for point in found.frontier.points}
    best = frozenset(min((point.kept for point in found.frontier.points if point.passed), key=len))
    assert found.complete
    assert best
    assert not any(by_layers[best - {layer}].passed for layer in best)


def test_sensitivities_are_of_single_layers_against_the_float_file(repaired, model, rows, tmp_path):
    found, _, _ = repaired
    one = found.frontier.sensitivities[0]
    everything = {*found.export.quantized_layers, *found.export.float_layers}
    patterns = [layer for layer in everything - {*one.layers} if layer != "classifier"]
    options = {"exclude": patterns, **INT8["onnx" if found.export.path.suffix == ".onnx" else "openvino"]}
    exported = export.export_onnx if found.export.path.suffix == ".onnx" else export_openvino
    made = exported(model, tmp_path / "one", **options)
    sample = part(rows, "searched").shuffle(seed=0).select(range(100))
    expected, got = predict(model, sample), predict(made.path, sample, batch_size=40)
    assert one.n == 100
    assert one.flips == (expected.predicted != got.predicted).sum()
    assert one.logit_error == pytest.approx(((expected.logits - got.logits) ** 2).mean(), rel=1e-3)
    assert one.size_bytes == pytest.approx(made.size_bytes, rel=1e-3)  # OpenVINO writes what it was told beside


def test_everything_is_written_beside_the_file(repaired):
    found, folder, _ = repaired
    names = {path.name for path in folder.iterdir()}
    files = {"model_int8.onnx"} if "model_int8.onnx" in names else {"openvino_model.xml", "openvino_model.bin"}
    assert names == files | {"config.json", "audit.json", "frontier.json", "frontier.png"}
    assert json.loads((folder / "config.json").read_text())["architectures"] == ["BertForSequenceClassification"]
    assert Frontier.load(folder / "frontier.json") == found.frontier
    assert Audit.load(folder / "audit.json").metrics == found.audit.metrics
    assert (folder / "frontier.png").read_bytes().startswith(b"\x89PNG")
    assert found.export.path.parent == folder
    assert found.export.path.name in files
    size_bytes = sum((folder / name).stat().st_size for name in files)
    assert found.export.size_bytes == size_bytes == found.frontier.chosen_point.size_bytes


def test_the_path_is_told_line_by_line(repaired):
    found, _, lines = repaired
    n_layers = len(found.frontier.points[1].kept)
    assert lines[0] == f"{n_layers} layers can be INT8 ({found.export.quantize}); in float in any case: classifier"
    assert lines[1] == "Searched on 400 items, judged on 400 others"
    numbered = [line for line in lines if line[:4].strip().isdigit()]
    assert len(numbered) == len(found.frontier.points) + len(found.frontier.sensitivities)
    judged = [line for line in lines if line.startswith("judged")]
    assert len(judged) == len(found.frontier.judged)
    assert judged[0].startswith(f"judged  {len(found.frontier.judged[0].kept)} in float: ")
    assert str(found) == found.frontier.verdict
    assert str(found).startswith(f"KEPT: {len(found.frontier.chosen)} of {n_layers} layers stay in float: ")
    k = found.audit.metrics["cie"]
    assert str(found).endswith(f" On items that the search has not seen {k} of 400 answers differ.")


def test_the_files_worth_a_look_are_timed_beside_the_model(repaired):
    found, _, _ = repaired
    assert found.frontier.baselines["torch"].keys() == {2}
    in_float = found.frontier.points[1]
    (name,) = {"float ONNX", "float OpenVINO"} & {*found.frontier.baselines} or {None}
    assert (name is not None) != bool(in_float.latency)  # once, under either name
    assert name in (None, "float ONNX" if found.export.path.suffix == ".onnx" else "float OpenVINO")
    assert found.frontier.chosen_point.latency[2].median_ms > 0
    assert ("onnxruntime" if found.export.path.suffix == ".onnx" else "openvino") in found.frontier.machine


def test_a_file_within_the_limit_is_what_the_export_writes(model, rows, tmp_path):
    plain = export.export_onnx(model, tmp_path / "plain", quantize="dynamic", exclude=["*.pooler.*"])
    options = RepairOptions(exclude=["*.pooler.*"], timed_batch_sizes=(1,), n_runs=1)
    found = repair_int8(
        model, tmp_path / "out", limits={"mismatch_rate": 0.9}, dataset=rows.select(range(40)), options=options
    )
    assert found.passed
    assert found.export.path.read_bytes() == plain.path.read_bytes()
    assert found.export.float_layers == plain.float_layers == ("bert.pooler.dense", "classifier")
    assert len(found.frontier.points) == 1
    assert {*found.frontier.baselines} == {"torch", "float ONNX"}
    k = found.audit.metrics["cie"]
    assert str(found) == (
        f"KEPT: with all {len(plain.quantized_layers)} layers in INT8. On items that the search has not seen {k} of 20 "
        "answers differ."
    )


def test_an_openvino_file_within_the_limit_is_what_the_export_writes(model, rows, tmp_path):
    pytest.importorskip("nncf")
    plain = export_openvino(model, tmp_path / "plain", exclude=["*.pooler.*"], **INT8["openvino"])
    options = RepairOptions(exclude=["*.pooler.*"], timed_batch_sizes=(), **INT8["openvino"])
    given = {"limits": {"mismatch_rate": 0.9}, "dataset": rows.select(range(40)), "options": options}
    found = repair_int8(model, tmp_path / "out", **given, file_format="openvino")
    assert found.export.path.with_suffix(".bin").read_bytes() == plain.path.with_suffix(".bin").read_bytes()
    assert found.export.float_layers == plain.float_layers == ("bert.pooler.dense", "classifier")


def test_each_openvino_file_is_computed_in_the_precision_of_the_export(model, rows, tmp_path):
    pytest.importorskip("nncf")
    options = RepairOptions(max_measurements=2, timed_batch_sizes=(), **OPENVINO | {"precision": "bf16"})
    found = repair_int8(model, tmp_path / "out", limits=LIMITS, dataset=rows, options=options, file_format="openvino")
    assert found.export.precision == "bf16"
    assert found.frontier.chosen
    assert 'value="bf16"' in found.export.path.read_text()


def test_when_no_set_suffices_it_says_so_and_leaves_the_best(model, rows, tmp_path, monkeypatch):
    def missing(*args, **kwargs):
        raise ImportError("A figure needs packages: pip install 'hf-compalign[report]'")

    monkeypatch.setattr(repair, "plot_frontier", missing)
    other = predict(tiny.bert(seed=7), rows)
    unlike = predict(tiny.bert(seed=7), part(rows, "searched")).predicted
    k = int((unlike != predict(model, part(rows, "searched")).predicted).sum())
    lines = []
    found = repair_int8(
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


def test_more_items_are_asked_for_where_they_would_show_it(model, rows, tmp_path):
    few = rows.select(range(320))
    reference = predict(model, few)
    for row in np.random.default_rng(0).permutation(320)[[0, 1, 2, 160, 161]]:  # three searched on, two that judge
        reference.logits[row] = -reference.logits[row]
    found = repair_int8(
        model, tmp_path / "out", limits={"mismatch_rate": 0.02}, dataset=few, reference=reference, options=UNTIMED
    )
    assert not found.passed
    assert "Even with all of them in float 3 of 160 answers differ from the reference's in the search" in str(found)
    k = found.audit.metrics["cie"]
    needed = items_needed(0.02, k / 160)
    assert str(found).endswith(
        f"On items that the search has not seen {k} of 160 answers differ. At this rate it would take some "
        f"{rows_needed(needed, 0.5):,} items to show it."
    )


def test_static_files_of_images_are_repaired_within_a_budget(tmp_path):
    model, rows = tiny.vit(num_hidden_layers=1, initializer_range=0.5), tiny.images(2 * 160)
    # Ranges of images in the dark do not fit those by day.
    dark = [{"pixel_values": 0.05 * torch.tensor(tiny.images(8)["pixel_values"])}]
    options = RepairOptions(
        quantize="static", calibration=dark, max_measurements=1, timed_batch_sizes=(), overwrite=True
    )
    (tmp_path / "mine.txt").write_text("stays")
    found = repair_int8(model, tmp_path, limits={"mismatch_rate": 0.02}, dataset=rows, options=options)
    assert not found.complete
    assert str(found) == (
        "NOT KEPT by any file so far, but the 1 measurements were spent: allow more with max_measurements "
        f"(--max-measurements). On items that the search has not seen {found.audit.metrics['cie']} of 160 answers "
        "differ."
    )
    assert found.export.quantize == "static"
    assert (tmp_path / "mine.txt").read_text() == "stays"
    more = RepairOptions(**vars(options) | {"max_measurements": 3})
    found = repair_int8(model, tmp_path, limits={"mismatch_rate": 0.02}, dataset=rows, options=more)
    assert found.passed
    assert not found.complete
    assert "Fewer may do, but the 3 measurements were spent" in str(found)


@pytest.mark.parametrize("repaired", ["onnx"], indirect=True)
def test_what_is_known_of_single_layers_is_not_measured_again(repaired, model, rows, tmp_path):
    first, folder, _ = repaired
    known = Frontier.load(folder / "frontier.json").sensitivities
    options = RepairOptions(batch_size=40, sensitivities=known, timed_batch_sizes=(), **INT8["onnx"])
    lines, given = [], {"limits": {"mismatch_rate": 0.04}, "dataset": rows, "options": options}
    found = repair_int8(model, tmp_path / "out", **given, progress=lines.append)
    assert not [line for line in lines if "only" in line]
    assert found.frontier.sensitivities == first.frontier.sensitivities
    assert len(found.frontier.chosen) <= len(first.frontier.chosen)


def test_a_model_that_simulates_the_file_is_repaired_like_any(model, rows, tmp_path):
    simulated = copy.deepcopy(model)
    quantize_(simulated, "onnxruntime-w8a8")
    options = RepairOptions(max_measurements=2, timed_batch_sizes=(), batch_size=N)
    found = repair_int8(
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
        ({"mismatch_rate": 0.5}, {"probe_rows": 0}, "probe_rows must be at least 1. Got 0."),
        ({"mismatch_rate": 0.5}, {"max_measurements": 0}, "max_measurements must be 1 or more"),
        ({"mismatch_rate": 0.5}, {"quantize": "static"}, "quantize='static' fixes the ranges"),
        (
            {"mismatch_rate": 0.005},
            {},
            "400 judge, .* 95 % upper bound is 0.00746. Give at least 1,196 items, or a limit",
        ),
        (
            {"mismatch_rate": 0.01},
            {"search_share": 0.75},
            r"200 judge, the others are searched on \(search_share=0.75\), .* is 0.01487. Give at least 1,195 items",
        ),
        (
            {"mismatch_rate": 0.5},
            {"search_share": 50},
            r"search_share must be a number in \(0, 1\). .* Did you mean 0.5?",
        ),
        (
            {"mismatch_rate": 0.5},
            {"search_share": 0.0001},
            "search_share=0.0001 of 800 rows leaves none to search on. Give",
        ),
        ({"mismatch_rate": 0.5}, {"quantize": None}, "A repair is of an INT8 file, and quantize=None would be float32"),
        ({"nfr": 0.0}, {}, "The limit nfr=0 cannot be shown to be kept.* 0.00746. Give a limit above that."),
    ],
)
def test_bad_input_is_refused_and_nothing_written(model, rows, tmp_path, limits, options, message):
    with pytest.raises(ValueError, match=message):
        repair_int8(model, tmp_path / "out", limits=limits, dataset=rows, options=RepairOptions(**options))
    assert not [*tmp_path.iterdir()]


def test_a_format_that_is_not_known_is_refused(model, rows, tmp_path):
    with pytest.raises(ValueError, match="file_format must be one of onnx, openvino. Got 'tflite'."):
        repair_int8(model, tmp_path / "out", limits=LIMITS, dataset=rows, file_format="tflite")
    with pytest.raises(ValueError, match="precision='bf16' is for OpenVINO files"):
        repair_int8(model, tmp_path / "out", limits=LIMITS, dataset=rows, options=RepairOptions(precision="bf16"))
    pytest.importorskip("nncf")
    with pytest.raises(ValueError, match="quantize='dynamic' is for ONNX"):
        repair_int8(model, tmp_path / "out", limits=LIMITS, dataset=rows, file_format="openvino")
    assert not [*tmp_path.iterdir()]


def test_predictions_of_other_rows_are_refused(model, rows, tmp_path):
    with pytest.raises(ValueError, match="The predictions must be of the rows of the dataset. They are of 99 items"):
        repair_int8(
            model, tmp_path / "out", limits=LIMITS, dataset=rows, reference=predict(model, rows.select(range(99)))
        )


def test_a_folder_that_holds_something_is_refused(model, rows, tmp_path):
    Path(tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(ValueError, match="is not empty: it holds thesis.tex"):
        repair_int8(model, tmp_path, limits=LIMITS, dataset=rows)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_file_that_is_exported_already_is_refused(repaired, rows, tmp_path):
    with pytest.raises(ValueError, match="is an (ONNX|OpenVINO) file already"):
        repair_int8(repaired[0].export.path, tmp_path / "out", limits={"mismatch_rate": 0.05}, dataset=rows)
    assert not (tmp_path / "out").exists()
