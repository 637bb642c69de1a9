"""Two processes give the losses, masks, metrics and files of one."""

import json
import subprocess
import sys

import distributed_run
import numpy as np
import pytest

pytestmark = [pytest.mark.numeric, pytest.mark.slow]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("distributed")
    # accelerate starts torchrun's elastic launcher with --multi_gpu; the trainings themselves ask for the CPU.
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    launch += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    launch += [distributed_run.__file__, str(folder)]
    done = subprocess.run(launch, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    two = json.loads((folder / "results.json").read_text())["aligned"]
    one = {name: distributed_run.run(folder / f"one-{name}", name) for name in two}
    return folder, one, two


@pytest.mark.parametrize("weighting", distributed_run.WEIGHTINGS)
def test_two_processes_equal_one(results, weighting):
    _, one, two = (r[weighting] if isinstance(r, dict) else r for r in results)
    assert (one["processes"], two["processes"]) == (1, 2)
    np.testing.assert_allclose(one["parameters"], two["parameters"], atol=1e-6)
    np.testing.assert_allclose(one["weights"], two["weights"], rtol=1e-5)
    np.testing.assert_array_equal(np.array(one["parameters"]) == 0, np.array(two["parameters"]) == 0)
    assert one["averaging"] == pytest.approx(two["averaging"], rel=1e-2)
    assert one["averaging"]["averaged_weights"] == 5
    assert len(one["logs"]) == len(two["logs"]) == 5
    for left, right in zip(one["logs"], two["logs"], strict=True):
        assert left == pytest.approx(right, rel=1e-4, abs=1e-6)


def test_metrics_pair_by_example_and_count_each_once(results):
    _, one, two = results
    for name in one:
        metrics = one[name]["metrics"]
        assert metrics == pytest.approx(two[name]["metrics"], rel=1e-2)
        assert metrics["eval_cie"] == two[name]["metrics"]["eval_cie"]
        assert metrics["eval_mismatch_rate"] == pytest.approx(metrics["eval_cie"] / distributed_run.EVALUATED)
        assert metrics["eval_audit_cie"] == two[name]["metrics"]["eval_audit_cie"] == metrics["eval_cie"]


def test_the_same_files_are_written(results):
    folder, _, _ = results
    one, two = (
        {path.name for path in (folder / name / "checkpoint-4").iterdir() if not path.name.startswith("rng_state")}
        for name in ("one-fixed", "fixed")
    )
    assert one == two


def test_two_processes_find_the_same_rate_and_keep_the_same_start(results, tmp_path):
    one = distributed_run.from_its_start(tmp_path)
    two = json.loads((results[0] / "results.json").read_text())["from its start"]
    assert one["compared"] == [tuple(counts) for counts in two["compared"]]
    assert one["compared"][0][1] == distributed_run.EVALUATED
    np.testing.assert_allclose(one["errors"], two["errors"], rtol=1e-4)
    assert one["best"] == two["best"]
    assert one["best"][0] == 0
    assert one["parameters"] == two["parameters"]


@pytest.mark.parametrize("name", distributed_run.CASES)
def test_two_processes_equal_one_for_every_task(results, name, tmp_path):
    one = distributed_run.every_task(tmp_path, name)
    two = json.loads((results[0] / "results.json").read_text())["every task"][name]
    np.testing.assert_allclose(one["parameters"], two["parameters"], atol=1e-5)
    assert one["distances"] == pytest.approx(two["distances"], rel=1e-3)
    assert one["distances"]


@pytest.mark.parametrize("name", distributed_run.INSIDE)
def test_two_processes_learn_the_same_from_the_inside_of_a_teacher(results, name, tmp_path):
    one = distributed_run.about_the_inside(tmp_path, name)
    two = json.loads((results[0] / "results.json").read_text())["inside"][name]
    np.testing.assert_allclose(one, two, atol=1e-6)


@pytest.mark.parametrize("scheme", distributed_run.SCHEMES)
def test_two_processes_train_the_same_quantized_model(results, scheme, tmp_path):
    folder, _, _ = results
    first, second = json.loads((folder / "results.json").read_text())["quantized"][scheme]
    assert first == second  # to the bit, the ranges of activations too
    one, *_ = distributed_run.quantized(tmp_path / "one", scheme)
    in_float, *_ = distributed_run.quantized(tmp_path / "float", None)
    rounded = [record["record"]["quantization"] for record in (first, one)]
    assert [record["scheme"] for record in rounded] == [scheme] * 2
    assert rounded[0]["layers"] == rounded[1]["layers"]
    error, effect = (np.abs(np.array(first["weights"]) - other["weights"]).max() for other in (one, in_float))
    assert effect > 1e-4
    # The last bit of a sum can take a value to another level, which moves what is learned as far as all rounding does.
    assert error < 2 * effect
