"""The figures: what they draw, where."""

import json
import math
import re
import sys

import numpy as np
import pytest
import report_data
from plotted import HOSTILE, POINTS, class_row, estimate, figures, group_row, point, record

from hf_compalign.measure.attribution import compared_with
from hf_compalign.measure.audit import audit
from hf_compalign.measure.footprint import Latency
from hf_compalign.measure.predictions import Predictions
from hf_compalign.measure.statistics import Estimate, wilson_interval
from hf_compalign.report.page import inline_svg, render
from hf_compalign.report.plots import (
    plot_attribution,
    plot_candidates,
    plot_cells,
    plot_classes,
    plot_frontier,
    plot_groups,
    plot_margins,
    plot_reliability,
    plot_strengths,
    shown,
)

pytest.importorskip("matplotlib")


BEYOND = "not shown to be within the limits"


def offsets(panel, label):
    """Where the markers of a kind are."""
    (found,) = [one for one in panel.collections if one.get_label() == label]
    return [tuple(place) for place in found.get_offsets().tolist()]


def test_each_file_is_drawn_at_its_size_and_its_rate():
    (panel,) = plot_frontier(POINTS[2:]).axes
    assert offsets(panel, "within the limits") == [(100.0, 0.0)]
    panel, _ = plot_frontier(POINTS).axes
    assert offsets(panel, "within the limits") == [(50.0, 2.0), (100.0, 0.0)]
    assert offsets(panel, BEYOND) == [(25.0, 4.5)]
    assert {text.get_text() for text in panel.texts} == {"0", "2", "4"}
    assert panel.get_xlabel() == "size of the file (MB)"
    assert panel.get_ylabel() == "answers unlike the reference's (% of 200)"


def test_the_second_panel_holds_what_was_timed_with_the_largest_batch():
    _, panel = plot_frontier(POINTS, torch_latency={8: Latency(20.0, 19.0, 21.0)}).axes
    assert offsets(panel, "within the limits") == [(11.0, 2.0)]
    assert offsets(panel, BEYOND) == [(9.0, 4.5)]
    assert panel.get_xlabel() == "median latency of a batch of 8 (ms)"
    assert [tuple(line.get_xdata()) for line in panel.lines if line.get_linestyle() == ":"] == [(20.0, 20.0)]


def test_the_chosen_file_has_a_ring_and_the_limit_is_a_line():
    figure = plot_frontier(POINTS, chosen=POINTS[1].kept, limit=0.05)
    for panel, x in zip(figure.axes, (50.0, 11.0), strict=True):
        assert offsets(panel, "chosen") == [(x, 2.0)]
        limits = [line for line in panel.lines if line.get_label().startswith("limit 5 %")]
        assert [tuple(line.get_ydata()) for line in limits] == [(5.0, 5.0)]


def test_intervals_are_drawn_whole():
    from matplotlib.collections import LineCollection

    panel = plot_frontier(POINTS[:1]).axes[0]
    (bars,) = [one for one in panel.collections if isinstance(one, LineCollection)]
    (segment,) = bars.get_segments()
    assert segment[:, 1].tolist() == pytest.approx([100 * end for end in POINTS[0].mismatch_rate_interval])


def test_files_that_others_beat_bear_no_number_unless_chosen():
    beaten = point(3, 9, 60_000_000)
    drawn = [plot_frontier([*POINTS, beaten], chosen=kept) for kept in (None, beaten.kept)]
    texts = [[text.get_text() for text in figure.axes[0].texts] for figure in drawn]
    assert texts == [["0", "2", "4"], ["0", "2", "4", "3"]]


def test_nothing_is_not_plotted():
    with pytest.raises(ValueError, match="There is nothing to plot. Give at least one measured file."):
        plot_frontier([])


def dots(panel, label):
    """The x of the dots of a kind, by row from the top."""
    return [x for x, _ in sorted(offsets(panel, label), key=lambda place: place[1])]


def lines(panel):
    """The ends along x of the horizontal lines, by row from the top."""
    from matplotlib.collections import LineCollection

    found = [one.get_segments() for one in panel.collections if isinstance(one, LineCollection)]
    ends = [(segment[0][1], tuple(segment[:, 0])) for segments in found for segment in segments]
    return [along for _, along in sorted(ends)]


def names(panel):
    return [label.get_text() for label in panel.get_yticklabels()]


def legend_of(figure):
    return {text.get_text() for text in figure.legends[0].get_texts()}


def percents(interval):
    return pytest.approx([100 * end for end in interval])


GAP = "largest gap 6.0 points (with 95 % confidence at most 9.0);\npermutation test of all groups, by size: p = 0.002"
EMPTY = dict.fromkeys(("both_right", "lost", "gained", "same_wrong", "different_wrong"), 0)
MISMATCHES, LOST = "answered differently (mismatch rate)", "right before, wrong now (NFR)"


def bars(panel, bottom):
    """The name, left and width of the parts of a bar, from the left."""
    parts = [(one.get_label(), one.patches[0]) for one in panel.containers]
    found = [(label, part.get_x(), part.get_width()) for label, part in parts if part.get_y() == bottom]
    return sorted(found, key=lambda part: part[1])


def test_the_cells_fill_a_bar_by_their_shares_and_the_changed_ones_a_second_and_are_counted_beside():
    (panel,) = plot_cells(record()).axes
    whole, enlarged = bars(panel, 2.0), bars(panel, 0.75)
    assert [name for name, *_ in whole] == ["both_right", "same_wrong", "lost", "different_wrong", "gained"]
    # Gained and different_wrong, 0.9 and 1.0 % of the items, are widened to 1.2 %, and all shrink to make room.
    total = 0.9 + 0.064 + 0.017 + 2 * 0.012
    assert [width for *_, width in whole] == pytest.approx([part / total for part in (0.9, 0.064, 0.017, 0.012, 0.012)])
    assert [name for name, *_ in enlarged] == ["lost", "different_wrong", "gained"]
    assert [width for *_, width in enlarged] == pytest.approx([17 / 36, 10 / 36, 9 / 36])
    for parts in (whole, enlarged):
        assert parts[0][1] == 0.0
        assert parts[-1][1] + parts[-1][2] == pytest.approx(1.0)
    texts = [text.get_text() for text in panel.texts]
    assert [texts[start : start + 3] for start in range(0, len(texts), 3)] == [
        ["both right", "900", "90.00 %"],
        ["both wrong, same answer", "64", "6.40 %"],
        ["lost: right before, wrong now", "17", "1.70 %"],
        ["both wrong, different answers", "10", "1.00 %"],
        ["gained: wrong before, right now", "9", "0.90 %"],
    ]
    assert panel.get_title(loc="left") == "1,000 items: 36 answered differently (3.60 %)"


def test_the_cells_of_a_model_against_itself_have_no_second_bar():
    (panel,) = plot_cells(record(n=8, cie=0, cells=EMPTY | {"both_right": 5})).axes
    assert bars(panel, 2.0) == [("both_right", 0.0, 1.0)]
    assert bars(panel, 0.75) == []
    assert panel.get_title(loc="left") == "5 labeled items of 8: 0 answered differently (0.00 %)"


@pytest.mark.parametrize("cells", [None, EMPTY | {"lost": 1}])
def test_one_item_is_one_item(cells):
    (panel,) = plot_cells(record(n=1, cie=1, cells=cells)).axes
    assert panel.get_title(loc="left") == "1 item: 1 answered differently (100.00 %)"


def test_without_labels_there_are_two_cells():
    (panel,) = plot_cells(record(cells=None)).axes
    same, different = pytest.approx(0.964), pytest.approx(0.036)
    assert bars(panel, 2.0) == [("same_answer", 0.0, same), ("different_answer", same, different)]


def test_classes_are_sorted_by_what_is_sure_of_their_harm_and_have_both_intervals():
    figure = plot_classes(record())
    (panel,) = figure.axes
    assert names(panel) == ["yes (n = 600)", "no (n = 400)"]  # the empty class has nothing to show
    assert dots(panel, MISMATCHES) == pytest.approx([5.0, 1.5])
    assert dots(panel, LOST) == pytest.approx([2.0, 1.25])
    found = lines(panel)
    assert found[0] == percents(wilson_interval(30, 600))
    assert found[1] == percents(wilson_interval(12, 600))
    assert found[2] == percents(wilson_interval(6, 400))
    assert found[3] == percents(wilson_interval(5, 400))
    assert panel.get_ylim()[0] > panel.get_ylim()[1]  # the first row is at the top
    assert "mismatch rate of all items: 3.60 %" in legend_of(figure)


def test_the_most_harmed_of_many_classes_are_shown_and_one_of_two_items_does_not_lead():
    rows = [class_row(0, "tiny", 2, 1, 1), class_row(1, "many", 1000, 300, 200), class_row(2, "same", 1000, 500, 0)]
    (panel,) = plot_classes(record(per_class=rows)).axes
    assert names(panel)[2:] == ["same (n = 1,000)"]  # nothing was lost
    assert names(panel)[:2] == ["many (n = 1,000)", "tiny (n = 2)"]
    rows = [class_row(label, f"c{label}", 1000, label // 2, 0) for label in range(1000)]
    (panel,) = plot_classes(record(per_class=rows)).axes
    assert (names(panel)[::24], len(names(panel))) == (["c998 (n = 1,000)", "c974 (n = 1,000)"], 25)
    assert "975 of 1,000 classes with items are left out: the least harmed" in panel.get_xlabel()


def test_no_text_leaves_the_figure_of_many_long_names():
    from matplotlib.text import Text

    names = [f"balance_not_updated_after_bank_transfer_{label}" for label in range(77)]
    moves = [{"reference": label, "candidate": 76 - label, "n": 9, "lost": 5, "gained": 2} for label in range(30)]
    groups = [group_row("intent", name, 100 + label, 9, 4, p=0.01) for label, name in enumerate(names)]
    classes = [class_row(label, name, 1000, 30, 10) for label, name in enumerate(names)]
    found = record(per_class=classes, label_names=names, changes=moves, groups=groups, gaps=[])
    for figure in [*figures(found), *figures(found | {"changes": moves[:6]})]:
        figure.draw_without_rendering()
        # The numbers of an axis beyond its ends are not drawn.
        texts = [one for one in figure.findobj(Text) if re.search("[a-z]", one.get_text())]
        inside = figure.bbox.padded(1)
        boxes = {one.get_text(): one.get_window_extent() for one in texts}
        assert [text for text, box in boxes.items() if box.x0 < inside.x0 or box.x1 > inside.x1] == []


def test_groups_have_a_panel_for_each_attribute():
    figure = plot_groups(record())
    target, length = figure.axes
    assert names(target) == ["islam (n = 300) *", "few (n = 10)", "women (n = 500)"]
    assert names(length) == ["12 to 30 (n = 400)", "1 to 12 (n = 600)"]
    assert target.get_title(loc="left") == f"target\n{GAP}"
    assert length.get_title(loc="left") == "length"
    assert lines(target)[4] == percents(wilson_interval(10, 500))
    assert legend_of(figure) == {MISMATCHES, LOST, "mismatch rate of all items: 3.60 %"}


def test_small_groups_are_hollow_and_it_is_said_why():
    (panel,) = plot_groups(record(), attribute="target").axes
    hollow = [
        one.get_offsets().tolist()
        for one in panel.collections
        if hasattr(one, "get_sizes") and not len(one.get_facecolors())
    ]
    assert sorted(place for places in hollow for place in places) == [[10.0, 0.83], [10.0, 1.17]]
    assert "hollow: fewer than 30 items, out of the verdict" in panel.get_xlabel()
    assert "* unlike the items outside the group (p < 0.05 after Holm)" in panel.get_xlabel()
    (panel,) = plot_groups(record(), attribute="length").axes
    assert panel.get_xlabel() == "% of the group's items, with 95 % interval"


def test_long_names_push_no_title_out_of_the_figure_and_no_marker_at_0_onto_a_name():
    found = record()
    for row in found["groups"]:
        row |= {"attribute": "WWWWWa long attribute of many letters", "group": row["group"] + " of a long name" * 3}
    found["gaps"][0]["attribute"] = found["groups"][0]["attribute"]
    found["groups"][0] |= {"mismatch_rate": 0.0}
    figure = plot_groups(found)
    figure.draw_without_rendering()
    (panel,) = figure.axes
    assert panel._left_title.get_window_extent().x1 <= figure.bbox.x1
    middle = panel.transData.transform((0, 0))[0]
    radius = np.sqrt(38) / 2 * figure.dpi / 72
    assert max(label.get_window_extent().x1 for label in panel.get_yticklabels()) < middle - radius


def test_reliability_is_drawn_where_there_are_items():
    figure = plot_reliability(record())
    curve, counts = figure.axes
    diagonal, reference, candidate = curve.lines
    assert list(diagonal.get_xdata()) == list(diagonal.get_ydata()) == [0, 100]
    assert list(reference.get_xdata()) == list(candidate.get_xdata()) == [37.5, 62.5, 87.5]
    assert list(reference.get_ydata()) == pytest.approx([40.0, 100 * 19 / 30, 100 * 52 / 60])
    assert list(candidate.get_ydata()) == pytest.approx([30.0, 100 * 16 / 30, 100 * 46 / 60])
    assert curve.collections[0].get_segments()[0][:, 1].tolist() == percents(wilson_interval(4, 10))
    assert [patch.get_height() for patch in counts.patches] == [0, 10, 30, 60] * 2
    assert "candidate: calibration error (ECE) 5.00 %, change +3.00 points (+1.00 to +5.00)" in legend_of(figure)


def test_margins_are_bars_with_the_edges_told_apart():
    (panel,) = plot_margins(record()).axes
    assert [patch.get_height() for patch in panel.patches] == [20.0, 3.0, 0.0]
    assert [label.get_text() for label in panel.get_xticklabels()] == ["0.0000", "0.9000", "0.9991", "0.9994"]
    (intervals,) = panel.collections
    assert intervals.get_segments()[1][:, 1].tolist() == percents(wilson_interval(3, 100))
    assert panel.get_xlabel().endswith("100 items a bar")


def test_attributions_stand_beside_their_floor_and_their_repeat():
    (panel,) = plot_attribution(record()).axes
    assert names(panel) == ["cosine", "Spearman", "top-5 overlap", "weighted Jaccard"]
    assert dots(panel, "same answer (30 items)") == [0.8] * 4
    assert dots(panel, "different answers (9 items)") == [0.4] * 4
    assert dots(panel, "floor") == [0.1] * 4
    assert dots(panel, "repeat") == [0.95] * 4
    assert lines(panel)[0] == pytest.approx((0.78, 0.82))
    assert len(lines(panel)) == 16
    words = "floor: {floor} repeat: {repeat}".format_map(compared_with(record()["attribution"]))
    assert " ".join(panel.get_xlabel().split()).endswith(words)


@pytest.mark.parametrize("name", ["{top_k.__class__}", "{nothing}", "$x$"])
def test_a_name_of_a_similarity_is_not_a_format(name):
    found = record()
    found["attribution"]["rows"][0]["similarity"] = name
    assert names(plot_attribution(found).axes[0])[0] == name


def test_a_similarity_without_mismatches_is_drawn_without_them():
    found = record()
    for row in found["attribution"]["rows"]:
        row["mismatches"] = estimate(math.nan)
    figure = plot_attribution(found)
    (panel,) = figure.axes
    assert legend_of(figure) == {"same answer (30 items)", "floor", "repeat"}
    assert len(lines(panel)) == 12


def candidate(name, mismatches, **other):
    interval = wilson_interval(mismatches, 1000)
    about = {"model": name, "model_fingerprint": ""}
    return record(candidate=about, mismatch_rate=mismatches / 1000, mismatch_rate_interval=interval, **other)


def test_candidates_are_numbered_as_they_are_given():
    judged = {"limits": [{}], "passed": False}
    others = candidate("int8", 10, latency=None, limits=[{}]), candidate("free", 20)
    named, size, latency = plot_candidates([candidate("ce", 50, **judged), *others]).axes
    assert names(named) == ["1. ce", "2. int8", "3. free"]
    assert dots(named, "within the limits") == [1.0]
    assert dots(named, BEYOND) == [5.0]
    assert dots(named, "no limit was set") == [2.0]
    assert lines(named) == [percents(wilson_interval(k, 1000)) for k in (50, 10, 20)]
    places = {text.get_text(): text.xy for text in size.texts}
    assert places == {"1": (45.0, 5.0), "2": (45.0, 1.0), "3": (45.0, 2.0)}
    assert {text.get_text(): text.xy for text in latency.texts} == {"1": (12.0, 5.0), "3": (12.0, 2.0)}
    assert (size.get_xlabel(), latency.get_xlabel()) == ("size (MB)", "latency (ms)\nnot known of 2")
    assert [tuple(line.get_xdata()) for line in size.lines] == [(90.0, 90.0)]
    assert [tuple(line.get_xdata()) for line in latency.lines] == [(20.0, 20.0)]


def test_candidates_without_costs_have_rates_and_names_that_are_told_apart():
    unknown = {"size_bytes": None, "latency": None}
    figure = plot_candidates({"b": candidate("x", 50, **unknown), "a": candidate("x", 10, **unknown)})
    assert [names(panel) for panel in figure.axes] == [["1. b", "2. a"]]
    assert legend_of(figure) == {"no limit was set"}
    (panel, *_) = plot_candidates([candidate("x", 50), candidate("x", 10), candidate("", 20)]).axes
    assert names(panel) == ["1. x (1)", "2. x (2)", "3. unnamed"]


def test_names_are_drawn_as_they_are_but_on_one_line(recwarn):
    found = record()
    found["per_class"][0]["name"] = HOSTILE
    found["groups"][0] |= {"group": HOSTILE, "attribute": HOSTILE}
    found["gaps"][0]["attribute"] = HOSTILE
    found["candidate"]["model"] = HOSTILE
    expected = "$\\frac{x$ %s <script>alert(1)</…"
    drawn = []
    for figure in figures(found):
        figure.draw_without_rendering()
        drawn += [label for panel in figure.axes for label in (*names(panel), panel.get_title(loc="left"))]
    assert f"{expected} (n = 400)" in drawn
    assert f"{expected} (n = 500)" in drawn
    assert f"{expected} {' '.join(GAP.split())}" in [" ".join(title.split()) for title in drawn]
    assert f"1. {expected} (1)" in drawn
    assert not recwarn.list


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("  two\r\n\tlines ", "two lines"),
        ("\u202eright\u2066 to left", "[U+202E]right[U+2066] to left"),
        ("a\x00b\x1bc", "a[U+0000]b[U+001B]c"),
        ("half \ud83d of a pair", "half [U+D83D] of a pair"),
        ("no letter \uffff", "no letter \ufffd"),
        ("x" * 33, "x" * 31 + "…"),
        ("x" * 32, "x" * 32),
        (7, "7"),
    ],
)
def test_a_name_becomes_one_clean_line(name, expected):
    assert shown(name) == expected


def test_an_audit_is_read_with_null_for_nan_too_and_from_what_has_a_to_dict():
    class Audited:
        def to_dict(self):
            return found

    found = record()
    found["groups"][0]["nfr"] = math.nan
    found["groups"][0]["nfr_interval"] = [math.nan, math.nan]
    stored = json.loads(json.dumps(found).replace("NaN", "null"))
    for one, other in zip(figures(Audited()), figures(stored), strict=True):
        assert inline_svg(one, label="x") == inline_svg(other, label="x")
    with pytest.raises(TypeError, match=r"A figure is drawn of an Audit or of its to_dict\(\). Got str."):
        plot_cells("audit.json")


@pytest.mark.parametrize(
    ("plot", "without", "message"),
    [
        (plot_cells, {"n": 0}, "This audit has no items. Audit at least one."),
        (plot_classes, {"per_class": []}, "This audit has no classes, since no item has a label. Predict on a"),
        (plot_groups, {"groups": []}, "This audit has no groups. Give groups= to audit."),
        (plot_reliability, {"calibration": None}, "This audit has no calibration, since no item has a label. Predict"),
        (plot_margins, {"margins": []}, "This audit has no margins. Audit the logits of the two models again"),
        (plot_attribution, {"attribution": None}, "This audit has no attribution. Audit two models of PyTorch with"),
    ],
)
def test_what_an_audit_does_not_have_is_not_plotted(plot, without, message):
    with pytest.raises(ValueError, match=message):
        plot(record(**without))


def test_an_unknown_attribute_is_refused_with_the_known_ones():
    message = r"no groups by 'targets'. It has groups by 'target', 'length'. Did you mean 'target'\?"
    with pytest.raises(ValueError, match=message):
        plot_groups(record(), attribute="targets")
    with pytest.raises(ValueError, match="There is nothing to plot. Give at least one audit."):
        plot_candidates([])


def test_the_style_of_the_session_neither_shows_nor_changes():
    import matplotlib
    from matplotlib import style

    with style.context("dark_background"):
        before = dict(matplotlib.rcParams)
        figure = plot_cells(record())
        assert dict(matplotlib.rcParams) == before
    assert figure.get_facecolor() == (1.0, 1.0, 1.0, 1.0)
    assert figure.axes[0].texts[0].get_color() == "black"


def real_audit(*, n=60, labels=True, same=False):
    rng = np.random.default_rng(0)
    logits, truth = rng.normal(size=(n, 3)), rng.integers(0, 3, n) if labels else np.full(n, -100)
    ids, names = [str(item) for item in range(n)], ["a", "b", "c"]
    reference = Predictions(logits, truth, ids, names)
    other = reference if same else Predictions(logits + rng.normal(size=(n, 3)) / 2, truth, ids, names)
    return audit(reference, other, groups={"half": ["x" if item % 2 else "y" for item in range(n)]})


@pytest.mark.parametrize("settings", [{}, {"labels": False}, {"same": True}, {"n": 1}, {"n": 1, "labels": False}])
def test_what_audit_returns_is_drawn(settings, recwarn):
    found = real_audit(**settings)
    plots = [plot_cells, plot_groups, plot_margins]
    if settings.get("labels", True):
        plots += [plot_classes, plot_reliability]
    for figure in (*(plot(found) for plot in plots), plot_candidates([found])):
        figure.draw_without_rendering()
    assert not recwarn.list


def test_without_matplotlib_the_error_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    for drawn, of in ((plot_frontier, POINTS), (render, [report_data.same_audit()])):
        with pytest.raises(ImportError, match=r"A figure needs .* pip install 'hf-compalign\[report\]'"):
            drawn(of)


# ---- ways to compress, by strength ----


def strengths(names=("CE", "aligned")):
    rates = {
        name: {0.5: Estimate(0.02 / i, 0.01 / i, 0.03 / i), 0.8: Estimate(0.04, 0.03, 0.05)}
        for i, name in enumerate(names, 1)
    }
    ratios = {0.5: Estimate(2.0, 0.4, math.inf), 0.8: Estimate(math.inf, 7.0, math.inf)}
    return plot_strengths(rates, {names[-1]: ratios}, n_items=1797, strength="pruned weights", baseline=names[0])


def test_each_way_has_a_curve_over_the_strengths_in_percent():
    left, right = strengths().axes
    curves = {line.get_label(): line.get_ydata() for line in left.lines}
    assert curves == {"CE": pytest.approx([2.0, 4.0]), "aligned": pytest.approx([1.0, 4.0])}
    assert [text.get_text() for text in left.get_xticklabels()] == ["50", "80"]
    assert left.get_ylabel() == "answers unlike the reference's (% of 1,797)"
    # Side by side, so that no interval hides another.
    assert len({line.get_xdata()[0] for line in left.lines}) == 2
    assert right.get_ylabel() == "times fewer than CE"


def test_a_ratio_to_nothing_stands_at_its_lower_end():
    from matplotlib.collections import PathCollection

    _, right = strengths().axes
    (drawn,) = [line for line in right.lines if line.get_label() == "aligned"]
    assert [*drawn.get_ydata()] == [2.0]
    (triangle,) = [one for one in right.collections if isinstance(one, PathCollection)]
    assert triangle.get_offsets()[0][1] == 7.0
    low, high = right.get_ylim()
    assert low < 0.4
    assert high > 7


def test_more_ways_than_can_be_told_apart_are_refused():
    with pytest.raises(ValueError, match="A figure shows 1 to 4 ways to compress. Got 5"):
        strengths([*"abcde"])
