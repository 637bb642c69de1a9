"""The measured files: which of them matter, as JSON and as rows."""

import json
import random
from dataclasses import replace

import numpy as np
import pytest
from plotted import N, point

from hf_compalign.measure.audit import audit
from hf_compalign.measure.footprint import Latency
from hf_compalign.measure.predictions import Predictions
from hf_compalign.measure.statistics import undominated, wilson_interval
from hf_compalign.ship import Frontier, Point, Sensitivity, frontier_table


@pytest.fixture
def frontier():
    return Frontier(
        points=(point(0, 9, 25_000_000, b1=2.0, b8=9.0), point(4, 0, 100_000_000), point(2, 4, 50_000_000, b1=3.0)),
        judged=(replace(point(4, 1, 100_000_000), n=300), replace(point(2, 6, 50_000_000), n=300)),
        chosen=("layer.0", "layer.1"),
        verdict="KEPT: 2 layers",
        sensitivities=(Sensitivity(("layer.0",), 50, 3, 0.25, 90_000_000),),
        baselines={"torch": {1: Latency(6.0, 5.0, 7.0)}},
        machine="a CPU",
    )


def test_a_point_says_what_the_audit_says():
    logits = np.eye(2)[[0, 1] * (N // 2)]
    ids = [str(index) for index in range(N)]
    reference = Predictions(logits, [0, 1] * (N // 2), ids, ["no", "yes"])
    other = Predictions(np.vstack([logits[:3, ::-1], logits[3:]]), [-100] * N, ids, ["no", "yes"])
    found = audit(reference, other, limits={"mismatch_rate": 0.02, "nfr": 0.9})
    made = Point.of(found, kept=["a"], size_bytes=7)
    assert (made.n, made.mismatches, made.mismatch_rate) == (N, 3, 3 / N)
    assert made.mismatch_rate_interval == wilson_interval(3, N)
    assert made.limits == found.limits
    assert not made.passed
    assert made.kept == ("a",)


def test_undominated_points_are_those_that_no_other_beats():
    rng = random.Random(0)
    points = [point(0, rng.randrange(20), rng.randrange(20)) for _ in range(60)]

    def beaten(one):
        ours = (one.mismatches, one.size_bytes)
        theirs = {(other.mismatches, other.size_bytes) for other in points} - {ours}
        return any(k <= ours[0] and size <= ours[1] for k, size in theirs)

    found = undominated(points)
    values = [(one.mismatches, one.size_bytes) for one in found]
    assert set(values) == {(one.mismatches, one.size_bytes) for one in points if not beaten(one)}
    assert len(values) == len(set(values))
    assert [one.size_bytes for one in found] == sorted(one.size_bytes for one in found)


def test_a_saved_frontier_is_read_back_whole(frontier, tmp_path):
    frontier.save(tmp_path / "frontier.json")
    assert Frontier.load(tmp_path / "frontier.json") == frontier
    stored = json.loads((tmp_path / "frontier.json").read_text())
    assert [row["passed"] for row in stored["points"]] == [False, True, True]
    assert [row["passed"] for row in stored["judged"]] == [True, False]
    assert stored["points"][0]["latency"]["8"]["median_ms"] == 9.0


def test_the_chosen_point_is_found_by_its_layers(frontier):
    assert frontier.chosen_point is frontier.points[2]
    assert (frontier.n_searched, frontier.n_judged) == (N, 300)


@pytest.mark.parametrize("name", ["points", "judged"])
def test_a_chosen_file_that_was_not_measured_is_refused(frontier, name):
    with pytest.raises(ValueError, match=f"chosen must name the layers that one of the files in {name} keeps."):
        replace(frontier, **{name: getattr(frontier, name)[:1]})


def test_rows_show_the_files_by_size_and_mark_the_chosen_one(frontier):
    table = frontier_table(frontier)
    assert [list(table.columns), *table.rows] == [
        ["in float", "searched", "judged", "mismatch_rate bound", "MB", "ms, batch 1", "ms, batch 8", ""],
        ["torch", "", "", "", "", "6.0 (5.0 to 7.0)", "-", ""],
        ["0 layers", "9 of 200", "-", "-", "25.0", "2.0 (1.0 to 3.0)", "9.0 (8.0 to 10.0)", ""],
        ["2 layers", "4 of 200", "6 of 300", "5.83 %", "50.0", "3.0 (2.0 to 4.0)", "-", "<- chosen"],
        ["4 layers", "0 of 200", "1 of 300", "2.35 %", "100.0", "-", "-", ""],
    ]


def test_a_chosen_file_that_is_dominated_is_shown_all_the_same():
    points = (point(0, 9, 10), point(2, 4, 50), point(1, 3, 20))
    rows = frontier_table(Frontier(points, points[1:2], ("layer.0", "layer.1"), "")).rows
    assert [row[0] for row in rows] == ["0 layers", "1 layer", "2 layers"]
    assert [row[-1] for row in rows] == ["", "", "<- chosen"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[", "is not a JSON file"),
        ("[]", "is JSON, but not that of a frontier. Write it with Frontier.save"),
        ('{"kind": "hf_compalign.audit"}', "is JSON, but not that of a frontier"),
        ('{"kind": "hf_compalign.frontier", "format_version": 99}', "has format version 99.*Upgrade hf_compalign"),
    ],
)
def test_another_file_is_refused(tmp_path, text, message):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        Frontier.load(tmp_path / "x.json")
