"""Which class turned into which: counted, shown and drawn."""

from collections import Counter

import numpy as np
import pytest
import report_data
from plotted import record

from hf_compalign.measure.audit import Audit, describe, sections_of
from hf_compalign.measure.statistics import class_changes
from hf_compalign.report.page import links, render
from hf_compalign.report.plots import plot_changes


def test_changes_are_counted_pair_by_pair():
    rng = np.random.default_rng(0)
    reference, candidate, labels = rng.integers(0, 5, (3, 400))
    labels[::7] = -100
    kinds = ("n", "lost", "gained")
    wanted = {kind: Counter() for kind in kinds}
    for before, after, label in zip(reference.tolist(), candidate.tolist(), labels.tolist(), strict=True):
        wanted["n"][before, after] += before != after
        wanted["lost"][before, after] += before == label != after
        wanted["gained"][before, after] += after == label != before
    found = class_changes(reference, candidate, labels)
    for kind in kinds:
        assert +Counter({(one.reference, one.candidate): getattr(one, kind) for one in found}) == +wanted[kind]
    assert [one.n for one in found] == sorted((one.n for one in found), reverse=True)


def test_equal_answers_change_nothing():
    assert class_changes([0, 1], [0, 1], [-100, 1]) == ()


@pytest.fixture(scope="module")
def made():
    return report_data.made_audit(n=1200, n_items=60)


def test_the_changes_of_an_audit_are_all_its_mismatches_and_are_kept(made, tmp_path):
    assert sum(one.n for one in made.changes) == made.metrics["cie"]
    assert sum(one.lost for one in made.changes) == made.cells.lost
    assert sum(one.gained for one in made.changes) == made.cells.gained
    made.save(tmp_path / "audit.json")
    assert Audit.load(tmp_path / "audit.json").changes == made.changes
    assert made.to_pandas("changes").n.sum() == made.metrics["cie"]


def test_text_and_page_say_which_class_turned_into_which_and_lead_to_the_items(made):
    found = report_data.text_audit(n=1200, n_items=60)
    section = next(one for one in sections_of(found) if one.key == "changes")
    names, first = found["label_names"], made.changes[0]
    share = f"{100 * first.n / found['cie']:.2f} %"
    row = (names[first.reference], names[first.candidate], str(first.n), share, str(first.lost), str(first.gained))
    assert tuple(section.tables[0].rows[0]) == row
    assert " ".join(row) in " ".join(describe(found).split())
    assert f"#reference={first.reference}&candidate={first.candidate}" in links(section.tables[0], found)
    assert (
        "right, now wrong"
        not in next(one for one in sections_of(report_data.unlabeled_audit()) if one.key == "changes").tables[0].columns
    )
    assert 'id="changes"' in render([found])
    assert 'id="changes"' not in render([report_data.same_audit()])


def change(reference, candidate, n, lost=0, gained=0):
    return {"reference": reference, "candidate": candidate, "n": n, "lost": lost, "gained": gained}


def test_few_classes_are_a_matrix_with_the_largest_changes_in_its_corner():
    changes = [change(2, 0, 30), change(0, 2, 5), change(1, 0, 1)]
    (panel,) = plot_changes(record(changes=changes, label_names=["no", "maybe", "yes"])).axes
    names = [label.get_text() for label in panel.get_yticklabels()]
    assert names == [label.get_text() for label in panel.get_xticklabels()] == ["no", "yes", "maybe"]
    cells = {tuple(names[place] for place in text.get_position()[::-1]): text.get_text() for text in panel.texts}
    assert cells == {("yes", "no"): "30", ("no", "yes"): "5", ("maybe", "no"): "1"}


def test_many_classes_are_bars_of_the_largest_changes():
    changes = [change(label, label + 1, 100 - label, lost=label) for label in range(40)]
    found = record(changes=changes, label_names=[f"class {label}" for label in range(41)])
    (panel,) = plot_changes(found).axes
    assert [text.get_text() for text in panel.texts][:2] == ["class 0 → class 1: 100", "class 1 → class 2: 99"]
    assert len(panel.texts) == 15
    lost, gained, others = ([bar.get_width() for bar in part] for part in panel.containers)
    assert (lost[3], gained[3], others[3]) == (3, 0, 94)
    assert "25 of 40 kinds of change are left out" in " ".join(panel.get_xlabel().split())


def test_without_a_change_there_is_nothing_to_draw():
    with pytest.raises(ValueError, match="The two models answer every item alike, so no class turned into another"):
        plot_changes(record(changes=[]))
