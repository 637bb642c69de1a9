"""The figures: what they draw, where."""

import builtins

import pytest
from test_frontier import point

from hf_compalign.measure.latency import Latency
from hf_compalign.report.plots import plot_frontier

pytest.importorskip("matplotlib")

POINTS = [point(0, 9, 25_000_000, b1=2.0, b8=9.0), point(2, 4, 50_000_000, b1=3.0, b8=11.0), point(4, 0, 100_000_000)]


def offsets(panel, label):
    """Where the markers of a kind are."""
    (found,) = [one for one in panel.collections if one.get_label() == label]
    return [tuple(place) for place in found.get_offsets().tolist()]


def test_each_file_is_drawn_at_its_size_and_its_rate():
    (panel,) = plot_frontier(POINTS[2:]).axes
    assert offsets(panel, "within the limits") == [(100.0, 0.0)]
    panel, _ = plot_frontier(POINTS).axes
    assert offsets(panel, "within the limits") == [(50.0, 2.0), (100.0, 0.0)]
    assert offsets(panel, "beyond a limit") == [(25.0, 4.5)]
    assert {text.get_text() for text in panel.texts} == {"0", "2", "4"}
    assert panel.get_xlabel() == "size of the file (MB)"
    assert panel.get_ylabel() == "answers unlike the reference's (% of 200)"


def test_the_second_panel_holds_what_was_timed_with_the_largest_batch():
    _, panel = plot_frontier(POINTS, torch_latency={8: Latency(20.0, 19.0, 21.0)}).axes
    assert offsets(panel, "within the limits") == [(11.0, 2.0)]
    assert offsets(panel, "beyond a limit") == [(9.0, 4.5)]
    assert panel.get_xlabel() == "median latency of a batch of 8 (ms)"
    assert [tuple(line.get_xdata()) for line in panel.lines if line.get_linestyle() == ":"] == [(20.0, 20.0)]


def test_the_chosen_file_has_a_ring_and_the_limit_is_a_line():
    figure = plot_frontier(POINTS, chosen=POINTS[1].kept, limit=0.05)
    for panel, x in zip(figure.axes, (50.0, 11.0), strict=True):
        assert offsets(panel, "chosen") == [(x, 2.0)]
        assert [tuple(line.get_ydata()) for line in panel.lines if line.get_label().startswith("limit 5 %")] == [
            (5.0, 5.0)
        ]


def test_intervals_are_drawn_whole():
    panel = plot_frontier(POINTS[:1]).axes[0]
    (bars,) = [one for container in panel.containers for one in container.lines[2]]
    (segment,) = bars.get_segments()
    assert segment[:, 1].tolist() == pytest.approx([100 * end for end in POINTS[0].mismatch_rate_interval])


def test_nothing_is_not_plotted():
    with pytest.raises(ValueError, match="There is nothing to plot. Give at least one measured file."):
        plot_frontier([])


def test_without_matplotlib_the_error_says_how_to_install_it(monkeypatch):
    real = builtins.__import__

    def broken(name, *args, **kwargs):
        if name.startswith("matplotlib"):
            raise ImportError("No module named 'matplotlib'")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", broken)
    with pytest.raises(ImportError, match=r"A figure needs .* pip install 'hf-compalign\[report\]'"):
        plot_frontier(POINTS)
