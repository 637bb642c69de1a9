"""hf-compalign audit with groups, a floor, attributions, latencies and a report."""

import json
import re

import pytest
import shipping
import tiny
from commands import call, error_of

from hf_compalign.measure.audit import Audit
from hf_compalign.measure.predictions import predict

N = 60
EXPLAINED = ["--attribution", "saliency", "--attribution-items", 6]
ABOUT = {"id2label": dict(enumerate(shipping.NAMES)), "label2id": {name: k for k, name in enumerate(shipping.NAMES)}}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """An original, a candidate and a re-run with their tokenizer; raw texts with overlapping groups."""
    folder = tmp_path_factory.mktemp("audit")
    for seed, name in enumerate(("original", "small", "rerun")):
        shipping.saved(folder / name, tiny.bert(seed=seed, **ABOUT))
    targets = [["a", "b"] if row % 5 == 0 else ["a"] if row % 2 else [] for row in range(N)]
    rows = shipping.raw_texts(N).add_column("target", targets).add_column("size", [float(row) for row in range(N)])
    rows.to_parquet(folder / "rows.parquet")
    return folder


def audited(place, *options):
    return call("audit", place / "original", place / "small", "--dataset", place / "rows.parquet", *options)


@pytest.fixture(scope="module")
def full(place):
    options = ["--groups", "target", "--groups", "target,label", "--bins", "words", "--bins", "size", "--latency"]
    options += ["--min-group-size", 5, *EXPLAINED, "--floor", place / "rerun"]
    options += ["--output", place / "audit.json", "--report", place / "audit.html", "--save-predictions", place / "npz"]
    options += ["--limit", "group_mismatch_gap=1", "--limit", "worst_group_accuracy_drop=1"]
    options += ["--limit", "demographic_parity_difference=1", "--limit", "equal_opportunity_difference=1"]
    result = audited(place, *options)
    assert result.exit_code == 0, result.output
    return result, Audit.load(place / "audit.json")


def test_groups_of_columns_crossed_columns_and_bins(full, place):
    _, found = full
    assert [gap.attribute for gap in found.gaps] == ["target", "target x label", "words", "size"]
    sizes = {(row.attribute, row.group): row.n for row in found.groups}
    assert sizes["target", "a"] == sum(row % 5 == 0 or row % 2 == 1 for row in range(N))
    assert sizes["target", "b"] == N // 5
    labels = shipping.raw_texts(N)["label"]
    assert sizes["target x label", "b, red"] == sum(labels[row] == 0 for row in range(0, N, 5))
    assert sizes["size", "0 to 14"] == 15
    assert [gap.in_order for gap in found.gaps] == [False, False, True, True]
    sized = [int(group.split()[0]) for attribute, group in sizes if attribute == "size"]
    assert sized == sorted(sized)
    assert len(sized) == 4
    assert sum(n for (attribute, _), n in sizes.items() if attribute == "words") == N
    assert found.min_group_size == 5


def test_the_floor_is_the_third_model(full, place):
    _, found = full
    rows = shipping.raw_texts(N)
    answers = [predict(place / name, rows).predicted for name in ("original", "small", "rerun")]
    assert found.floor.mismatches == (answers[0] != answers[2]).sum()
    assert found.metrics["cie"] == (answers[0] != answers[1]).sum() > 0
    assert sorted(path.name for path in (place / "npz").iterdir()) == ["candidate.npz", "floor.npz", "reference.npz"]


def test_attributions_and_texts_are_with_the_items(full):
    _, found = full
    assert (found.attribution.method, found.attribution.n_items) == ("saliency", 6)
    texts = set(shipping.raw_texts(N)["text"])
    assert all(set(item.texts) <= texts and len(item.texts) == 1 for item in found.items)
    explained = [item for item in found.items if item.explanation]
    assert len(explained) == found.attribution.n_mismatches > 0
    for item in explained:
        assert item.explanation.tokens == tuple(item.texts[0].split())
        assert item.explanation.target == item.reference


def test_costs_are_those_of_the_files(full, place):
    _, found = full
    assert found.size_bytes == tuple(
        (place / name / "model.safetensors").stat().st_size for name in ("original", "small")
    )
    assert all(0 < one.low_ms <= one.median_ms <= one.high_ms for one in found.latency)
    assert "batches of 8" in found.machine
    assert found.costs[0].what == "parameters"


def test_the_screen_and_the_page_show_it(full, place):
    result, found = full
    for shown in ("judged groups of target: 2", "candidate - re-run", "weighted Jaccard", "latency (ms)", "PASSED"):
        assert shown in result.stdout
    assert "audit.html" in result.stderr
    page = (place / "audit.html").read_text()
    assert found.items[0].texts[0] in page
    again = call("report", place / "audit.json", "--output", place / "again.html")
    assert again.exit_code == 0, again.output
    assert (place / "again.html").read_text() == page


def test_contents_can_be_kept_out(full, place):
    files = ["--output", place / "bare.json", "--report", place / "bare.html"]
    bare = audited(place, *EXPLAINED, *files, "--json", "--no-contents")
    assert bare.exit_code == 0, bare.output
    items = Audit.load(place / "bare.json").items
    assert items
    assert all(item.texts == () and not item.image and item.explanation is None for item in items)
    assert Audit.load(place / "bare.json").attribution == full[1].attribution
    words = {word for text in shipping.raw_texts(N)["text"] for word in text.split()}
    for shown in (bare.stdout, (place / "bare.json").read_text(), (place / "bare.html").read_text()):
        assert not re.findall(rf"\b({'|'.join(words)})\b", shown.replace("www.w3.org", ""))


def test_json_alone_has_no_contents(place):
    result = audited(place, *EXPLAINED, "--json")
    assert result.exit_code == 0, result.output
    items = json.loads(result.stdout)["items"]
    assert items
    assert not any(item["explanation"] or item["texts"] for item in items)


def test_groups_and_bins_of_one_column_are_told_apart(place):
    result = audited(place, "--groups", "label", "--bins", "label", "--json")
    assert result.exit_code == 0, result.output
    groups = [(row["attribute"], row["group"]) for row in json.loads(result.stdout)["groups"]]
    assert {group for attribute, group in groups if attribute == "label"} == set(shipping.NAMES)
    assert {group for attribute, group in groups if attribute == "label (bins)"} == {"0", "1", "2"}


def test_thumbnails_of_images(tmp_path):
    """Pixels that are prepared already have no picture: the audit is made without one."""
    for seed, name in enumerate(("one", "two")):
        tiny.vit(seed=seed).save_pretrained(tmp_path / name)
    tiny.images(12).to_parquet(tmp_path / "rows.parquet")
    options = ["--dataset", tmp_path / "rows.parquet", "--output", tmp_path / "audit.json"]
    result = call("audit", tmp_path / "one", tmp_path / "two", *options, "--attribution", "default")
    assert result.exit_code == 0, result.output
    found = Audit.load(tmp_path / "audit.json")
    assert found.attribution.method == "integrated_gradients"
    assert all(item.image == "" and item.texts == () for item in found.items)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--attribution", "magic"], "magic"),
        (["--attribution-items", 5], "There is no --attribution, so --attribution-items would be ignored"),
        (["--min-group-size", 5], "There is no --groups or --bins, so --min-group-size would be ignored"),
        (["--no-contents"], "There is no --output or --report, so --no-contents would be ignored"),
        (["--groups", "label", "--groups", "label"], "a name of its own. Got 'label' twice. Leave one out"),
        (["--groups", "label,target", "--groups", "label, target"], "Got 'label x target' twice"),
        (["--bins", "size", "--bins", "size"], "Got 'size' twice"),
        (["--groups", "targets"], "There is no column 'targets'.*Did you mean 'target'"),
        (["--groups", "size"], "--bins"),
        (["--bins", "weight"], "There is no column 'weight' to bin.*'words' stands for the number of words"),
        (["--limit", "group_mismatch_gap=0.1"], "needs groups, and there are none.*--groups"),
        (
            ["--groups", "target", "--min-group-size", 1000, "--limit", "group_mismatch_gap=0.1"],
            "needs groups of at least 1000 items",
        ),
        (["--floor", "nowhere"], "No model could be loaded from 'nowhere'"),
        (["--floor", "floor.npz"], "Give models or .npz files, not some of each"),
    ],
)
def test_what_has_no_effect_or_cannot_be_is_refused(place, options, message):
    assert re.search(message, error_of(audited(place, *options)))


def test_files_of_predictions_have_no_attributions(full, place):
    files = [place / "npz" / f"{name}.npz" for name in ("reference", "candidate", "floor")]
    assert "Attributions need the models" in error_of(call("audit", *files[:2], "--attribution", "default"))
    result = call("audit", *files[:2], "--floor", files[2], "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["floor"]["mismatches"] == full[1].floor.mismatches
