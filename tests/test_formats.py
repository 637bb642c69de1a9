"""How numbers are written, beside what is written by hand."""

import math

import pytest
import report_data

from hf_compalign._formats import number, p_value, p_words
from hf_compalign.measure.audit import describe
from hf_compalign.measure.footprint import Latency, quartiles
from hf_compalign.report.page import render


@pytest.mark.parametrize(
    ("value", "text"),
    [
        *((0, "0"), (0.0123456, "0.01235"), (3.6, "3.6"), (999.94, "999.9"), (0.00001234, "1.234e-05")),
        *((999.96, "1,000"), (5217.4, "5,217"), (-6000, "-6,000"), (165_012.4, "165,012"), (2.5e9, "2,500,000,000")),
        *((math.inf, "inf"), (math.nan, "-"), (None, "-")),
    ],
)
def test_a_number_has_four_digits_and_its_thousands_apart(value, text):
    assert number(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        *((1.09e-211, "< 0.001"), (0.0, "< 0.001"), (0.00099, "< 0.001"), (0.001, "0.001"), (0.0499, "0.0499")),
        *((0.754321, "0.754"), (1, "1"), (None, "-"), (math.nan, "-")),
    ],
)
def test_a_p_value_is_a_decimal_or_very_small(value, text):
    assert p_value(value) == text
    assert p_words(value) == (f"p {text}" if "<" in text else f"p = {text}")


def test_a_median_has_its_quartiles_and_commas_too():
    assert quartiles(Latency(1234.567, 1200, 1300.1)) == "1,234.57 (1,200.00 to 1,300.10)"


def test_no_text_and_no_page_writes_a_large_number_without_commas_or_as_a_power():
    found = report_data.text_audit(n=1200, n_items=60)
    found["class_bias"] |= {"cev": 165_012.4, "sde": 5217.4}
    found["frequencies"]["bowker"] |= {"statistic": 6543.21, "p_value": 1.09e-211}
    for shown in (" ".join(describe(found).split()), render([found])):
        assert "CEV 165,012, SDE 5,217" in shown
        assert "6,543" in shown
        assert "e-211" not in shown
