"""The gate: answers recorded once, models compared with them, and what it says in all its forms."""

import json
import re
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest
import report_data
import shipping
import tiny
import torch
from commands import call, error_of
from datasets import Value

from hf_compalign.compress import load_compressed
from hf_compalign.measure.audit import Audit, audit, failure, first_changed, metrics_beside_fields
from hf_compalign.measure.predictions import Predictions, predict
from hf_compalign.measure.slices import Condition, SliceRow, Slices
from hf_compalign.report.gate import as_junit, as_summary, write_junit, write_summary
from hf_compalign.report.page import render

N = 400
LIMITS = ["--limit", "mismatch_rate=0.05", "--limit", "nfr=0.05"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """An original with its rows and recorded answers; a good file of it, and broken ones."""
    folder = tmp_path_factory.mktemp("gate")
    original, rows = shipping.model(), shipping.raw_texts(N)
    rows.to_parquet(folder / "rows.parquet")
    usual = predict(original, rows, processing_class=shipping.tokenizer()).logits.mean(axis=0)
    with torch.no_grad():
        original.classifier.bias -= torch.tensor(usual)  # so that it answers each label about as often
    shipping.saved(folder / "original", original)
    shipping.exported(folder / "good", original)
    original.config.save_pretrained(folder / "good")
    shipping.tokenizer().save_pretrained(folder / "good")
    shipping.saved(folder / "permuted", moved(original, [1, 2, 0]))
    result = call("record", folder / "original", "--dataset", folder / "rows.parquet", "--output", folder / "base.npz")
    assert result.exit_code == 0, result.output
    recorded = Predictions.load(folder / "base.npz")
    order = np.random.default_rng(0).permutation(N)
    replace(recorded, logits=recorded.logits[order]).save(folder / "shuffled.npz")
    return folder


def moved(model, order):
    """The model with its logits in another order, and the same names for them."""
    with torch.no_grad():
        for part in (model.classifier.weight, model.classifier.bias):
            part.copy_(part[order])
    return model


def compared(place, baseline, model, *options):
    return call("compare", place / baseline, place / model, "--dataset", place / "rows.parquet", *options)


def slice_of(condition):
    """A slice in which answers change more than elsewhere."""
    p_values = {"p_value": 0.001, "p_adjusted": 0.001}
    return SliceRow(condition, 50, 2, 0.04, mismatch_rate_interval=(0.0, 0.1), rest_rate=0.0, worse=True, **p_values)


def forms(folder):
    """The options that write everything."""
    files = {"summary": "summary.md", "junit": "junit.xml", "output": "audit.json"}
    return [word for option, name in files.items() for word in (f"--{option}", folder / name)]


def cases(folder):
    return [*ElementTree.parse(folder / "junit.xml").getroot().iter("testcase")]


# ---- recorded ----


def test_a_record_is_what_the_model_answers_and_no_text(place):
    recorded, asked = Predictions.load(place / "base.npz"), predict(place / "original", shipping.raw_texts(N))
    assert np.array_equal(recorded.logits, asked.logits)
    assert recorded.data_fingerprint == asked.data_fingerprint
    result = call("record", place / "original", "--dataset", place / "rows.parquet", "--output", place / "again.npz")
    size = (place / "again.npz").stat().st_size
    assert result.stdout == (
        f"{N} answers of {place / 'original'} are in {place / 'again.npz'} ({size:,} bytes); no texts, no images\n"
    )
    texts = shipping.raw_texts(N)["text"]
    assert not any(text in (place / "again.npz").read_bytes().decode("latin-1") for text in texts)
    assert not {*recorded.ids.tolist()} & {*texts}


# ---- a good file passes, a broken one fails, in all forms ----


@pytest.mark.parametrize("model", ["original", "good/model.onnx"])
def test_a_good_file_passes_in_all_forms(place, model, tmp_path):
    result = compared(place, "base.npz", model, *LIMITS, *forms(tmp_path), "--report", tmp_path / "page.html")
    assert result.exit_code == 0, result.output
    assert "\nPASSED: shown to be within every limit." in result.stdout
    summary = (tmp_path / "summary.md").read_text()
    assert f"Passed: {model.rpartition('/')[2]} against original" in summary
    assert "| mismatch\\_rate | 5.00 % | 0.00 % | 0.75 % | within |" in summary
    assert [(case.get("name"), len(case)) for case in cases(tmp_path)] == [
        ("mismatch_rate within 5.00 %", 0),
        ("nfr within 5.00 %", 0),
    ]
    assert Audit.load(tmp_path / "audit.json").passed
    assert "Passed" in (tmp_path / "page.html").read_text()
    assert json.loads(compared(place, "base.npz", model, *LIMITS, "--json").stdout)["passed"] is True


@pytest.mark.parametrize(("baseline", "model"), [("base.npz", "permuted"), ("shuffled.npz", "original")])
def test_a_broken_file_fails_with_the_right_words_in_all_forms(place, baseline, model, tmp_path):
    result = compared(place, baseline, model, "--limit", "mismatch_rate=0.05", *forms(tmp_path))
    assert result.exit_code == 1, result.output
    assert "\nNOT PASSED: exceeded the limit on mismatch_rate." in result.stdout
    found = Audit.load(tmp_path / "audit.json")
    rate, bound = (100 * found.metrics[name] for name in ("mismatch_rate", "mismatch_rate_upper_bound"))
    summary = (tmp_path / "summary.md").read_text().replace("<!-- -->", "")
    assert f"Not passed: {model} against original" in summary
    assert "Exceeded the limit on mismatch\\_rate." in summary
    assert f"| mismatch\\_rate | 5.00 % | {rate:.2f} % | {bound:.2f} % | exceeded |" in summary
    assert f"**The first 10 of {found.metrics['cie']} items that changed**" in summary
    for item in found.items[:10]:
        names = " | ".join(found.label_names[answer] for answer in (item.reference, item.candidate))
        assert f"| {item.id} | {names} |" in summary
    (case,) = cases(tmp_path)
    words = f"mismatch_rate is {rate:.2f} %, its upper bound {bound:.2f} %, the limit 5.00 %"
    assert case[0].get("message") == f"exceeded: {words}"
    assert found.items[9].id in case[0].text
    assert found.items[10].id not in case[0].text
    texts = {word for text in shipping.raw_texts(N)["text"] for word in text.split()}
    for shown in (summary, (tmp_path / "junit.xml").read_text()):
        assert not texts & {*re.findall(r"\w+", shown)}


def test_labels_in_another_order_are_said_to_be(place):
    permuted = compared(place, "base.npz", "permuted", "--json")
    assert json.loads(permuted.stdout)["metrics"]["mismatch_rate"] > 0.9
    words = "100.00 % of the answers are the reference's with other labels: "
    for shown in (
        compared(place, "base.npz", "permuted").stdout,
        as_summary(audit(place / "base.npz", place / "permuted", shipping.raw_texts(N))),
    ):
        assert words in shown
        assert "red as " in shown
    assert words not in compared(place, "shuffled.npz", "original").stdout


def test_what_so_few_items_can_show_is_said(place):
    result = compared(place, "base.npz", "original", "--limit", "mismatch_rate=0.005")
    assert result.exit_code == 1
    assert "NOT PASSED: not shown to be within the limit on mismatch_rate." in result.stdout
    text = " ".join(result.stdout.split())
    assert f"mismatch_rate: {N} items cannot show it: if none counts, the bound is 0.75 %." in text
    assert "It takes at least 598 items. At the observed 0.00 % it takes some 598 items." in text


def test_labels_are_matched_by_name(place, tmp_path):
    turned = moved(load_compressed(place / "original"), [2, 0, 1])
    turned.config.id2label = {0: "blue", 1: "red", 2: "green"}
    turned.config.label2id = {"blue": 0, "red": 1, "green": 2}
    shipping.saved(tmp_path / "turned", turned)
    result = compared(place, "base.npz", tmp_path / "turned", *LIMITS)
    assert result.exit_code == 0, result.output
    words = "Labels are matched by name: red, green, blue in the baseline, blue, red, green in the model."
    assert words in " ".join(result.stderr.split())


def test_labels_without_names_are_matched_by_their_order(place, tmp_path):
    nameless = load_compressed(place / "original")
    nameless.config.id2label = {0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"}
    nameless.config.label2id = {name: label for label, name in nameless.config.id2label.items()}
    rows = shipping.raw_texts(N)
    rows.cast_column("label", Value("int64")).to_parquet(tmp_path / "rows.parquet")
    shipping.saved(tmp_path / "nameless", nameless)
    result = call("compare", place / "base.npz", tmp_path / "nameless", "--dataset", tmp_path / "rows.parquet", *LIMITS)
    assert result.exit_code == 0, result.output
    words = "Labels are matched by their order, as only one side has names: red, green, blue in the baseline, LABEL_0,"
    assert words in " ".join(result.stderr.split())


def test_groups_come_with_the_worst_first(place, tmp_path):
    result = compared(place, "base.npz", "permuted", "--groups", "label", "--bins", "words", *forms(tmp_path))
    assert "There is no --limit and no --slices, so --junit would be ignored" in error_of(result)
    options = ["--groups", "label", "--bins", "words", "--limit", "group_mismatch_gap=0.5", "--min-group-size", 20]
    result = compared(place, "base.npz", "permuted", *options, *forms(tmp_path))
    assert result.exit_code == 0, result.output
    summary = (tmp_path / "summary.md").read_text()
    shown = summary.split("**The groups that lost most**")[1]
    worst = max(Audit.load(tmp_path / "audit.json").groups, key=lambda row: row.nfr_interval[0])
    assert shown.split("\n")[4].startswith(f"| {worst.attribute}: {worst.group} | {worst.n} |")


def test_slices_are_saved_and_checked(place, tmp_path):
    file = tmp_path / "slices.json"
    rows = "--dataset", place / "rows.parquet"
    result = call("audit", place / "original", place / "permuted", *rows, "--find-slices", file)
    assert result.exit_code == 0, result.output
    assert "Slices were looked for, not given" in result.stdout
    assert Slices.load(file).rows == ()
    Slices((slice_of(Condition("words", threshold=5.0, above=True)),), 100, 100, 1, 0.01).save(file)
    good = compared(place, "base.npz", "original", "--slices", file, *forms(tmp_path))
    assert good.exit_code == 0, good.output
    assert "PASSED: not shown to be worse in any of 1 slice." in good.stdout
    assert [(case.get("name"), len(case)) for case in cases(tmp_path)] == [
        ("no worse than elsewhere: more than 5 words", 0)
    ]
    base = Predictions.load(place / "base.npz")
    long = np.array([len(text.split()) > 5 for text in shipping.raw_texts(N)["text"]])
    replace(base, logits=np.where(long[:, None], base.logits[:, [1, 2, 0]], base.logits)).save(tmp_path / "worse.npz")
    bad = compared(
        tmp_path,
        "worse.npz",
        place / "original",
        "--dataset",
        place / "rows.parquet",
        "--slices",
        file,
        *forms(tmp_path),
    )
    assert bad.exit_code == 1, bad.output
    assert "NOT PASSED: worse than elsewhere in 1 slice." in bad.stdout
    assert "| more than 5 words |" in (tmp_path / "summary.md").read_text()
    (case,) = cases(tmp_path)
    assert case[0].get("message").startswith("worse than elsewhere: more than 5 words: 100.00 % of")
    assert "- more than 5 words: 100.00 % of" in case[0].text


# ---- bad input ----


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["compare", "missing.npz", "original"], "There is no file missing.npz"),
        (["compare", "original", "original"], "The baseline must be the .npz file that hf-compalign record wrote. Got"),
        (
            ["compare", "base.npz", "base.npz"],
            "compare asks a model. Got the answers base.npz. Give the model, or both",
        ),
        (["compare", "base.npz", "original", "--limit", "nfr"], "--limit must be a name and a number"),
        (["compare", "base.npz", "original", "--summary", "original"], "original is a folder. Give the path of a file"),
        (["compare", "base.npz", "original", "--no-contents"], "There is no --output or --report, so --no-contents"),
        (["compare", "base.npz", "original", "--max-samples", "50"], "They are of 400 items, and 0 of 50 rows are not"),
        (["compare", "base.npz", "two"], "The two models must answer with the same labels. Got 3 labels"),
        (["compare", "base.npz", "original", "--slices", "a.json", "--find-slices", "b.json"], "Give one of them"),
        (["compare", "base.npz", "original", "--slices", "rows.json"], "rows.json is JSON, but not that of a slicing"),
        (["record", "original", "--output", "base.json"], "Answers are kept as .npz. Got --output base.json"),
        (["record", "nowhere", "--output", "other.npz"], "No model could be loaded from 'nowhere'"),
        (["audit", "base.npz", "original"], "hf-compalign compare holds a model against such a file"),
    ],
)
def test_what_cannot_be_compared_is_refused_in_one_line(place, monkeypatch, words, message):
    monkeypatch.chdir(place)
    shipping.saved(place / "two", tiny.bert(**tiny.NAMED))
    (place / "rows.json").write_text("{}")
    assert re.search(message, error_of(call(*words, "--dataset", "rows.parquet")))


def test_other_data_are_refused_before_the_model_runs(place, tmp_path, monkeypatch):
    def run(*args, **settings):
        raise AssertionError("The model was run first.")

    monkeypatch.setattr("hf_compalign.measure.audit.opened.predict", run)
    rows = shipping.raw_texts(N)
    rows.select(range(1, N)).to_parquet(tmp_path / "fewer.parquet")
    result = call("compare", place / "base.npz", place / "original", "--dataset", tmp_path / "fewer.parquet")
    message = "The predictions must be of the rows of the dataset. They are of 400 items, and 0 of 399 rows"
    assert message in error_of(result)
    named = rows.add_column("id", [str(row) for row in range(N)])
    answers = predict(place / "original", named)
    answers.save(tmp_path / "named.npz")
    turned = named.map(lambda row: {"text": f"{row['text']} w1"})
    turned.to_parquet(tmp_path / "turned.parquet")
    result = call("compare", tmp_path / "named.npz", place / "original", "--dataset", tmp_path / "turned.parquet")
    assert re.search("The ids match, but the data differ: .* the same --dataset, --split", error_of(result))


# ---- the renderers ----


def test_hostile_names_neither_break_a_summary_nor_the_xml(tmp_path):
    names = ["@everyone", "</failure>]]>&<b>", "a|b\n# c \ufffe\x00\x1b"]
    ids = [f"@you #{row} |\n</testcase> \uffff\x08" for row in range(80)]
    sides = [
        Predictions(np.eye(3)[[answer] * 80], [0] * 80, ids, names, model=f"runs/{model}")
        for answer, model in ((0, "<!-- @me"), (1, "]]> \x02"))
    ]
    found = audit(*sides, groups={"@x": names[1:] * 40}, limits={"mismatch_rate": 0.1, "group_mismatch_gap": 1.0})
    hostile = slice_of(Condition("value", "@column", "</failure>]]>\x00 |"))
    found = replace(found, slices=Slices((hostile,), 0, 80, 1, 0.01, checked=True))
    (case, other, of_slice) = ElementTree.fromstring(as_junit(found).encode()).iter("testcase")
    assert [len(case), len(other), len(of_slice)] == [1, 0, 1]
    assert (
        of_slice[0].get("message").startswith("worse than elsewhere: @column is '</failure>]]>[U+0000] |': 4.00 % of")
    )
    assert "</failure>" not in render([found])
    assert "@everyone" in case[0].text
    summary = as_summary(found)
    assert not re.search(r"[@#]\w", summary)
    assert "<b>" not in re.sub(r"\\<b\\>", "", summary)
    for line in summary.splitlines():
        assert not line.startswith("|") or line.endswith("|")
    assert write_summary(tmp_path / "a.md", found).read_text() == summary
    assert write_junit(tmp_path / "a.xml", found).read_text() == as_junit(found)


def test_a_summary_without_limits_has_the_rates():
    summary = as_summary(report_data.made_audit(limits=False))
    assert "No limit set: pruned-aligned against org/original" in summary
    assert "| other answer (mismatch rate) |" in summary


def test_the_first_items_are_the_most_harmful():
    found = metrics_beside_fields(report_data.made_audit().to_dict())
    table = first_changed(found)
    assert [row[0] for row in table.rows] == [item["id"] for item in found["items"][:10]]
    assert {row[-1] for row in table.rows} == {"right, now wrong"}
    assert table.title == f"The first 10 of {found['cie']:,} items that changed"
    assert "- nfr is" in failure(found)
