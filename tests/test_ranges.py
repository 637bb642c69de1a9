"""The ranges in pyproject.toml are those that are tested."""

from itertools import chain
from pathlib import Path

import pytest
from packaging.requirements import Requirement

tomllib = pytest.importorskip("tomllib", reason="Python 3.10 has none")
ROOT = Path(__file__).parent.parent


def _pins(name):
    lines = (ROOT / name).read_text().splitlines()
    return dict(line.lower().replace("_", "-").split("==") for line in lines if line and not line.startswith("#"))


def _ranges():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = {name: lines for name, lines in project["optional-dependencies"].items() if name not in ("test", "dev")}
    required = map(Requirement, chain(project["dependencies"], *extras.values()))
    return {each.name: each.specifier for each in required if each.name != project["name"]}


def _release(version):
    """A version without the zeros at its end: 2.0 and 2.0.0 are one."""
    return version.removesuffix(".0").removesuffix(".0")


def test_the_lowest_environment_has_the_lower_end_of_every_range():
    lower_ends = {name: _release(str(specifier).removeprefix(">=")) for name, specifier in _ranges().items()}
    tested = {name: _release(version) for name, version in _pins("constraints-lowest.txt").items()}
    # Of torch only one version has a wheel for CPUs that is small enough to be installed for a test.
    del lower_ends["torch"], tested["torch"]
    assert tested == lower_ends


@pytest.mark.parametrize("constraints", ["constraints.txt", "constraints-lowest.txt", "constraints-newest.txt"])
def test_what_is_tested_lies_within_the_ranges(constraints):
    ranges = _ranges()
    pins = {name: version for name, version in _pins(constraints).items() if name in ranges}
    assert pins
    assert {name for name, version in pins.items() if version not in ranges[name]} == set()
