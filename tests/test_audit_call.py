"""One call audits anything: models, folders, files and predictions, with what columns of a dataset say."""

import numpy as np
import pytest
import shipping
import tiny

from hf_compalign.compress import loading
from hf_compalign.measure.attribution import AttributionOptions
from hf_compalign.measure.audit import Audit, AuditOptions, audit
from hf_compalign.measure.footprint import footprint
from hf_compalign.measure.groups import group_membership, number_bins, text_length
from hf_compalign.measure.predictions import predict

N = 60
WITH_TOKENIZER = AuditOptions(processing_class=shipping.tokenizer())


@pytest.fixture(scope="module")
def rows():
    sides = ["left" if row % 3 else "right" for row in range(N)]
    return shipping.raw_texts(N).add_column("side", sides).add_column("size", [float(row) for row in range(N)])


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    for seed, name in enumerate(("original", "small", "rerun")):
        shipping.saved(folder / name, tiny.bert(seed=seed, **shipping.NAMED))
    return folder


@pytest.fixture(scope="module")
def answers(place, rows):
    return {name: predict(place / name, rows) for name in ("original", "small", "rerun")}


@pytest.fixture(scope="module")
def sides(answers):
    return answers["original"], answers["small"]


def test_all_kinds_of_models_have_one_audit(place, rows, sides, tmp_path):
    sides[1].save(tmp_path / "small.npz")
    expected = audit(*sides)
    found = [
        audit(place / "original", place / "small", rows),
        audit(str(place / "original"), tiny.bert(seed=1, **shipping.NAMED), rows, options=WITH_TOKENIZER),
        audit(sides[0], place / "small", rows),
        audit(place / "original", tmp_path / "small.npz", rows),
        audit(sides[0], str(tmp_path / "small.npz")),
        audit(*sides, rows),
    ]
    for one in found:
        assert (one.metrics, one.items) == (expected.metrics, expected.items)
        assert (one.reference, one.data_fingerprint) == (expected.reference, expected.data_fingerprint)
    assert expected.metrics["cie"] > 0


def test_two_models_are_weighed_and_two_predictions_are_not(place, rows, sides):
    module = tiny.bert(seed=1, **shipping.NAMED)
    found = audit(place / "original", module, rows, options=WITH_TOKENIZER)
    sizes = footprint(place / "original").size_bytes, footprint(module).size_bytes
    assert found.size_bytes == sizes
    assert sizes[0] == (place / "original" / "model.safetensors").stat().st_size != sizes[1]
    assert found.costs[0].what == "parameters"
    assert found.latency is None
    mixed = audit(sides[0], place / "small", rows)
    assert (mixed.costs, mixed.size_bytes) == ((), None)


def test_a_folder_is_opened_once(place, rows, monkeypatch):
    opened, real = [], loading.load_compressed

    def counted(where, **settings):
        opened.append(str(where))
        return real(where, **settings)

    monkeypatch.setattr("hf_compalign.compress.load_compressed", counted)
    options = AuditOptions(latency=True, contents=True)
    found = audit(place / "original", place / "small", rows, floor=place / "rerun", options=options)
    assert opened == [str(place / name) for name in ("original", "small", "rerun")]
    assert all(0 < one.low_ms <= one.median_ms <= one.high_ms for one in found.latency)
    assert "batches of 8" in found.machine


def test_its_predictions_are_kept_but_not_saved(place, rows, answers, tmp_path):
    found = audit(place / "original", place / "small", rows, floor=answers["rerun"])
    assert [*found.predictions] == ["reference", "candidate", "floor"]
    assert np.array_equal(found.predictions["candidate"].logits, answers["small"].logits)
    assert found.predictions["floor"] is answers["rerun"]
    assert "predictions" not in found.to_dict()
    found.save(tmp_path / "audit.json")
    assert Audit.load(tmp_path / "audit.json").predictions == {}


@pytest.mark.parametrize(
    ("groups", "by"),
    [
        ("side", {"side": "side"}),
        (("side", "label"), {"side x label": ("side", "label")}),
        (["side", ("side", "label")], {"side": "side", "side x label": ("side", "label")}),
        ({"half": "side", "cell": ("side", "label")}, {"half": "side", "cell": ("side", "label")}),
    ],
)
def test_columns_say_the_groups(rows, sides, groups, by):
    found = audit(*sides, rows, groups=groups, options=AuditOptions(bins=["size"]))
    members = {attribute: group_membership(rows, columns) for attribute, columns in by.items()}
    again = audit(*sides, groups=members | {"size": number_bins(rows["size"])})
    assert [gap.attribute for gap in found.gaps] == [*by, "size"]
    assert str(found.groups) == str(again.groups)


def test_groups_follow_the_items_where_the_rows_stand_in_another_order(rows, sides):
    turned = rows.select(range(N)[::-1])
    options = AuditOptions(bins=["words"], contents=True)
    found, expected = (audit(*sides, data, groups="side", options=options) for data in (turned, rows))
    again = audit(*sides, groups={"side": rows["side"], "words": number_bins(text_length(rows, "text"))})
    assert str(found.groups) == str(expected.groups) == str(again.groups)
    assert found.items == expected.items
    texts = dict(zip(sides[0].ids.tolist(), rows["text"], strict=True))
    assert all(item.texts == (texts[item.id],) for item in found.items)


def test_a_list_as_long_as_the_data_is_of_items(rows, sides):
    """Also where a group is called like a column."""
    found = audit(*sides, rows, groups=["size" if row % 2 else "other" for row in range(N)])
    assert {(row.attribute, row.group) for row in found.groups} == {("group", "size"), ("group", "other")}


def test_prepared_rows_have_groups_and_no_contents():
    prepared = tiny.texts(40, seed=3).add_column("half", ["a", "b"] * 20)
    both = [predict(tiny.bert(seed=seed), prepared) for seed in (1, 2)]
    found = audit(*both, prepared, groups="half", options=AuditOptions(contents=True))
    assert {row.group for row in found.groups} == {"a", "b"}
    assert found.items
    assert not any(item.texts for item in found.items)


def test_what_both_look_at_and_what_they_were_asked(place, rows):
    models = place / "original", place / "small"
    few = AttributionOptions("saliency", n_items=6, n_mismatches=6)
    found = audit(*models, rows, attribution=few, options=AuditOptions(contents=True))
    assert found.attribution.method == "saliency"
    assert any(item.explanation for item in found.items)
    assert all(item.texts for item in found.items)
    bare = audit(*models, rows, attribution=few)
    assert bare.attribution.rows == found.attribution.rows
    assert not any(item.explanation or item.texts for item in bare.items)


def test_a_model_needs_a_dataset(place, sides):
    with pytest.raises(ValueError, match="The reference is a model, and there is no dataset to ask it."):
        audit(place / "original", sides[1])
    with pytest.raises(ValueError, match=r"audit\(predictions, model, dataset=test\); or give Predictions alone"):
        audit(sides[0], tiny.bert(seed=1, **shipping.NAMED))
    with pytest.raises(ValueError, match="The floor is a model"):
        audit(*sides, floor=place / "rerun")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"options": AuditOptions(contents=True)}, "contents are of what was asked, and there is no dataset"),
        ({"options": AuditOptions(bins=["size"])}, "bins are made of columns of a dataset. Got size. Give dataset="),
        ({"options": AuditOptions(latency=True)}, "latency=True needs the models, and predictions hold only their"),
        ({"attribution": AttributionOptions()}, "attribution= needs the models, and predictions hold only their"),
        ({"groups": "side"}, "For the groups in a column of a dataset, give group_membership"),
    ],
)
def test_predictions_alone_do_not_say_everything(sides, settings, message):
    with pytest.raises(ValueError, match=message):
        audit(*sides, **settings)


TWICE = {"groups": {"words": "side"}, "options": AuditOptions(bins=["words", "words"])}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"groups": ["side", "labl"]}, "There is no column 'labl'.*Did you mean 'label'"),
        ({"groups": {"half": "sid"}}, "There is no column 'sid'.*Did you mean 'side'"),
        ({"groups": ["side", "side"]}, "is an attribute with a name of its own. Got 'side' twice."),
        (TWICE, r"Got 'words \(bins\)' twice"),
        ({"groups": ["up", "down"]}, "groups must have one entry per item: 60 of them; or be columns. Got 2. There is"),
    ],
)
def test_groups_that_no_column_says(rows, sides, settings, message):
    with pytest.raises(ValueError, match=message):
        audit(*sides, rows, **settings)


@pytest.mark.parametrize("settings", [{"groups": "side"}, {"options": AuditOptions(contents=True)}, {}])
def test_predictions_of_other_rows_are_refused(rows, sides, settings):
    with pytest.raises(ValueError, match="the rows that the predictions are of. 30 of their 60 items are not"):
        audit(*sides, rows.select(range(30)), **settings)


def test_other_labels_are_refused_before_any_model_runs(place, rows, monkeypatch):
    def run(*args, **settings):
        raise AssertionError("A model was run first.")

    monkeypatch.setattr("hf_compalign.measure.audit.opened.predict", run)
    with pytest.raises(ValueError, match="label"):
        audit(place / "original", tiny.bert(n_labels=2), rows)


@pytest.mark.parametrize("name", ["batch_size", "min_group_size"])
def test_numbers_out_of_range_are_refused(name):
    with pytest.raises(ValueError, match=f"{name} must be at least 1. Got 0."):
        AuditOptions(**{name: 0})
