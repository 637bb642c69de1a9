"""Two processes under FSDP version 2 prune like one; what cannot be pruned in place is refused."""

import json
import subprocess
import sys

import numpy as np
import pytest
import sharded_run
import tiny
import torch
from transformers import AutoModelForSequenceClassification

from hf_compalign import PruningCallback
from hf_compalign.compress import load_compressed, prunable_weights, same_everywhere_, sparsity_of

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sharded")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    launch += [sharded_run.__file__, str(folder)]
    done = subprocess.run(launch, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.fixture(scope="module")
def results(folder):
    """The results of each process."""
    return json.loads((folder / "results.json").read_text())


@pytest.fixture(params=range(sharded_run.PROCESSES))
def process(results, request):
    return results[request.param]


@pytest.mark.parametrize("pattern", sharded_run.PATTERNS)
def test_two_sharded_processes_equal_one(results, pattern, tmp_path):
    one = sharded_run.train(tmp_path, pattern)
    assert not one["sharded"]
    for process in results:
        two = process["patterns"][pattern]
        assert two["sharded"]
        assert two["optimized"]  # what is pruned is what the optimizer trains
        np.testing.assert_allclose(two["parameters"], one["parameters"], atol=1e-6)
        np.testing.assert_array_equal(np.array(two["parameters"]) == 0, np.array(one["parameters"]) == 0)
        assert two["sparsities"] == one["sparsities"]
        assert len(two["sparsities"]) == sharded_run.STEPS


@pytest.mark.parametrize("score", sharded_run.SCORES)
def test_two_sharded_processes_judge_weights_like_one(results, score, tmp_path):
    # Clipped to less than any of its norms: FSDP on the CPU scales small gradients up.
    one = sharded_run.train(tmp_path, None, score=score, max_grad_norm=0.1)
    for process in results:
        two = process["scores"][score]
        np.testing.assert_allclose(two["parameters"], one["parameters"], atol=1e-6)
        np.testing.assert_array_equal(np.array(two["parameters"]) == 0, np.array(one["parameters"]) == 0)


@pytest.mark.parametrize("pattern", sharded_run.PATTERNS)
def test_a_sharded_checkpoint_is_an_ordinary_folder(folder, results, pattern):
    for step, logged in zip((2, 4, 6), results[0]["patterns"][pattern]["sparsities"][1::2], strict=True):
        loaded = AutoModelForSequenceClassification.from_pretrained(folder / pattern / f"checkpoint-{step}")
        assert sparsity_of(prunable_weights(loaded)) == logged
    assert logged == pytest.approx(0.6, abs=1e-3)
    assert tiny.flat(loaded).tolist() == results[0]["patterns"][pattern]["parameters"]


@pytest.mark.parametrize("kind", ["full", "shards", "learned"])
def test_a_sharded_run_resumes_bitwise(process, kind):
    assert process[kind]["resumed"]["parameters"] == process[kind]["whole"]["parameters"]
    assert process[kind]["resumed"]["sparsities"] == process[kind]["whole"]["sparsities"]


def test_learned_scores_in_a_checkpoint_of_shards_are_refused(process):
    refused = process["learned-shards"]["refused"]
    assert "A checkpoint in shards does not hold what score='movement' has learned" in refused
    assert "'state_dict_type': 'FULL_STATE_DICT'" in refused


@pytest.mark.parametrize("kind", sharded_run.SHRINKING)
def test_two_processes_shrink_like_one(folder, results, kind, tmp_path):
    one = sharded_run.shrink(tmp_path, kind)
    for process in results:
        for way in ("ddp", "fsdp"):
            two = process[way][kind]
            assert tiny.distance(two["predictions"], one["predictions"]) < tiny.ROUNDING
            # Under FSDP the model in memory stays masked, and is cut where it is opened.
            small = load_compressed(folder / way / kind / "saved")
            np.testing.assert_allclose(tiny.flat(small).numpy(), one["parameters"], atol=1e-6)
            assert way == "fsdp" or two["parameters"] == tiny.flat(small).tolist()
            assert len(two["parameters"]) > len(one["parameters"]) or way == "ddp"
            assert two["removed"] == one["removed"]
            batch = tiny.batch(tiny.texts(10, seed=5), "input_ids", "attention_mask")
            with torch.no_grad():
                assert tiny.distance(small(**batch).logits, two["predictions"]) < tiny.ROUNDING


@pytest.mark.parametrize("kind", ["gradual", "at-once"])
@pytest.mark.parametrize("way", ["ddp", "fsdp"])
def test_two_processes_resume_shrinking_bitwise(process, way, kind):
    whole, resumed = process[way][f"resumed-{kind}"]
    assert resumed == whole


def test_what_needs_a_whole_model_is_refused_under_fsdp(process):
    assert "target_flops needs a model that is whole in each process" in process["target"]
    assert "Give shares instead (heads=, ffn=, n_layers=), or use DDP" in process["target"]
    assert "Shrinking and pruning cannot be in one training under FSDP" in process["both"]
    assert "open the folder with load_compressed, and train that with the PruningCallback" in process["both"]


def test_zeros_by_chance_in_another_process_are_saved_without_it(process):
    assert process["zeros"] == {"written": True, "of_last": True, "zeros": True, "masks": True}


def test_fsdp_version_1_is_refused(process):
    assert "does not work under FSDP version 1" in process["refusal"]
    assert "Use DDP, or FSDP version 2: TrainingArguments(fsdp=True, fsdp_config={'ver" in process["refusal"]


def test_deepspeed_is_refused(tmp_path):
    arguments = tiny.arguments(tmp_path)
    arguments.deepspeed_plugin = object()
    with pytest.raises(ValueError, match="does not work under DeepSpeed.* Use DDP, or FSDP version 2"):
        PruningCallback(0.5).on_train_begin(arguments, None, None, model=tiny.bert())


def test_tensors_become_those_of_the_first_process(results):
    assert [process["same"] for process in results] == [[0, 3, 1, 4, 2, 5, 1, 1]] * sharded_run.PROCESSES


def test_one_process_keeps_its_tensors():
    tensor = torch.arange(3.0)
    same_everywhere_([tensor])
    assert tensor.tolist() == [0, 1, 2]
