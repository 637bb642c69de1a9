"""How many items a limit needs: against the binomial distribution of scipy, and on the command line."""

import json
import re
import subprocess
import sys

import pytest
import scipy.stats
from commands import call, error_of

from hf_compalign.measure.statistics import (
    LIKELY,
    at_best,
    chance_to_pass,
    items_needed,
    most_within,
    plan_items,
    upper_bound,
)


@pytest.mark.parametrize("limit", [0.01, 0.05, 0.3])
def test_a_row_says_what_its_items_show(limit):
    for row in plan_items(limit).rows:
        assert row.n_needed == items_needed(limit, row.rate)
        assert upper_bound(row.most, row.n_needed) <= limit < upper_bound(row.most + 1, row.n_needed)
        assert row.n_likely >= row.n_needed
        assert chance_to_pass(limit, row.rate, row.n_likely) >= LIKELY


@pytest.mark.parametrize("n", [100, 299, 1000, 5000])
def test_the_chance_to_pass_is_that_of_every_sample_that_does(n):
    for rate in (0.0, 0.002, 0.008):
        passing = [k for k in range(n + 1) if upper_bound(k, n) <= 0.01]
        expected = scipy.stats.binom.pmf(passing, n, rate).sum()
        assert chance_to_pass(0.01, rate, n) == pytest.approx(expected)


def test_given_items_say_what_they_can_show():
    found = plan_items(0.01, rates=[0.004], n=872)
    assert (found.most, found.bound) == (most_within(0.01, 872), upper_bound(0, 872))
    assert found.rows[0].chance == chance_to_pass(0.01, 0.004, 872)
    assert "Of 872 items at most 3 may count; if none does, the bound is 0.34 %." in str(found)
    assert plan_items(0.01, n=200).most == -1
    assert at_best(0.0, 50).endswith("No number of items can.")


def test_no_number_of_items_shows_a_rate_beyond_the_limit():
    (row,) = plan_items(0.01, rates=[0.02]).rows
    assert (row.n_needed, row.most, row.n_likely) == (None, None, None)
    assert re.search(r"2\.00 % +- +- +-", str(plan_items(0.01, rates=[0.02])))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"limit": 0}, r"must be in \(0, 1\). Got 0, which no number of items shows"),
        ({"limit": 1.0}, "Got 1.0, which any number of items shows"),
        ({"limit": 5}, r"limit must be a number in \(0, 1\). Got 5. Did you mean 0.05\?"),
        ({"limit": 0.1, "rates": [2]}, r"rate must be a number in \[0, 1\]. Got 2. Did you mean 0.02\?"),
        ({"limit": 0.1, "n": 0}, "n must be at least 1. Got 0"),
    ],
)
def test_what_cannot_be_planned_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        plan_items(**settings)


# ---- the command ----


def test_the_command_prints_a_plan_for_each_limit():
    result = call("plan", "--limit", "mismatch_rate=0.01", "--limit", "nfr=0.005", "--rate", 0.002, "--items", 1000)
    assert result.exit_code == 0, result.output
    expected = [
        f"{name}\n{plan_items(limit, rates=[0.002], n=1000)}"
        for name, limit in (("mismatch_rate", 0.01), ("nfr", 0.005))
    ]
    assert result.stdout == "\n\n".join(expected) + "\n"


def test_the_command_prints_json():
    found = json.loads(call("plan", "--limit", "mismatch_rate=0.01", "--json").stdout)["mismatch_rate"]
    assert (found["limit"], found["n_items"], found["bound"]) == (0.01, None, None)
    assert found["rows"][0] == {"rate": 0.0, "n_needed": 299, "most": 0, "n_likely": 299, "chance": None}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "There is no limit to plan for. Give one, such as --limit mismatch_rate=0.01"),
        (
            ["--limit", "mismatchrate=0.01"],
            "There is no limit to plan for 'mismatchrate'.*Did you mean 'mismatch_rate'",
        ),
        (["--limit", "group_mismatch_gap=0.1"], "Allowed: mismatch_rate, nfr, flip_rate, pfr"),
        (["--limit", "nfr=0"], "which no number of items shows"),
    ],
)
def test_the_command_refuses_what_has_no_plan(options, message):
    assert re.search(message, error_of(call("plan", *options)))


def test_a_plan_needs_no_torch():
    code = (
        "import sys; from hf_compalign.cli import app; from typer.testing import CliRunner;"
        "assert CliRunner().invoke(app, ['plan', '--limit', 'nfr=0.01']).exit_code == 0;"
        "print(*{'torch', 'transformers', 'datasets'} & {*sys.modules})"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.split() == []
