"""Figures as inline SVG: what a page's policy allows, in its colors, the same every time."""

import re
from xml.etree import ElementTree

import pytest
from plotted import HOSTILE, POINTS, class_row, figures, record

from hf_compalign.report.page import inline_svg
from hf_compalign.report.plots import plot_cells, plot_classes, plot_frontier

pytest.importorskip("matplotlib")

SVG = "{http://www.w3.org/2000/svg}"
LABEL = "A chart"


@pytest.fixture(scope="module")
def charts():
    """One of each kind, as text and as XML."""
    all_figures = [*figures(record()), plot_frontier(POINTS, chosen=POINTS[1].kept, limit=0.05)]
    texts = [inline_svg(figure, label=LABEL) for figure in all_figures]
    return [(text, ElementTree.fromstring(text)) for text in texts]


def ids(root):
    return [element.attrib["id"] for element in root.iter() if "id" in element.attrib]


def referred(text):
    return {*re.findall(r'href="#([^"]+)"', text), *re.findall(r"url\(#([^)]+)\)", text)}


def words(root):
    return ["".join(element.itertext()) for element in root.iter(f"{SVG}text")]


def test_each_chart_is_one_labeled_image(charts):
    for text, root in charts:
        assert text.startswith("<svg ")  # neither an XML declaration nor a document type, which HTML would not take
        assert root.tag == f"{SVG}svg"
        assert (root.attrib["role"], root.attrib["aria-label"]) == ("img", LABEL)
        assert float(root.attrib["width"].removesuffix("pt")) == float(root.attrib["viewBox"].split()[2])


def test_nothing_is_there_that_a_strict_policy_forbids_or_that_is_loaded(charts):
    allowed = {"svg", "g", "defs", "path", "use", "clipPath", "rect", "pattern", "text"}
    for text, root in charts:
        assert {element.tag.removeprefix(SVG) for element in root.iter()} <= allowed
        names = {name for element in root.iter() for name in element.attrib}
        assert "style" not in names
        assert not [name for name in names if name.startswith(("on", "{"))]  # no handlers, no xlink:
        assert all(value.startswith("#") for value in re.findall(r'href="([^"]*)"', text))
        assert re.findall(r"url\((?!#)", text) == []
        assert re.findall('https?:[^" ]*', text) == ["http://www.w3.org/2000/svg"]


def test_what_is_black_has_the_color_of_the_page_and_data_keep_theirs(charts):
    for text, root in charts:
        assert root.attrib["fill"] == "currentColor"
        assert not re.search(r'"(#000000|black|#ffffff|white)"', text)
        assert not [element for element in root.iter(f"{SVG}text") if "fill" in element.attrib]
        assert 'stroke="currentColor"' in text
        colors = set(re.findall(r'"(#[0-9a-f]{6})"', text))
        assert colors
        assert colors <= {"#0072b2", "#d55e00", "#009e73", "#e69f00", "#56b4e9", "#999999"}


def test_ids_are_there_for_what_refers_to_them_and_differ_between_charts(charts):
    for text, root in charts:
        assert len(ids(root)) == len(set(ids(root)))
        assert set(ids(root)) == referred(text)
    of_all = [one for _, root in charts for one in ids(root)]
    assert len(of_all) == len(set(of_all))


def test_a_label_of_its_own_keeps_two_equal_charts_apart():
    first, second = (ElementTree.fromstring(inline_svg(plot_cells(record()), label=label)) for label in ("a", "b"))
    assert ids(first)
    assert not {*ids(first)} & {*ids(second)}


def test_a_chart_made_anew_is_the_same_to_the_byte(charts):
    assert [inline_svg(figure, label=LABEL) for figure in figures(record())] == [text for text, _ in charts[:-1]]


def test_text_stays_text(charts):
    found = words(charts[1][1])
    assert {"yes (n = 600)", "no (n = 400)", "answered differently (mismatch rate)"} <= {*found}
    sizes = {element.attrib["font-size"] for element in charts[1][1].iter(f"{SVG}text")}
    assert sizes <= {"9px", "10px"}
    assert not [element for element in charts[1][1].iter(f"{SVG}text") if "font-family" in element.attrib]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (HOSTILE, r"$\frac{x$ %s <script>alert(1)</…"),
        ('"><img src=x onerror=alert(1)>', '"><img src=x onerror=alert(1)>'),
        ("{{ 7 * 7 }} &lt; ]]>", "{{ 7 * 7 }} &lt; ]]>"),
        ("\u202egnp.exe\x00\ud83d", "[U+202E]gnp.exe[U+0000][U+D83D]"),
        ("中文 \U0001f600", "中文 \U0001f600"),
    ],
)
def test_hostile_names_are_text_and_nothing_else(name, expected, recwarn):
    label = f"Of {name}"
    text = inline_svg(plot_classes(record(per_class=[class_row(0, name, 100, 5, 1)])), label=label)
    root = ElementTree.fromstring(text)
    assert f"{expected} (n = 100)" in words(root)
    assert "<script" not in text
    assert "<img" not in text
    assert root.attrib["aria-label"].split() == re.sub("[\x00\ud83d]", "", label).split()
    assert not recwarn.list


def test_any_figure_can_be_inlined_whatever_is_in_it():
    from matplotlib.figure import Figure

    figure = Figure()
    panel = figure.subplots()
    panel.set_title("one\x0btwo")
    panel.set_xscale("log")  # its labels are formulas
    panel.set_xlim(1, 100)
    panel.plot([1, 100], [0, 1], color="white", url="https://example.org/", gid="mine")
    text = inline_svg(figure, label="x")
    root = ElementTree.fromstring(text)
    assert "onetwo" in words(root)
    assert "example.org" not in text
    assert "mine" not in text
    assert any("10" in word for word in words(root))
    assert figure.get_facecolor() == (1.0, 1.0, 1.0, 1.0)  # transparent in the page only


def test_a_figure_without_words_for_it_is_refused():
    with pytest.raises(ValueError, match="A figure in a page needs a label that says what it shows"):
        inline_svg(plot_cells(record()), label=" ")
