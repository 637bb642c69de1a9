"""An audit as test cases in JUnit's XML, which every CI shows: one for each limit and each checked slice."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from hf_compalign._files import write_text_atomic
from hf_compalign._formats import percent, short_name
from hf_compalign._records import built
from hf_compalign._tables import plain
from hf_compalign._visible import cleaned, visible
from hf_compalign.measure.audit import (
    Audit,
    Verdict,
    checked_slices,
    failure,
    metrics_beside_fields,
    missed,
    named,
)
from hf_compalign.measure.slices import Condition, slice_words

# What XML does not allow even as a number, beside the characters that `cleaned` names.
_NOT_XML = re.compile("[\ufffe\uffff]")


def write_junit(path: str | Path, audit: Audit) -> Path:
    """Write `as_junit`; the file is whole or not there."""
    write_text_atomic(path, as_junit(audit))
    return Path(path)


def as_junit(audit: Audit) -> str:
    """One test case for each limit and checked slice; a failure says what is missed and the first changed items."""
    found = cleaned(metrics_beside_fields(audit.to_dict()), lambda text: _NOT_XML.sub("?", visible(text)))
    cases = [*_cases(found)]
    counts = {"tests": str(len(cases)), "failures": str(sum(len(case) > 0 for case in cases)), "errors": "0"}
    suites = ElementTree.Element("testsuites", counts)
    suite = ElementTree.SubElement(suites, "testsuite", {"name": "hf-compalign compare"} | counts)
    suite.extend(cases)
    ElementTree.indent(suites)
    return f'<?xml version="1.0" encoding="utf-8"?>\n{ElementTree.tostring(suites, encoding="unicode")}\n'


def _cases(found: Mapping[str, Any]) -> Iterator[ElementTree.Element]:
    for row in found["limits"]:
        message = "" if row["passed"] else f"{built(Verdict, row).words}: {missed(row)}"
        yield _case(found, f"{named(row)} within {percent(row['limit'])}", message)
    for row in checked_slices(found):
        condition, words = built(Condition, row["condition"]), plain(slice_words(row, found["slices"]))
        yield _case(found, f"no worse than elsewhere: {condition}", f"worse than elsewhere: {words}" * row["worse"])


def _case(found: Mapping[str, Any], name: str, message: str) -> ElementTree.Element:
    """A test case, failed if there is a message."""
    candidate, reference = (short_name(found[side]["model"]) for side in ("candidate", "reference"))
    case = ElementTree.Element("testcase", classname=f"{candidate} against {reference}", name=name)
    if message:
        ElementTree.SubElement(case, "failure", message=message, type="limit").text = failure(found)
    return case
