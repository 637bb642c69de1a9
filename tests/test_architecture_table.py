"""The table of architectures: the script that makes it works, and the page is of the types that the script has."""

import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def script():
    sys.path.insert(0, str(ROOT / "benchmarks"))
    import architectures

    return architectures


def rows_of(page):
    """Type -> the words in its cells."""
    rows = re.findall(r"^\| `(.+?)` \| (.+) \|$", page, re.M)
    return {kind: cells.split(" | ") for kind, cells in rows}


@pytest.mark.parametrize("kind", ["t5", "deit (with teacher)", "siglip2"])
def test_the_script_tries_a_type(script, kind):
    case = script.Case(kind)
    found = {name: script.tried(script.COLUMNS[name], case) for name in ("predict", "align", "shrink", "attribution")}
    page = script.page({kind: {name: script.Cell("works") for name in script.COLUMNS} | found})
    cells = [cell.status for cell in found.values()]
    patches = kind == "siglip2"
    assert cells == [
        "works",
        "works",
        "works" if kind.startswith("deit") else "refused",
        "refused" if patches else "works",
    ]
    assert rows_of(page)[kind] == [found.get(name, script.Cell("works")).status for name in script.COLUMNS]
    assert ("reads an image as 16 x 192 numbers" in page) == patches


def test_a_wrong_result_and_a_foreign_error_fail(script):
    from architecture_checks import WrongError

    for error in (WrongError("wrong"), ValueError("not ours"), RuntimeError("mat1")):

        def function(case, error=error):
            raise error

        assert script.tried(function, script.Case("bert")).status == "fails"


def test_the_page_is_that_of_the_script(script):
    """A new type or column: run `make architectures`."""
    rows = rows_of((ROOT / "docs" / "architectures.md").read_text())
    assert [*rows] == [*script.tiny.TEXT, *script.tiny.IMAGE]
    assert len(rows) >= 40
    assert all(len(cells) == len(script.COLUMNS) for cells in rows.values())
    assert {cell for cells in rows.values() for cell in cells} <= {"works", "refused", "untested"}
