"""The fixture for pytest, in a run of pytest of its own."""

import subprocess
import sys
from pathlib import Path

import shipping
import tiny

from hf_compalign.measure.predictions import Predictions, predict

pytest_plugins = ["pytester"]

# Where the package is installed, its entry point would load the plugin too.
_LOADED = ["-p", "no:hf_compalign", "-p", "hf_compalign.pytest_plugin"]
_TESTS = """
def test_same(assert_same_answers):
    found = assert_same_answers("base.npz", "original", "rows.parquet", limits={"mismatch_rate": 0.05})
    assert found.metrics["cie"] == 0


def test_other(assert_same_answers):
    assert_same_answers("base.npz", "other", "rows.parquet", limits={"mismatch_rate": 0.05})


def test_groups(assert_same_answers):
    limits = {"group_mismatch_gap": 0.9}
    assert_same_answers("base.npz", "original", "rows.parquet", limits=limits, groups="label")


def test_none(assert_same_answers):
    assert_same_answers("base.npz", "original", "rows.parquet", limits={})
"""


def test_the_fixture_passes_and_fails_with_readable_words(pytester):
    for seed, name in enumerate(("original", "other")):
        shipping.saved(pytester.path / name, tiny.bert(seed=seed, **shipping.NAMED))
    rows = shipping.raw_texts(200)
    rows.to_parquet(pytester.path / "rows.parquet")
    predict(pytester.path / "original", rows).save(pytester.path / "base.npz")
    pytester.makepyfile(_TESTS)
    result = pytester.runpytest_inprocess(*_LOADED)
    result.assert_outcomes(passed=2, failed=2)
    result.stdout.fnmatch_lines(
        [
            "The candidate does not answer like the reference: exceeded the limit on mismatch_rate.",
            "The candidate answers * of 200 items like the reference and * differently.*",
            "- mismatch_rate is * %, its upper bound * %, the limit 5.00 %",
            "The first 10 of * items that changed:",
            "item *reference *candidate *label *what changed",
            "E *ValueError: limits must say what the same answers are*Got none.",
        ]
    )
    assert "audit(reference, candidate" not in result.stdout.str().split("test_none")[0]
    assert len(Predictions.load(pytester.path / "base.npz")) == 200


def test_the_plugin_is_lean():
    code = (
        "import sys, hf_compalign.pytest_plugin;print(*{'torch', 'transformers', 'numpy', 'datasets'} & {*sys.modules})"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.split() == []


def test_the_package_says_that_it_has_a_plugin():
    text = (Path(__file__).parent.parent / "pyproject.toml").read_text()
    assert '[project.entry-points.pytest11]\nhf_compalign = "hf_compalign.pytest_plugin"\n' in text
