"""The figures of the documentation are those that were measured.

A figure is a number with decimals, in prose, in a table or in what a command printed. All figures of a paragraph stand
together in one entry: of benchmarks/LOG.md, or of docs/results.md, whose tables stand beside their command. Whole
numbers are not checked: most of them are limits, sizes and options.
"""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LOG = (ROOT / "benchmarks/LOG.md").read_text()
RESULTS = (ROOT / "docs/results.md").read_text()
PAGES = ["README.md", *(f"docs/{name}.md" for name in ("index", "one-command", "gate", "howto-compress", "concepts"))]

_FENCE = re.compile(r"^( *)``` *(\w+)[^\n]*\n(.*?)^\1```", re.M | re.S)
_NO_FIGURE = re.compile(
    r"`[^`\n]*`|\]\([^)]*\)|https?://\S+|\b(?:Python|torch|transformers|Apache) [\d.]+|\d+\.\d+\.\d+"
)
_FIGURE = re.compile(r"\d[\d,]*\.\d+")
_GENERATED = re.compile(r"<!-- (\w+) -->.*?<!-- /\1 -->", re.S)  # by a benchmark's command `report`
_COMMAND = re.compile(r"^    (?:\w+=\S+ )?(?:python|make|hf-compalign) ", re.M)


def figures(text):
    return {*_FIGURE.findall(_NO_FIGURE.sub(" ", text))}


def paragraphs(text):
    """Without code; what a bash command printed, a block of text right after it, is a paragraph too."""
    languages = [""]

    def kept(fence):
        languages.append(fence[2])
        return fence[3] if languages[-2:] == ["bash", "text"] else ""

    return re.split(r"\n\s*\n", re.sub(r"^    .*$", "", _FENCE.sub(kept, text), flags=re.M))


def entries(text, level):
    return re.split(rf"^#{{2,{level}}} ", text, flags=re.M)


def tables(text):
    return "\n".join(re.findall(r"^\|.*", text, re.M))


ENTRIES = [figures(entry) for entry in (*entries(LOG, 2), *entries(RESULTS, 3))]


def without_source(text):
    """The paragraphs with figures that no entry has all of, and which are missing in the one that has most."""
    missing = {
        paragraph: min((figures(paragraph) - known for known in ENTRIES), key=len) for paragraph in paragraphs(text)
    }
    return {paragraph: found for paragraph, found in missing.items() if found}


@pytest.mark.parametrize("page", PAGES)
def test_the_figures_of_a_page_come_from_one_entry_each(page):
    missing = without_source((ROOT / page).read_text())
    assert not missing, f"measure it, and write it into benchmarks/LOG.md; or correct the page: {missing}"


def test_a_wrong_figure_is_found_out():
    readme = (ROOT / "README.md").read_text()
    for figure in ("2.85 | 3.88", "keeps 0.24", "2.9 times faster"):
        assert readme.count(figure) == 1, f"take another example: {figure}"
        (found,) = without_source(readme.replace(figure, "7.777")).values()
        assert found == {"7.777"}


def test_the_tables_of_the_results_stand_beside_their_command():
    for entry in entries(_GENERATED.sub("", RESULTS), 2):
        assert not tables(entry) or _COMMAND.search(entry), f"which command made the tables of {entry[:40]!r}?"


def test_what_the_results_say_of_their_tables_is_in_them_or_in_the_log():
    generated = "\n".join(part[0] for part in re.finditer(_GENERATED, RESULTS))
    by_hand = _GENERATED.sub("", RESULTS)
    known = figures(LOG) | figures(generated) | figures(tables(by_hand))
    prose = figures("\n".join(line for one in paragraphs(by_hand) for line in one.splitlines() if line[:1] != "|"))
    assert not prose - known
