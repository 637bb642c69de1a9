"""The model card says what the audit says, in a form that the Hub reads."""

import dataclasses
import math
import re

import numpy as np
import pytest
import shipping
import tiny
from huggingface_hub import ModelCard

from hf_compalign import shrink_
from hf_compalign.measure.attribution import AttributionAgreement, SimilarityRow
from hf_compalign.measure.audit import audit
from hf_compalign.measure.footprint import Footprint, Latency
from hf_compalign.measure.predictions import Predictions
from hf_compalign.measure.statistics import Estimate
from hf_compalign.models import Runtime
from hf_compalign.report.card import CardDetails, Deferred, Measured, changed_options
from hf_compalign.ship import write_model_card

DETAILS = CardDetails(
    task="text-classification",
    base_model="google-bert/bert-base-uncased",
    dataset="sst2",
    dataset_id="nyu-mll/glue",
    dataset_config="sst2",
    dataset_split="validation",
    tags=["pruning"],
    recipe={"Compression": {"sparsity": 0.5, "pruning_pattern": "layer"}, "Alignment": {}},
)


def predictions(answers, *, labels, **about):
    logits = np.eye(3)[answers]
    ids = [f"item {index}" for index in range(len(answers))]
    return Predictions(logits, labels, ids, ["red", "green", "blue"], **about)


def compared(labels=(0, 1, 2, 0, 1, 2, 0, 1)):
    # Against the labels: 5 right in both, item 5 lost, item 6 gained, item 7 wrong in different ways.
    reference = predictions([0, 1, 2, 0, 1, 2, 1, 0], labels=labels)
    candidate = predictions([0, 1, 2, 0, 1, 0, 0, 2], labels=labels)
    return audit(reference, candidate, limits={"mismatch_rate": 0.9})


def written(folder, found=None, **other):
    """The metadata and the text of a card with other details."""
    write_model_card(folder, found or compared(), details=dataclasses.replace(DETAILS, **other))
    return shipping.front_matter(folder)


def test_the_numbers_of_the_card_are_those_of_the_audit(tmp_path):
    header, body = written(tmp_path)
    (index,) = header["model-index"]
    (result,) = index["results"]
    values = {metric["type"]: metric["value"] for metric in result["metrics"]}
    scores = {"f1": compared().metrics["f1_candidate"], "matthews_correlation": compared().metrics["mcc_candidate"]}
    assert values == scores | {"accuracy": 6 / 8, "agreement": 5 / 8, "mismatch_rate": 3 / 8, "nfr": 1 / 8}
    assert index["name"] == tmp_path.name
    assert result["task"] == {"type": "text-classification"}
    assert result["dataset"] == {"name": "sst2", "type": "nyu-mll/glue", "config": "sst2", "split": "validation"}
    # The interval of 3 in 8 is statsmodels' proportion_confint(3, 8, method="wilson").
    assert "| other answer (mismatch rate) | 3 of 8 | 37.50 % | 13.68 to 69.43 % | 71.08 % |" in body
    assert "| right, now wrong (NFR) | 1 of 8 | 12.50 % |" in body
    assert "| wrong, now right (PFR) | 1 of 8 | 12.50 % |" in body
    assert "| accuracy after | 6 of 8 | 75.00 % |" in body
    assert re.search(r"\| accuracy \| 75.00 % \| 75.00 % \| 0.00 points \| .*\n\| F1 \(macro\) \| [0-9.]+ % \|", body)
    assert f"| KL divergence from the reference (nats) | {compared().metrics['kl']:.4g} |" in body
    assert "5 of them like the original and 3 differently" in body
    assert "| mismatch\\_rate | 90.00 % | 37.50 % | 71.08 % | within |" in body


def test_the_metadata_are_what_the_hub_knows(tmp_path):
    returned = write_model_card(tmp_path, compared(), details=DETAILS)
    header, _ = shipping.front_matter(tmp_path)
    assert header["base_model"] == "google-bert/bert-base-uncased"
    assert (header["base_model_relation"], header["library_name"]) == ("finetune", "transformers")
    assert (header["pipeline_tag"], header["datasets"]) == ("text-classification", ["nyu-mll/glue"])
    assert {"hf_compalign", "pruning", "knowledge-distillation"} <= set(header["tags"])
    # The Hub's own reader finds the same results, and the card that is returned is the one that was written.
    loaded = ModelCard.load(tmp_path / "README.md")
    assert loaded.data.to_dict() == returned.data.to_dict()
    assert {result.metric_type: result.metric_value for result in loaded.data.eval_results}["nfr"] == 1 / 8


def test_only_what_was_aligned_is_called_distilled(tmp_path):
    header, body = written(tmp_path, recipe={})
    assert header["tags"] == ["hf_compalign", "model-compression", "pruning"]
    assert "How it was made" not in body


def test_the_relation_to_the_base_model_is_one_that_the_hub_knows(tmp_path):
    assert written(tmp_path, base_model_relation="quantized")[0]["base_model_relation"] == "quantized"
    with pytest.raises(ValueError, match="must be one of adapter, finetune, merge, quantized. Got 'pruned'"):
        dataclasses.replace(DETAILS, base_model_relation="pruned")


def test_the_files_stand_side_by_side(tmp_path):
    found = compared()
    strict = dataclasses.replace(found, limits=(dataclasses.replace(found.limits[0], limit=0.2, passed=False),))
    files = {
        "original": Measured(None, 0.75, 4_800_000, {1: Latency(8.0, 7.5, 9.0)}),
        "model.safetensors": Measured(found, 0.75, 4_800_000, {1: Latency(7.25, 7.0, 8.0)}),
        "onnx/model_int8.onnx": Measured(strict, 0.75, 1_204_000, {1: Latency(2.126, 2.0, 3.0)}),
    }
    _, body = written(tmp_path, found, files=files, machine="a Pentium")
    rate = "3 of 8 | 37.50 % (13.68 to 69.43 %)"
    table = f"""|  | accuracy | mismatches | mismatch rate | limits | MB | ms, batch 1 |
|---|---|---|---|---|---|---|
| original | 75.00 % |  |  |  | 4.80 | 8.00 (7.50 to 9.00) |
| model.safetensors | 75.00 % | {rate} | within | 4.80 | 7.25 (7.00 to 8.00) |
| onnx/model_int8.onnx | 75.00 % | {rate} | not shown to be within | 1.20 | 2.13 (2.00 to 3.00) |

"""
    assert table in body
    assert "median and quartiles of one forward pass, all models in turn, on a Pentium. Not to be trusted: the " in body
    assert "quartiles of onnx/model_int8.onnx are more than a quarter of the median apart." in body
    assert 'hf_hub_download("' in body
    assert '{ dtype: "int8" }' in body


@pytest.mark.parametrize(
    ("stem", "options"),
    [
        ("model", 'dtype: "fp32"'),
        ("model_quantized", 'dtype: "q8"'),
        ("model_int8_static", 'dtype: "fp32", model_file_name: "model_int8_static"'),
    ],
)
def test_transformers_js_is_told_the_file(tmp_path, stem, options):
    assert f"{{ {options} }}" in written(tmp_path, files={f"onnx/{stem}.onnx": Measured(compared(), 0.75)})[1]


def computed_in(precision, *, batch_dependent=False):
    """A file whose audit says in which precision it was computed, or nothing of it."""
    found = compared()
    runtime = precision and Runtime("OpenVINO 1", precision, 2, batch_dependent=batch_dependent, batch_size=32)
    return Measured(dataclasses.replace(found, candidate=dataclasses.replace(found.candidate, runtime=runtime)), 0.75)


def test_openvino_is_told_the_precision_of_each_file(tmp_path):
    said = {"": "bf16", "_small": "f32", "_other": "bf16", "_unknown": None}
    files = {f"openvino/openvino_model{what}.xml": computed_in(precision) for what, precision in said.items()}
    _, body = written(tmp_path, files=files)
    in_bf16 = "in bf16 (`openvino/openvino_model.xml`, `openvino/openvino_model_other.xml`)"
    in_f32 = "in f32 (`openvino/openvino_model_small.xml`, `openvino/openvino_model_unknown.xml`)"
    assert f"was audited {in_bf16} and {in_f32}: set `INFERENCE_PRECISION_HINT` to that" in body
    assert 'f"openvino/openvino_model_unknown.{end}"' in body
    assert '{"INFERENCE_PRECISION_HINT": "f32"}' in body
    assert "The OpenVINO files follow below." in body
    assert "onnxruntime" not in body


def test_files_whose_answers_depend_on_the_batch_are_named(tmp_path):
    files = {f"onnx/model{what}.onnx": computed_in("f32", batch_dependent=bool(what)) for what in ("", "_b", "_c")}
    _, body = written(tmp_path, files=files)
    assert "Answers of onnx/model\\_b.onnx, onnx/model\\_c.onnx depend on the batch, as dynamic INT8 takes" in body
    assert "depend on the batch" not in written(tmp_path, files={"onnx/model.onnx": computed_in("f32")})[1]


def test_a_pair_is_loaded_with_what_is_behind_it(tmp_path):
    """The original is called like its row of the table, and is no file of the folder."""
    files = {"original": Measured(None, 0.75)} | {name: computed_in("f32") for name in ("model.safetensors", "a.onnx")}
    deferrals = {"model.safetensors": Deferred("It is sure.", "original")}
    for pair, code in ((False, "folder"), (True, 'DeferringModel(folder, "original")')):
        of_file = Deferred("It is surer.", "model.safetensors", pair=pair)
        _, body = written(tmp_path, files=files, deferrals=deferrals | {"a.onnx": of_file}, name="org/small")
        assert f'folder = snapshot_download("org/small")\npair = DeferringModel(f"{{folder}}/a.onnx", {code})\n' in body
        assert 'pair = DeferringModel(folder, "original")\n' in body
        assert ("`model.safetensors`, with what is behind that, (the reference) answers" in body) is pair
    assert "Let a file answer" not in written(tmp_path, files=files)[1]


def test_images_are_loaded_as_images(tmp_path):
    _, body = written(tmp_path, task="image-classification", files={"onnx/model.onnx": Measured(compared(), 0.75)})
    assert "pip install onnxruntime transformers pillow`" in body
    assert "AutoImageProcessor" in body
    assert "AutoTokenizer" not in body


def test_a_local_original_is_not_named_in_the_metadata(tmp_path):
    (tmp_path / "original").mkdir()
    header, body = written(tmp_path, base_model=str(tmp_path / "original"))
    assert not {"base_model", "base_model_relation"} & header.keys()
    assert "from `original`" in body
    assert str(tmp_path) not in body


def test_the_body_says_how_it_was_made_and_is_loaded(tmp_path):
    header, body = written(tmp_path, name="my-org/my-model")
    assert "**Compression**: `sparsity` 0.5, `pruning_pattern` layer\n" in body
    assert "**Alignment**: none\n" in body
    assert 'pipeline("text-classification", model="my-org/my-model")' in body
    assert "https://huggingface.co/papers/2012.01604" in body
    assert header["model-index"][0]["name"] == "my-model"
    assert "{{" not in body
    assert "{%" not in body


def test_the_way_to_load_a_shrunk_model_works(tmp_path):
    model = tiny.bert()
    shrink_(model, ffn=0.5, heads=0.5)
    shipping.saved(tmp_path, model)
    _, body = written(tmp_path, name=str(tmp_path))
    code = body.partition("## How to load it")[2].partition("```python\n")[2].partition("```")[0]
    names = {}
    exec(code, names)
    assert names["classify"]("w1 w2")[0]["label"].startswith("LABEL_")
    assert "`pip install hf-compalign` knows to read" in body


def test_the_card_says_what_the_model_costs_and_what_zeros_are_worth(tmp_path):
    dense = Footprint(1200, 1200, 0, 4800, None, 2400.0, latency=None, batch_size=4, threads=1, device="cpu")
    pruned = dataclasses.replace(dense, nonzero_parameters=300)
    times = (Latency(8.0, 7.5, 9.0), Latency(8.0, 7.0, 8.25))
    _, body = written(tmp_path, footprints=(dense, pruned), latencies=times)
    table = """## What does it cost?

| costs | original | compressed | ratio |
| --- | ---: | ---: | ---: |
| parameters | 1,200 | 1,200 | 1.00 |
| parameters that are not 0 | 1,200 | 300 | 0.25 |
| FLOPs per item | 2,400 | 2,400 | 1.00 |
| bytes | 4,800 | 4,800 | 1.00 |
| latency (ms) | 8.00 (7.50 to 9.00) | 8.00 (7.00 to 8.25) | 1.00 |

"""
    assert table in body
    assert "75 % of the compressed model's parameters are 0." in body
    assert "zeros make the model neither smaller nor faster" in body


def test_without_footprints_the_card_claims_nothing_about_costs_and_takes_no_latencies(tmp_path):
    with pytest.raises(ValueError, match="latencies beside the footprints. Got no footprints: give both, or neither"):
        written(tmp_path, latencies=(Latency(1.0, 1.0, 1.0),) * 2)
    assert list(tmp_path.iterdir()) == []
    assert "cost" not in written(tmp_path)[1]


def test_without_labels_the_card_claims_nothing_about_accuracy(tmp_path):
    header, body = written(tmp_path, compared(labels=[-100] * 8))
    metrics = header["model-index"][0]["results"][0]["metrics"]
    assert {metric["type"] for metric in metrics} == {"agreement", "mismatch_rate"}
    assert not any(math.isnan(metric["value"]) for metric in metrics)
    assert "accuracy |" not in body
    assert "nan %" not in body


def test_a_limit_that_is_not_kept_is_told(tmp_path):
    found = compared()
    limits = tuple(dataclasses.replace(limit, limit=0.1, passed=False) for limit in found.limits)
    _, body = written(tmp_path, dataclasses.replace(found, limits=limits))
    assert "| mismatch\\_rate | 10.00 % | 37.50 % | 71.08 % | exceeded |" in body


def test_the_card_sums_up_what_else_was_audited(tmp_path):
    rng = np.random.default_rng(0)
    answers, labels = rng.integers(0, 3, 80), rng.integers(0, 3, 80)
    changed, rerun = answers.copy(), answers.copy()
    changed[:5] = (changed[:5] + 1) % 3
    rerun[40:50] = (rerun[40:50] + 1) % 3
    sides = [predictions(some, labels=labels) for some in (answers, changed, rerun)]
    found = audit(*sides[:2], groups={"a|b": ["<i>x</i>"] * 40 + ["y"] * 40}, floor=sides[2])
    none = Estimate(math.nan, math.nan, math.nan)
    cosine = SimilarityRow("cosine", Estimate(0.9, 0.85, 0.95), none, none, Estimate(0.1, 0, 0), Estimate(1, 0, 0))
    agreement = AttributionAgreement("text", "saliency", 10, 8, 2, 0, 5, math.nan, math.nan, (cosine,))
    _, body = written(tmp_path, dataclasses.replace(found, attribution=agreement))
    shift, (gap,) = found.calibration, found.gaps
    before, after = shift.reference.ece, shift.candidate.ece
    assert f"| calibration error (ECE) | {before:.4f} | {after:.4f} | {after - before:+.4f} | " in body
    # The first group has all 5 changes in 40 items.
    assert r"| judged groups of a\|b: 2 | observed |" in body
    row = f"| mismatch rate, gap | 12.50 points | at most {100 * gap.upper_bound:.2f} points | {gap.p_value:.3g} |"
    assert rf"{row} \<i\>x\</i\> - y |" in body
    change = f"{-100 * gap.worst_group_accuracy_drop:+.2f} points | at worst {-100 * gap.drop_upper_bound:+.2f} points"
    assert f"| accuracy of the worst group, change | {change} |" in body
    assert "| re-run unnamed | 10 | 12.50 % | " in body
    similar = "0.900 (0.850 to 0.950) | - | - | 0.100 (-) | 1.000 (-) |"
    assert f"| cosine | {similar}" in body


def test_the_report_is_linked_if_it_is_there_and_a_missing_folder_refused(tmp_path):
    with pytest.raises(ValueError, match=r"There is no report 'report.html' in .* Write it with write_report first"):
        written(tmp_path, report="report.html")
    (tmp_path / "report.html").write_text("<p>")
    assert "[the full report](report.html)" in written(tmp_path, report="report.html")[1]
    with pytest.raises(FileNotFoundError, match="There is no folder .*nowhere.* Save the model first"):
        write_model_card(tmp_path / "nowhere", compared(), details=DETAILS)


def test_changed_options_are_those_not_at_their_default():
    @dataclasses.dataclass
    class Options:
        kept: float = 1.0
        changed: float = 1.0

    assert changed_options(Options(changed=2.0)) == {"changed": 2.0}
