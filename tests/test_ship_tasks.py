"""What ships of models whose items share examples: repaired, compared, searched and written like that of any other."""

import copy
import json
from dataclasses import replace

import every_task
import numpy as np
import pytest
import shipping
import torch
import zoo
from datasets import ClassLabel, Dataset, Features, Sequence, Value
from transformers import SegformerImageProcessor

from hf_compalign import SearchOptions, audit, compress_model, predict, save_artifact
from hf_compalign.compress.export import export_onnx
from hf_compalign.measure.audit import AuditOptions, Verdict
from hf_compalign.measure.predictions import Columns, parts_of, reader_of
from hf_compalign.measure.statistics import cluster_bound
from hf_compalign.search import plan_of
from hf_compalign.search.recovering import prepared_for_training, recover
from hf_compalign.search.setting import setting_of
from hf_compalign.ship import ArtifactDetails, ExportOptions, export_audited
from hf_compalign.ship.deployments import DeploymentOptions, compare_deployments
from hf_compalign.ship.repair import RepairOptions, repair_int8, split
from hf_compalign.tasks import task_of

pytestmark = pytest.mark.usefixtures("traced_once")

N = 300
NAMES = shipping.NAMES
TOKENIZER = shipping.tokenizer()
COLUMNS = {"words": Columns(text="words", label="tags"), "labels": Columns(label="labels")}
LIMIT = {"mismatch_rate": 0.2}


def model(kind):
    how = {"vocab_size": len(TOKENIZER), **shipping.NAMED}
    if kind == "words":
        return zoo.build("bert", head="ForTokenClassification", **how).eval()
    return zoo.build("bert", problem_type="multi_label_classification", **how).eval()


def rows(kind, n=N):
    """Texts of 2 to 9 words, each with a tag, or each text with three labels."""
    texts, rng = shipping.raw_texts(n)["text"], np.random.default_rng(0)
    if kind == "labels":
        return Dataset.from_dict({"text": texts, "labels": rng.integers(0, 2, (n, 3)).tolist()})
    words = [text.split() for text in texts]
    tags = [rng.integers(0, 3, len(text)).tolist() for text in words]
    features = Features({"words": Sequence(Value("string")), "tags": Sequence(ClassLabel(names=NAMES))})
    return Dataset.from_dict({"words": words, "tags": tags}, features=features)


def asking(kind):
    return AuditOptions(COLUMNS[kind], TOKENIZER)


@pytest.fixture(params=["words", "labels"])
def kind(request):
    return request.param


# ---- the answers to some of the rows ----


def test_the_answers_to_a_part_are_those_that_predict_gives_to_it_alone(kind):
    given, network = rows(kind), model(kind)
    given = Dataset.from_list([*given, *list(given)[:5]], features=given.features)  # some rows twice
    how = {"processing_class": TOKENIZER, "columns": COLUMNS[kind]}
    whole = predict(network, given, **how)
    order = np.random.default_rng(1).permutation(len(given)).tolist()
    parts = [order[:40], order[40:]]
    for places, found in zip(
        parts, parts_of(whole, given, parts, task=task_of(network), columns=COLUMNS[kind]), strict=True
    ):
        alone = predict(network, given.select(places), **how)
        assert np.array_equal(found.ids, alone.ids)
        assert np.array_equal(found.examples, alone.examples)
        assert np.array_equal(found.labels, alone.labels)
        assert np.allclose(found.logits, alone.logits, atol=1e-5)
        assert found.data_fingerprint == alone.data_fingerprint


def parted(kind, limits=LIMIT, n=N):
    network, given = model(kind), rows(kind, n)
    answers = predict(network, given, processing_class=TOKENIZER, columns=COLUMNS[kind])
    return split(given, answers, share=0.5, task=task_of(network), limits=limits, options=asking(kind))


def test_both_parts_are_held_to_bounds_over_rows(kind):
    for part in parted(kind):
        sizes = np.bincount(part.reference.examples)
        assert part.best.n_examples == N // 2
        [verdict] = part.best.limits
        assert verdict.upper_bound == pytest.approx(cluster_bound(np.zeros_like(sizes), sizes))


def test_too_few_rows_are_told_in_rows():
    with pytest.raises(
        ValueError, match=r"450 of 150 examples judge, .* Give at least (\S+) examples, or a limit"
    ) as refused:
        parted("labels", {"mismatch_rate": 0.01})
    needed = int(str(refused.value).split("at least ")[1].split(" ")[0].replace(",", ""))
    # Every text has three labels, so what is promised can be computed.
    assert cluster_bound([0] * (needed // 2), [3] * (needed // 2)) <= 0.01
    assert cluster_bound([0] * (needed // 2 - 8), [3] * (needed // 2 - 8)) > 0.01


def test_what_is_expected_of_others_is_what_was_bounded_here_scaled(kind):
    _, judged = parted(kind)
    best = judged.best
    twice = judged.expects(best)[0]
    assert twice.upper_bound == pytest.approx(best.limits[0].upper_bound)  # none here, as many there
    few = Verdict("mismatch_rate", 0.2, 0.05, 0.09, passed=True)
    found = best.__class__(**{**vars(best), "limits": (few,)})
    [expected] = judged.expects(found)
    assert expected.upper_bound == pytest.approx(0.05 + 0.04 / 1.645 * np.sqrt(2) + 0.04)
    assert expected.passed


def test_an_audit_says_how_many_examples_it_takes(kind):
    found = audit(model(kind), model(kind), rows(kind, 40), limits={"mismatch_rate": 0.02}, options=asking(kind))
    [verdict] = found.limits
    assert (verdict.n_examples, verdict.of_what, verdict.passed) == (40, "example", False)
    text = str(found)
    assert f"{found.n} items of 40 examples do not show it. At the observed 0.00 % it takes some" in text
    # Many texts of these sizes show it, and few less do not.
    sizes = np.bincount(found.predictions["reference"].examples)
    many, fewer = (np.resize(sizes, int(part * verdict.needed)) for part in (1.1, 0.9))
    assert cluster_bound(0 * many, many) <= 0.02 < cluster_bound(0 * fewer, fewer)


def test_a_search_says_how_many_examples_would_show_it(tmp_path):
    kind = "labels"
    how = {"formats": ("onnx",), "cuts": (), "int8": False, "deferral": False, "repair_measurements": 0, "n_runs": 2}
    near = Verdict("mismatch_rate", 0.2, 0.1, 0.3, passed=False, n_examples=60)
    assert near.needed == pytest.approx(60 * ((0.3 - 0.1) / (0.2 - 0.1)) ** 2)
    assert Verdict("mismatch_rate", 0.2, 0.2, 0.3, passed=False, n_examples=60).needed == np.inf
    options = SearchOptions(**how, columns=COLUMNS[kind], processing_class=TOKENIZER)
    found = compress_model(model(kind), rows(kind), tmp_path / "out", limits=LIMIT, options=options)
    tried = tuple(replace(one, measured=replace(one.measured, limits=(near,))) for one in found.search.tried)
    without = replace(found, search=replace(found.search, tried=tried), judged=(), proved=None)
    assert without.sentence.endswith("At this rate it takes 240 examples that prove, and some more as a margin.")
    assert "the 120 examples that prove are expected to show at most" in without.sentence


# ---- the verbs ----


def test_a_repair_keeps_the_limit_on_rows_that_it_has_not_seen(kind, tmp_path):
    found = repair_int8(
        model(kind),
        tmp_path / "out",
        limits=LIMIT,
        dataset=rows(kind),
        options=RepairOptions(
            columns=COLUMNS[kind], processing_class=TOKENIZER, timed_batch_sizes=(), max_measurements=3
        ),
    )
    assert found.passed
    assert found.audit.n_examples == N // 2
    own = predict(model(kind), rows(kind), processing_class=TOKENIZER, columns=COLUMNS[kind])
    assert found.n_searched + found.n_judged == len(own)


def test_an_export_is_audited_by_words_and_labels(kind, tmp_path):
    folder = shipping.saved(tmp_path / "model", model(kind))
    options = ExportOptions(columns=COLUMNS[kind])
    found = export_audited(folder, tmp_path / "out", rows(kind, 40), limits=LIMIT, options=options)
    assert found.audit.n_examples == 40
    assert found.audit.metrics["cie"] == 0
    assert found.latency["model.onnx"][8].median_ms > 0


def test_files_are_compared_by_words_and_labels(kind, tmp_path):
    network = model(kind)
    file = export_onnx(network, tmp_path / "out", processing_class=TOKENIZER).path
    how = DeploymentOptions(COLUMNS[kind], TOKENIZER, n_runs=2, memory=False)
    found = compare_deployments(network, {"original": network, "file": file}, rows(kind, 40), options=how)
    assert [row.mismatches for row in found.rows] == [0, 0]
    assert found.rows[1].n > 100


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    """The result of a search for each kind, and its folder."""
    made = {}
    options = {"formats": ("onnx",), "cuts": (0.5,), "repair_measurements": 0, "n_runs": 2, "batch_size": 4}

    def done(kind):
        if kind not in made:
            folder = tmp_path_factory.mktemp(kind) / "out"
            how = SearchOptions(**options, columns=COLUMNS[kind], processing_class=TOKENIZER)
            made[kind] = compress_model(model(kind), rows(kind), folder, limits=LIMIT, options=how), folder
        return made[kind]

    return done


@pytest.mark.slow
def test_one_command_finds_a_file_and_proves_it_on_other_rows(searched, kind):
    found, folder = searched(kind)
    assert found.passed
    assert {one.measured.n for one in found.search.tried} == {found.search.tried[0].measured.n}
    said = json.loads(next((folder / "onnx").glob("*.audit.json")).read_text())
    assert said["n_examples"] == 120  # a fifth calibrates, and half of the others prove
    assert said["metrics"]["mismatch_rate_upper_bound"] <= 0.2
    assert "in 120 examples" in (folder / "README.md").read_text()


@pytest.mark.slow
def test_the_folder_opens_and_answers_alike(searched, kind):
    _, folder = searched(kind)
    file = next((folder / "onnx").glob("*.onnx"))
    found = audit(model(kind), file, rows(kind, 50), options=asking(kind))
    assert found.metrics["mismatch_rate"] <= 0.2


@pytest.mark.slow
def test_cuts_of_models_with_labels_are_tried(searched, kind):
    found, _ = searched(kind)
    names = {one.name for one in found.search.tried}
    assert {"50 % cut, ONNX", "ONNX INT8"} <= names
    assert not [reason for reason in found.search.left_out.values() if "calibration" in reason]


@pytest.mark.slow
def test_choices_are_searched_too(tmp_path):
    """They have no names before they are asked, and no pair answers them."""
    network = every_task.CASES["multiple-choice"].model(0).eval()
    how = SearchOptions(formats=("onnx",), cuts=(0.5,), repair_measurements=0, n_runs=2, processing_class=TOKENIZER)
    given = every_task.rows("multiple-choice", 200)
    found = compress_model(network, given, tmp_path / "out", limits={"mismatch_rate": 0.3}, options=how)
    assert found.passed
    assert "ONNX INT8" in {one.name for one in found.search.tried}
    assert not [name for name in found.search.left_out if name == "ONNX INT8"]


def test_a_plan_of_pixels_promises_what_images_can_show():
    network = every_task.CASES["image-segmentation"].model(0).eval()
    plan = plan_of(
        network,
        every_task.rows("image-segmentation", 100),
        limits={"mismatch_rate": 0.5},
        options=SearchOptions(formats=("onnx",), processing_class=SegformerImageProcessor()),
    )
    assert plan.least == pytest.approx(cluster_bound([0] * 40, [1] * 40))


def test_what_cannot_be_audited_is_not_searched(tmp_path):
    values = zoo.build("bert", vocab_size=len(TOKENIZER), num_labels=1)
    options = SearchOptions(formats=("onnx",), processing_class=TOKENIZER)
    with pytest.raises(ValueError, match="is a regression: .* Ask it with predict_values"):
        compress_model(values, shipping.raw_texts(), tmp_path / "out", limits=LIMIT, options=options)


def recovered(tmp_path, network, student, given, **how):
    """The student, trained for some looks to answer like the network."""
    shape = {"formats": ("onnx",), "train_steps": 8, "train_batch_size": 8, "learning_rate": 1e-2}
    options = SearchOptions(**{**shape, "processing_class": TOKENIZER, **how})
    limits = {"mismatch_rate": 0.9}
    one, others = given.select([0]), given.select(range(1, len(given)))
    setting = setting_of(network, one, limits=limits, calibration=None, train=others, options=options)
    return recover(student, setting, given, tmp_path)


def test_cut_models_of_words_and_labels_are_trained_to_answer_alike(kind, tmp_path):
    network, given = model(kind), rows(kind, 64)
    student = copy.deepcopy(network)
    torch.manual_seed(1)
    torch.nn.init.normal_(student.classifier.weight, std=0.5)
    before = audit(network, student, given, options=asking(kind)).metrics["cie"]
    found = recovered(tmp_path, network, student, given, columns=COLUMNS[kind])
    assert audit(network, found, given, options=asking(kind)).metrics["cie"] < before


def test_words_are_told_to_the_trainer_by_their_first_tokens():
    given = rows("words", 20)
    reader = reader_of(model("words"), given, processing_class=TOKENIZER)
    prepared = prepared_for_training(reader, given, COLUMNS["words"])
    items = reader.items(given, prepared, COLUMNS["words"])
    for row, labels in enumerate(prepared["labels"]):
        assert [place for place, label in enumerate(labels) if label >= 0] == items.places[items.rows == row].tolist()


@pytest.mark.parametrize("name", ["windows", "multiple-choice"])
def test_models_of_other_tasks_are_trained_too(name, tmp_path):
    case = every_task.CASES[name]
    network, given = case.model(0).eval(), every_task.rows(name, 24)
    found = recovered(tmp_path, network, case.model(1), given, train_steps=4)
    [last] = tmp_path.glob("checkpoint-*/trainer_state.json")
    seen = [row["eval_mismatch_rate"] for row in json.loads(last.read_text())["log_history"] if "eval_loss" in row]
    answers = [predict(one, given, data_collator=every_task.padded).predicted for one in (network, found)]
    assert (answers[0] != answers[1]).mean() <= min(seen) + 1e-9


def test_an_artifact_has_an_audit_of_each_file(kind, tmp_path):
    network = model(kind)
    file = export_onnx(network, tmp_path / "file", processing_class=TOKENIZER).path
    details = ArtifactDetails(processing_class=TOKENIZER, columns=COLUMNS[kind], timed_batch_sizes=())
    made = save_artifact(
        network, tmp_path / "out", reference=network, dataset=rows(kind, 40), onnx=[file], details=details
    )
    assert {one.audit.n_examples for one in made.files.values() if one.audit is not None} == {40}
    assert task_of(network).name in (tmp_path / "out" / "README.md").read_text()
