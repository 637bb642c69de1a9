"""The report page, read without a browser: what it says, what it lets run, and what it makes of hostile text."""

import base64
import copy
import hashlib
import json
import math
import re
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pytest
import report_data
from commands import call
from plotted import point

from hf_compalign._tables import Name
from hf_compalign.measure.attribution import compared_with
from hf_compalign.measure.audit import audit, describe, metrics_beside_fields, sections_of
from hf_compalign.measure.predictions import Predictions
from hf_compalign.report.page import TEMPLATES, floor_words, item_rows, links, render, verdict, write_report, written

UNKNOWN = "\N{EN DASH}"
ITEMS = report_data.unlabeled_audit()["items"]
SECTIONS = ["verdict", "answers", "limits", "rerun", "candidates", "costs", "changes", "classes", "groups-1"]
SECTIONS += ["groups-2", "calibration", "margins", "frequencies", "attribution", "items", "about"]


class Page(HTMLParser):
    """Every element with its attributes, and the text of scripts and styles."""

    def __init__(self, html):
        super().__init__()
        self.html, self.elements, self.raw, self.text = html, [], {"script": [], "style": []}, []
        self.inside = ""
        self.feed(html)
        self.words = " ".join(" ".join(self.text).split())

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        self.inside = tag if tag in self.raw else ""
        if self.inside:
            self.raw[tag].append("")

    def handle_data(self, data):
        if self.inside:
            self.raw[self.inside][-1] += data
        else:
            self.text.append(data)

    def handle_endtag(self, tag):
        self.inside = ""

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def data(self):
        return json.loads(self.raw["script"][0])

    def rows_of(self, caption):
        """The rows of the table with this caption, as texts."""
        table = re.search(rf"<caption[^>]*>{re.escape(caption)}.*?</table>", self.html, re.S)[0]
        rows = re.findall(r"<tr>(.*?)</tr>", table.split("<tbody>")[1], re.S)
        return [
            [" ".join(re.sub("<[^>]*>", "", cell).split()) for cell in re.findall(r"<t[hd].*?</t[hd]>", row, re.S)]
            for row in rows
        ]


@pytest.fixture(scope="module")
def found():
    return report_data.text_audit(n=1200, n_items=60)


@pytest.fixture(scope="module")
def page(found):
    return Page(render([found, report_data.text_audit(n=400, name="other", seed=5)]))


@pytest.fixture(scope="module")
def hostile_pages(found):
    """A page of hostile text, and the same of harmless text."""
    plain = [f"harmless {place}" for place in range(len(report_data.HOSTILE))]
    return [Page(render([report_data.hostile(found, texts)], title=texts[0])) for texts in (report_data.HOSTILE, plain)]


@pytest.fixture(scope="module")
def bare():
    """Of an audit without labels, groups, limits, costs and attributions."""
    return Page(render([report_data.unlabeled_audit()]))


def section(found, key):
    """The section of an audit with this key."""
    return next(one for one in sections_of(found) if one.key == key)


def test_every_part_of_an_audit_has_its_section_in_the_contents(page):
    ids = [attributes["id"] for attributes in page.all("section")]
    assert ids == SECTIONS
    links = [attributes["href"] for attributes in page.all("a")]
    to_parts = [link for link in links if link.startswith("#") and "=" not in link]
    assert to_parts[1 : len(ids) + 1] == [f"#{name}" for name in ids]


def test_the_verdict_says_what_fails_and_by_how_much(found, page):
    failed = next(row for row in found["limits"] if not row["passed"])
    assert failed["name"] == "nfr"
    assert 'class="verdict failed"' in page.html
    assert f"The candidate answers {1200 - found['cie']:,} of 1,200 items like the reference" in page.words
    assert "Exceeded the limit on nfr." in page.words
    value, bound = 100 * failed["value"], 100 * failed["upper_bound"]
    words = f"nfr is {value:.2f} %, its upper bound {bound:.2f} %, the limit 3.00 %."
    assert words in page.words.replace("\xa0", " ")


@pytest.mark.parametrize(
    ("limit", "state", "words"),
    [
        (0.5, "passed", "Shown to be within every limit."),
        (0.081, "failed", "so few items cannot show that it would stay there"),
        (None, "none", "No limit was set, so this is no verdict."),
    ],
)
def test_a_verdict_in_words(limit, state, words):
    found = report_data.same_audit() | {"mismatch_rate": 0.08, "mismatch_rate_upper_bound": 0.1}
    if limit is not None:
        found["limits"] = [report_data.limit(found, "mismatch_rate", limit)]
    shown, said = verdict(found)
    assert shown.state == state
    assert words in " ".join(said)


def test_a_passed_verdict_speaks_of_the_bound_that_was_judged():
    found = audited([1] * 10 + [0] * 990, [0] * 1000, limits={"mismatch_rate": 0.0175})
    assert found.passed
    assert found.limits[0].upper_bound < 0.0175 < found.metrics["mismatch_rate_interval"][1]
    words = " ".join(verdict(metrics_beside_fields(found.to_dict()))[1])
    assert "The one-sided 95 % upper bound of each is within it" in words
    assert "interval" not in words


@pytest.mark.parametrize(
    ("limit", "judged"), [(0.5, "✓ within"), (0.07, "✗ not shown to be within"), (0.01, "✗ exceeded")]
)
def test_what_a_limit_does_not_judge_is_said_beside_it_and_in_the_verdict(found, limit, judged):
    row = report_data.limit(found, "mismatch_rate", limit) | {"not_judged": ["tiny"]}
    found = copy.deepcopy(found) | {"limits": [row]}
    assert written(section(found, "limits").tables[0].rows[0][-1]) == f"{judged}; not judged: tiny"
    assert verdict(found)[1][-1].count("not judged: tiny") == 1
    assert "not judged: tiny" in describe(found).splitlines()[1]


@pytest.mark.parametrize(
    ("drop", "bound", "change", "worst"),
    [
        (0.02, 0.03, "-2.00 points", "at worst -3.00 points"),
        (-0.025, 0.01, "+2.50 points", "at worst -1.00 points"),
        (-0.025, -0.01, "+2.50 points", "at worst +1.00 points"),
        (-0.025, math.nan, "+2.50 points", "-"),
    ],
)
def test_a_gain_is_no_negative_drop(found, drop, bound, change, worst):
    gap = found["gaps"][0] | {"worst_group_accuracy_drop": drop, "drop_upper_bound": bound}
    gap |= {"mismatch_gap": 0.021, "upper_bound": 0.034, "p_value": 0.012, "range_p_value": 0.34}
    table = next(one for one in section(found | {"gaps": [gap]}, "groups-1").tables if one.title.startswith("Gaps"))
    assert table.rows[-1][:3] == ("accuracy of the worst group, change", change, worst)
    assert table.rows[0][:4] == ("mismatch rates, all groups by size", "", "", "0.012")
    assert table.rows[1][:4] == ("mismatch rate, gap", "2.10 points", "at most 3.40 points", "0.34")


@pytest.mark.parametrize(("accuracy", "said"), [(0.9, "under-confident"), (0.7, "over-confident"), (0.8, "as sure as")])
def test_it_is_said_whether_a_candidate_is_too_sure_or_not_sure_enough(found, accuracy, said):
    bins = [{"n": 0, "confidence": None, "accuracy": None}, {"n": 5, "confidence": 0.8, "accuracy": accuracy}]
    bins = [one | {"low": 0.0, "high": 1.0} for one in bins]
    sides = {side: found["calibration"][side] | {"bins": bins} for side in ("reference", "candidate")}
    [note] = section(found | {"calibration": found["calibration"] | sides}, "calibration").notes
    both = f"mean confidence 80.00 %, accuracy {100 * accuracy:.2f} %."
    assert re.search(f"On average the candidate is {said}.*: {both}", note)


def test_the_interval_of_a_single_item_is_not_shown(found):
    shown = copy.deepcopy(found["attribution"])
    shown["rows"][0]["mismatches"] = {"value": 0.4, "low": 0.4, "high": 0.4}
    row = section(found | {"attribution": shown}, "attribution").tables[0].rows[0]
    assert row[2:4] == ("0.740 (0.690 to 0.790)", "0.400 (-)")


@pytest.mark.parametrize("explained", [True, False])
def test_where_all_or_no_items_have_an_explanation_none_is_asked_for(found, explained):
    items = [item for item in found["items"] if (item["explanation"] is not None) == explained]
    assert 'name="explained"' not in render([found | {"items": items}])


def test_a_rerun_is_told_apart_only_where_its_test_says_so(found):
    assert floor_words(found["floor"]) == "fewer than the re-run"
    assert floor_words(found["floor"] | {"p_value": 0.06}) == "not to be told apart from the re-run"


def test_names_keep_their_direction_to_themselves(found, page, hostile_pages):
    gap = found["gaps"][0]
    assert f"<bdi>{gap['highest']}</bdi> - <bdi>{gap['lowest']}</bdi>" in page.html
    assert "Timed on <bdi>&lt;script&gt;" in hostile_pages[0].html


def test_numbers_are_typeset_and_names_are_not():
    assert written("difference -2.10 points of well-known, 1e-06, -0.5") == (
        "difference \N{MINUS SIGN}2.10\xa0points of well-known, 1e\N{MINUS SIGN}06, \N{MINUS SIGN}0.5"
    )
    assert written((Name("-1 %"), ": 2.00 %")) == "<bdi>-1 %</bdi>: 2.00\xa0%"
    assert (written("-"), written(Name("-"))) == (UNKNOWN, "<bdi>-</bdi>")


def test_floor_and_repeat_are_what_they_are_everywhere(page, found):
    words = "Floor: the reference against {floor}. Repeat: the reference against {repeat}."
    words = words.format_map(compared_with(found["attribution"]))
    assert words in page.words
    assert words in " ".join(describe(found).split())


@pytest.mark.parametrize(
    ("kind", "method", "floor", "repeat"),
    [
        ("text", "saliency", "with random weights, but for the word embeddings", "with noise on its input"),
        ("text", "layer_integrated_gradients", "with random weights, but for the word", "with another baseline"),
        ("image", "occlusion", "with random weights", "with another baseline"),
        ("image", "saliency", "with random weights", "with noise on its input"),
    ],
)
def test_an_explanation_of_images_does_not_speak_of_words(found, kind, method, floor, repeat):
    found = found | {"attribution": found["attribution"] | {"kind": kind, "method": method}}
    said = compared_with(found["attribution"])
    assert said["floor"].startswith(f"the reference {floor}")
    assert said["repeat"] == f"the reference itself {repeat}"
    notes = " ".join(section(found, "attribution").notes)
    assert ("word" in notes, "token" in notes, "cell of a grid of pixels" in notes) == (
        (True, True, False) if kind == "text" else (False, False, True)
    )


def test_the_numbers_are_those_of_the_audit(found, page):
    rates = {row[0]: row[1:] for row in page.rows_of("Rates")}
    low, high = found["agreement_interval"]
    assert rates["same answer (agreement)"] == [
        f"{found['n'] - found['cie']:,} of 1,200",
        f"{100 * found['agreement']:.2f}\xa0%".replace("\xa0", " "),
        f"{100 * low:.2f} to {100 * high:.2f} %",
        "",
    ]
    cells = {row[0]: row[1] for row in page.rows_of("What became of the items")}
    assert cells["right, now wrong"] == str(found["cells"]["lost"])
    assert sum(map(int, (text.replace(",", "") for text in cells.values()))) == found["n"]


def test_classes_and_groups_come_in_the_order_of_harm_and_lead_to_their_items(found, page):
    lows = {row["name"]: row["nfr_interval"][0] for row in found["per_class"]}
    names = [row[0] for row in page.rows_of("Classes of the labels, most harmed first")]
    assert names == sorted(lows, key=lows.get, reverse=True)
    links = {attributes["href"] for attributes in page.all("a")}
    assert {"#label=0", "#candidate=2", "#group=target%3A+women"} <= links
    assert "few (small)" in [row[0] for row in page.rows_of("Groups, most harmed first")]
    assert "1 group of fewer than 30 items: shown, marked as small, and in no gap and no verdict." in page.words


def test_only_what_is_among_the_items_is_a_link(found):
    few = copy.deepcopy(found)
    few["items"] = few["items"][:1]
    [item] = few["items"]
    for key, column in (("classes", "label"), ("frequencies", "candidate")):
        found_links = [link for table in section(few, key).tables for link in links(table, few) if link]
        assert found_links == [f"#{column}={item[column]}"]
    linked = [link for key in ("groups-1", "groups-2") for one in section(few, key).tables for link in links(one, few)]
    expected = [f"#group={group.replace(': ', '%3A+').replace(' ', '+')}" for group in item["groups"]]
    assert [link for link in linked if link] == expected


def test_several_audits_are_set_side_by_side_without_their_folders(page):
    assert [row[0] for row in page.rows_of("Candidates")] == ["pruned-aligned", "other"]
    assert "The other parts of this page are about the first of them, <bdi>pruned-aligned</bdi>." in page.html
    assert "/home/someone" not in page.html


@pytest.mark.parametrize("what", ["inputs", "reference"])
def test_audits_of_other_inputs_or_another_reference_are_not_set_side_by_side(what):
    def marked(mark):
        reference = {"reference": {"model": "x", "model_fingerprint": mark}}
        return report_data.same_audit() | ({"data_fingerprint": mark} if what == "inputs" else reference)

    first, unknown, other = (marked(mark) for mark in ("dddd", "", "eeee"))
    assert "Candidates" in render([first, unknown])
    with pytest.raises(ValueError, match=rf"Audit 3 \(runs/pruned\) has the {what} eeee, audit 1 has dddd. Audit all"):
        render([first, unknown, other])


def test_a_frontier_has_a_row_for_each_file():
    points = [point(n, mismatches, n * 10**6, limit=0.5) for n, mismatches in ((3, 12), (1, 20), (2, 10), (4, 14))]
    page = Page(render([report_data.same_audit()], frontier=points, chosen=points[0].kept))
    assert [(row[0], row[-1]) for row in page.rows_of("Files")] == [
        *(("1 layer", "undominated"), ("2 layers", "undominated"), ("3 layers", "chosen"), ("4 layers", ""))
    ]
    assert "4 files as the repair measured them, on 200 items; a frontier does not say of which model" in page.words
    assert "<summary>Files, the smallest first</summary>" in page.html


@pytest.mark.parametrize("judged", [200, 40])
def test_a_frontier_says_what_it_was_searched_and_judged_on(judged):
    files = [SimpleNamespace(**vars(point(1, 4, 10**6)) | {"n": 160, "passed": True})]
    page = Page(render([report_data.same_audit()], frontier=files, chosen=files[0].kept, judged=judged))
    assert (
        f"1 file as the repair measured them, on 160 items of its search (it judged on {judged} others);" in page.words
    )
    with pytest.raises(
        ValueError, match=r"on 160 items of its search \(it judged on 160 others\), and no audit here is"
    ):
        render([report_data.same_audit()], frontier=files, judged=160)


def test_no_audit_and_a_frontier_of_other_items_are_refused():
    with pytest.raises(ValueError, match="There is nothing to report. Give at least one audit."):
        render([])
    message = "The frontier was measured on 872 items, and no audit here is of as many: 200. Give the frontier of"
    with pytest.raises(ValueError, match=message):
        render([report_data.same_audit()], frontier=[SimpleNamespace(kept=(), n=872)])


def test_what_is_not_known_is_left_out_and_what_brings_it_is_named(bare):
    ids = [attributes["id"] for attributes in bare.all("section")]
    assert ids == ["verdict", "answers", "changes", "margins", "frequencies", "items", "about"]
    assert "nan" not in bare.words
    for option in ("--label-column", "--limit", "--groups", "--floor", "--attribution", "--latency"):
        assert option in bare.words
    assert [attributes.get("data-key") for attributes in bare.all("th") if "data-key" in attributes] == [
        *("item", "reference", "reference_confidence", "candidate", "candidate_confidence", "reference_margin", "kl")
    ]


def test_a_model_against_itself_has_no_items():
    page = Page(render([report_data.same_audit()]))
    assert "No item changed." in page.words
    assert page.data["items"] == []
    assert "nan" not in page.words


def test_an_audit_of_many_classes_shows_the_most_harmed_and_says_how_many_there_are():
    found = report_data.text_audit(n=3000, n_classes=1000, limits=False)
    assert len(section(found, "classes").tables[0].rows) == 200
    assert re.search(r">Classes of the labels, most harmed first \(200 of 9\d\d\)</summary>", render([found]))


def test_without_javascript_the_first_items_are_there(found, page):
    shown = re.findall(r'<p class="text" dir="auto">(.*?)</p>', page.html)
    assert shown == [item["texts"][0] for item in found["items"][:50]]
    assert "These are the first 50 of 60 items." in page.words


def test_real_audits_are_shown_as_they_are_and_as_dicts():
    found = report_data.made_audit(n=300, n_items=9)
    page = render([found])
    assert page == render([json.loads(found.to_json())])  # with null for nan
    assert len(Page(page).data["items"]) == 9


def test_the_policy_allows_this_style_and_this_script_and_nothing_else(page):
    policy = next(one["content"] for one in page.all("meta") if one.get("http-equiv") == "Content-Security-Policy")
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))

    def hashed(text):
        return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"

    style, (data, script) = page.raw["style"][0], page.raw["script"]
    assert rules == {
        **{"default-src": "'none'", "base-uri": "'none'", "form-action": "'none'", "img-src": "data:"},
        **{"script-src": hashed(script), "style-src": hashed(style)},
        "require-trusted-types-for": "'script'",
    }
    assert json.loads(data)
    assert page.html.index("Content-Security-Policy") < page.html.index("<title>")


def test_nothing_is_loaded_and_nothing_is_inline(page, hostile_pages, bare):
    for one in (page, bare, *hostile_pages):
        for tag, attributes in one.elements:
            assert not [name for name in attributes if name == "style" or name.startswith("on")], (tag, attributes)
            for name in ("href", "src", "action", "data", "poster", "srcset"):
                assert attributes.get(name, "#").startswith(("#", "data:")), (tag, attributes)
        elsewhere = one.html.replace('xmlns="http://www.w3.org/2000/svg"', "")
        assert not re.search(r"(https?:|url\((?!#)|@import)", elsewhere.replace('"http://www.w3.org/2000/svg";', ""))


def test_the_script_never_makes_markup_of_text():
    script = (TEMPLATES / "report.js").read_text()
    banned = ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "Function(", "DOMParser")
    assert [word for word in banned if word in script] == []
    assert "</script" not in script
    assert "</style" not in (TEMPLATES / "report.css").read_text()


def test_hostile_text_makes_no_element_and_no_attribute(hostile_pages):
    hostile, plain = hostile_pages

    def shape(page):
        # Charts and options may differ in what they draw of a name; nothing else may.
        counted = ("script", "style", "img", "a", "iframe", "object", "form", "section", "table", "tr", "td", "link")
        return {tag: len(page.all(tag)) for tag in counted} | {"names": {name for _, a in page.elements for name in a}}

    assert shape(hostile) == shape(plain)
    assert len(hostile.all("script")) == 2


def test_templates_in_the_text_are_text(hostile_pages):
    hostile = hostile_pages[0]
    assert "{{7*7}} {% raw %} {{ config }} ${7*7}" in hostile.words
    assert "49" not in [cell for row in hostile.rows_of("Rates") for cell in row]


def test_the_data_keep_every_text_and_cannot_end_their_element(hostile_pages):
    hostile = hostile_pages[0]
    assert not set("<>&\u2028\u2029") & set(hostile.raw["script"][0])
    texts = [item["texts"][0] for item in hostile.data["items"][: len(report_data.HOSTILE)]]
    assert texts[:10] == list(report_data.HOSTILE[:10])
    assert texts[13:] == list(report_data.HOSTILE[13:])
    # Controls and changes of direction are made visible.
    assert texts[10] == "left [U+202E] right [U+202C] [U+2066] isolate"
    assert texts[11] == "zero [U+0000] one [U+001B] two [U+200B] three [U+2028] four"
    assert texts[12] == "half [U+D83D] a pair"
    assert not re.search("[\x00-\x08\x0b-\x1f\u202a-\u202e\u2066-\u2069\ud800-\udfff]", hostile.html)
    assert hostile.html.encode("utf-8")


@pytest.mark.parametrize(
    "image",
    [
        "https://example.org/pixel.png",
        "data:image/svg+xml;base64,PHN2Zz4=",
        "data:image/png;base64,AAAA\n",
        'data:image/png;base64,AAAA" onerror="window.hacked=1',
        "javascript:window.hacked=1",
    ],
)
def test_only_png_data_is_an_image(image):
    good = report_data.png(np.random.default_rng(0))
    items = [item | {"image": one} for item, one in zip(ITEMS, (image, good), strict=False)]
    assert [item["image"] for item in item_rows({"items": items})] == ["", good]


def test_an_item_is_called_by_its_file_and_it_is_said_who_has_a_thumbnail():
    found = report_data.image_audit()
    found["items"][0]["name"] = "cat/<1>.png"
    found["items"][-1]["image"] = ""
    page = Page(render([found]))
    assert [item["name"] for item in page.data["items"]][:2] == ["cat/<1>.png", found["items"][1]["id"]]
    assert "<bdi>cat/<wbr>&lt;1&gt;.<wbr>png</bdi>" in page.html
    assert f"The first {len(found['items']) - 1} have a thumbnail." in page.words
    assert "have a thumbnail" not in Page(render([report_data.image_audit()])).words


def test_numbers_that_json_does_not_know_are_null():
    [item] = item_rows({"items": [ITEMS[0] | {"kl": math.inf, "reference_margin": math.nan}]})
    assert (item["kl"], item["reference_margin"]) == (None, None)


@pytest.mark.parametrize(
    ("tokens", "spaced"),
    [
        (["warm", "##ly", "##", "so"], [["warm", True], ["ly", False], ["##", True], ["so", True]]),
        (["Ġwarm", "ly", "Ġso"], [["warm", True], ["ly", False], ["so", True]]),
        (["▁warm", "ly"], [["warm", True], ["ly", False]]),
    ],
)
def test_tokens_are_put_together_as_words(tokens, spaced):
    scores = [0.5, -2.0, math.nan, 1.0][: len(tokens)]
    shared = {"kind": "text", "target": 0, "tokens": tokens, "shape": None}
    [item] = item_rows({"items": [ITEMS[0] | {"explanation": shared | {"reference": scores, "candidate": scores}}]})
    assert item["explanation"]["tokens"] == spaced
    assert item["explanation"]["reference"] == [0.5, -1.0, 0.0, 1.0][: len(tokens)]


def test_the_file_is_the_page_and_the_same_every_time(found, tmp_path):
    small = copy.deepcopy(found) | {"groups": [], "attribution": None, "calibration": None}
    path = write_report(tmp_path / "made" / "report.html", [small], title="Mine")
    assert path.read_text(encoding="utf-8") == render([small], title="Mine")
    assert "<title>Mine</title>" in path.read_text(encoding="utf-8")


def audited(*answers, **options):
    n = len(answers[0])
    ids = [str(place) for place in range(n)]
    return audit(*(Predictions(np.eye(2)[list(one)], [0] * n, ids, ["no", "yes"]) for one in answers), **options)


@pytest.fixture
def saved(tmp_path):
    audited([0] * 20, [0] * 18 + [1] * 2).save(tmp_path / "audit.json")
    return tmp_path / "audit.json"


def test_the_page_of_the_command_stands_beside_its_audit_or_where_it_is_told(saved, tmp_path):
    result = call("report", saved, "--title", "By hand")
    assert result.exit_code == 0, result.output
    assert result.stdout.strip() == str(saved.with_suffix(".html"))
    page = Page(saved.with_suffix(".html").read_text(encoding="utf-8"))
    assert "<title>By hand</title>" in page.html
    assert len(page.data["items"]) == 2
    result = call("report", saved, saved, "--output", tmp_path / "deep" / "page.html")
    assert result.exit_code == 0, result.output
    assert len(Page((tmp_path / "deep" / "page.html").read_text(encoding="utf-8")).rows_of("Candidates")) == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nothing.json"], "No such file or directory.*nothing.json"),
        (["other.json"], "is JSON, but not that of an audit. Write it with Audit.save."),
        (["audit.json", "--output", "audit.json"], "The page would replace the audit .*--output"),
    ],
)
def test_bad_input_is_one_line_and_no_file(saved, monkeypatch, words, message):
    monkeypatch.chdir(saved.parent)
    (saved.parent / "other.json").write_text('{"kind": "other"}')
    result = call("report", *words)
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert re.search(message, result.stderr.replace("\n", " "))
    assert not list(saved.parent.glob("*.html"))
