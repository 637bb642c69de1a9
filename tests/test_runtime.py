"""How files are computed: what a deployment sets, what is recorded of it, and where it cannot be had."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import tiny
import torch
from commands import call, error_of

from hf_compalign import Audit, DeferringModel, Predictions, audit, export_onnx, predict, write_report
from hf_compalign.compress.export import export_openvino
from hf_compalign.models import (
    OnnxModel,
    OpenVinoModel,
    Runtime,
    RuntimeSettings,
    cpu_name,
    instruction_sets,
    runtime_of,
    sample_inputs,
)
from hf_compalign.models import openvino as openvino_file
from hf_compalign.models import processor as this_processor
from hf_compalign.ship.deferral import Deferral

pytestmark = pytest.mark.usefixtures("traced_once")

openvino = pytest.importorskip("openvino")
TEXTS = tiny.texts(24, length=9, labels=False)
HERE = Runtime("OpenVINO 1", "bf16", 3, ("avx2", "avx512_vnni"))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """One model of one seed in every form."""
    folder, model = tmp_path_factory.mktemp("files"), tiny.without_equal_tensors(tiny.bert(**tiny.NAMED).eval())
    found = {"torch": model}
    for mode in ("dynamic", "static"):
        data = TEXTS if mode == "static" else None
        found[mode] = export_onnx(model, folder / mode, quantize=mode, calibration=data).path
    for precision in ("f32", "bf16", "f16"):
        found[precision] = export_openvino(model, folder / precision, precision=precision).path
    found["int8"] = export_openvino(model, folder / "int8", quantize="static", calibration=TEXTS).path
    return found


def capabilities(*names):
    """OpenVINO on a processor that can compute in these alone."""

    class Core(openvino.Core):
        def get_property(self, device, name):
            assert (device, name) == ("CPU", "OPTIMIZATION_CAPABILITIES")
            return list(names)

    return Core


def test_a_file_is_computed_in_the_precision_that_it_was_exported_for(files):
    can = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    batch = sample_inputs(files["torch"])
    exact = files["torch"](**batch).logits.detach()
    for name in ("f32", "bf16", "f16", "int8"):
        model = OpenVinoModel(files[name])
        said = "bf16" if name == "int8" else name
        assert model.computed_by.precision == (said if said.upper() in can else "f32")
        assert model._compiled.get_property("INFERENCE_PRECISION_HINT").to_string() == model.computed_by.precision
        assert tiny.distance(model(**batch)["logits"], exact) < {"f32": tiny.ROUNDING}.get(name, 0.1)
    fine = OpenVinoModel(files["bf16"], settings=RuntimeSettings("f32"))
    assert fine.computed_by.precision == "f32"
    # Half of the digits of float16 weights are left.
    assert tiny.ROUNDING < tiny.distance(fine(**batch)["logits"], exact) < 0.01


def test_weights_of_two_bytes_are_half_of_the_file_and_count_alike(files):
    size = {name: files[name].with_suffix(".bin").stat().st_size for name in ("f32", "bf16", "f16")}
    assert size["bf16"] == size["f16"] < 0.56 * size["f32"]
    n = sum(parameter.numel() for parameter in files["torch"].parameters())
    assert OpenVinoModel(files["bf16"]).count_parameters() == (n, n)


def test_a_processor_that_cannot_takes_float32_and_says_so(files, monkeypatch, caplog):
    monkeypatch.setattr(openvino, "Core", capabilities("FP32", "INT8"))
    model = OpenVinoModel(files["bf16"])
    assert model.computed_by.precision == "f32"
    assert "This processor cannot compute in bf16 as " in caplog.text
    assert "(it can in FP32, INT8), so OpenVINO computes it in f32: slower, and closer" in caplog.text
    caplog.clear()
    assert OpenVinoModel(files["f32"]).computed_by.precision == "f32"
    assert not caplog.records


def test_threads_are_those_of_torch_or_as_set(files):
    for kind, name in ((OnnxModel, "static"), (OpenVinoModel, "f32")):
        assert kind(files[name]).computed_by.threads == torch.get_num_threads()
        model = kind(files[name], settings=RuntimeSettings(threads=2))
        model(**sample_inputs(files["torch"]))
        assert model.computed_by.threads == 2
    options = model._compiled.get_property("INFERENCE_NUM_THREADS")
    assert options == 2


def test_spinning_reaches_onnx_runtime(files):
    for spinning in (False, True):
        model = OnnxModel(files["static"], settings=RuntimeSettings(spinning=spinning))
        options = model._session.get_session_options()
        assert options.get_session_config_entry("session.intra_op.allow_spinning") == str(int(spinning))
        assert model.computed_by.spinning is spinning


def test_ranges_of_the_batch_make_answers_depend_on_it(files):
    """The same items alone and among others: as static files answer, and as dynamic ones do not."""
    for mode, depends in (("static", False), ("dynamic", True)):
        model = OnnxModel(files[mode])
        assert model.batch_dependent is depends
        together = predict(model, TEXTS, batch_size=24)
        alone = predict(model, TEXTS, batch_size=1)
        assert (tiny.distance(together.logits, alone.logits) > 1e-4) is depends
        assert (", on which the answers depend" in str(together.runtime)) is depends
    assert not OpenVinoModel(files["int8"]).batch_dependent


def test_predictions_and_audits_say_what_computed_them(files, tmp_path):
    reference, candidate = predict(files["torch"], TEXTS, batch_size=5), predict(files["bf16"], TEXTS, batch_size=7)
    assert reference.runtime == replace(runtime_of(files["torch"]), batch_size=5)
    assert reference.runtime.engine.startswith(f"PyTorch {torch.__version__.partition('+')[0]}")
    assert (reference.runtime.precision, reference.runtime.instructions) == ("float32", instruction_sets())
    candidate.save(tmp_path / "candidate.npz")
    assert Predictions.load(tmp_path / "candidate.npz").runtime == candidate.runtime
    found = audit(reference, replace(candidate, runtime=replace(HERE, batch_size=7)))
    words = "OpenVINO 1 in bf16, 3 threads, batches of 7, on a CPU with avx2 avx512_vnni"
    assert str(found).splitlines()[-1] == f"  {words}"
    assert words in write_report(tmp_path / "report.html", [found]).read_text()
    found.save(tmp_path / "audit.json")
    assert Audit.load(tmp_path / "audit.json").candidate.runtime == replace(HERE, batch_size=7)


def test_what_was_saved_before_runtimes_were_recorded_is_read(files, tmp_path):
    found = audit(predict(files["torch"], TEXTS), predict(files["f32"], TEXTS)).to_dict()
    for side in ("reference", "candidate"):
        del found[side]["runtime"]
    read = Audit.from_dict(json.loads(json.dumps(found)))
    assert read.candidate.runtime is None
    assert " threads" not in str(read)
    write_report(tmp_path / "report.html", [found])


def test_half_precision_is_named():
    assert runtime_of(tiny.bert().bfloat16()).precision == "bfloat16"


def test_a_pair_names_both(files):
    reference, candidate = predict(files["torch"], TEXTS), predict(files["int8"], TEXTS)
    answered = audit(reference, candidate)
    both = DeferringModel(files["int8"], files["torch"], fitted(answered.reference, answered.candidate))
    version = candidate.runtime.engine
    assert runtime_of(both).engine.startswith(f"{version} in {candidate.runtime.precision}, and for deferred items PyT")


def test_a_pair_in_another_precision_is_said(files, caplog):
    answered = audit(predict(files["torch"], TEXTS), predict(files["f32"], TEXTS))
    other = replace(answered.candidate, runtime=replace(answered.candidate.runtime, precision="bf16"))
    DeferringModel(files["f32"], files["torch"], fitted(answered.reference, other))
    assert "This candidate computes in f32, and the deferral was fitted on answers in bf16: fit it anew" in caplog.text


def fitted(reference, candidate):
    known = {"score": "margin", "threshold": 0.5, "budget": 0.1, "confidence": 0.9, "bound": 0.1, "scores": ("margin",)}
    counts = {"n": 100, "answered": 90, "changed": 3, "mismatches": 4}
    return Deferral(**known, **counts, reference=reference, candidate=candidate)


def test_the_processor_is_what_linux_says(monkeypatch):
    text = "processor\t: 0\nmodel name\t: A CPU\nflags\t\t: fpu avx2 amx_int8 avx512_vnni\n\nmodel name\t: B\n"
    monkeypatch.setattr(Path, "read_text", lambda self, **options: text)
    assert cpu_name() == "A CPU"
    assert this_processor.instruction_sets.__wrapped__() == ("avx2", "avx512_vnni", "amx_int8")
    monkeypatch.setattr(Path, "read_text", lambda self, **options: "Features\t: fp asimd i8mm\n")
    assert this_processor.instruction_sets.__wrapped__() == ("asimd", "i8mm")

    def nothing(self, **options):
        raise FileNotFoundError

    monkeypatch.setattr(Path, "read_text", nothing)
    assert this_processor.instruction_sets.__wrapped__() == ()
    assert cpu_name()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"precision": "int4"}, "precision must be 'f32' or 'bf16' or 'f16'. Got 'int4'."),
        ({"threads": 0}, "threads must be at least 1. Got 0."),
        ({"threads": 1.5}, "threads must be a whole number. Got 1.5."),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        RuntimeSettings(**settings)


def test_settings_that_a_runtime_has_not_are_refused(files, tmp_path):
    with pytest.raises(ValueError, match="computes in the types that a file declares. Got precision='bf16'"):
        OnnxModel(files["static"], settings=RuntimeSettings("bf16"))
    with pytest.raises(ValueError, match="OpenVINO has no setting for spinning threads. Leave spinning= out."):
        OpenVinoModel(files["f32"], settings=RuntimeSettings(spinning=True))
    with pytest.raises(ValueError, match="is in INT8, and OpenVINO computes INT8 with float16 a thousand times slower"):
        OpenVinoModel(files["int8"], settings=RuntimeSettings("f16"))
    for options, message in (
        ({"precision": "f8"}, "precision must be 'f32' or 'bf16' or 'f16'. Got 'f8'"),
        (
            {"precision": "f16", "quantize": "static", "calibration": TEXTS},
            "precision='f16' has no fast kernels beside",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            export_openvino(files["torch"], tmp_path / "out", **options)
    assert list(tmp_path.iterdir()) == []


def test_the_command_takes_a_precision_for_openvino_alone(files, tmp_path):
    files["torch"].save_pretrained(tmp_path / "model")
    tiny.tokenizer().save_pretrained(tmp_path / "model")
    result = call("export", tmp_path / "model", tmp_path / "out", "--format", "openvino", "--precision", "bf16")
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith(f"{tmp_path}/out/openvino_model.xml: bfloat16, 0.")
    result = call("export", tmp_path / "model", tmp_path / "onnx", "--precision", "bf16")
    assert result.exit_code == 2
    assert "Only --format openvino has a choice of precision, so --precision would be ignored." in error_of(result)


def test_a_file_on_another_processor_than_it_was_audited_on_is_said(files, tmp_path, caplog):
    path = tmp_path / "onnx" / "model.onnx"
    export_onnx(files["torch"], path.parent)
    found = audit(files["torch"], path, TEXTS)
    for instructions, said in ((("avx2",), bool(instruction_sets())), (instruction_sets(), False), ((), False)):
        runtime = replace(found.candidate.runtime, instructions=instructions)
        named = replace(found.candidate, model="mine/onnx/model.onnx", runtime=runtime)
        replace(found, candidate=named).save(path.with_suffix(".audit.json"))
        caplog.clear()
        OnnxModel(path)
        assert ("model.onnx was audited on a CPU with avx2, and this one has" in caplog.text) is said


_SIGNALLED = """
import faulthandler, gc, signal, subprocess, sys
faulthandler.enable()
import tiny
from hf_compalign.compress.export import export_openvino
from hf_compalign.models import OpenVinoModel
signal.signal(signal.SIGCHLD, lambda *_: None)
first, second = (OpenVinoModel(sys.argv[1]) for _ in range(2))
del first
gc.collect()
del second
gc.collect()
subprocess.run(["true"], check=True)
export_openvino(tiny.bert(), sys.argv[2], quantize="static", calibration=tiny.texts(8, length=9))
gc.collect()
subprocess.run(["true"], check=True)
print("alive")
"""


@pytest.mark.slow
def test_files_that_are_closed_leave_a_process_that_bears_signals(files, tmp_path):
    """On a processor with AMX it died of the first signal; elsewhere there is nothing to see."""
    command = [sys.executable, "-c", _SIGNALLED, str(files["bf16"]), str(tmp_path / "int8")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parent, check=False)
    assert (done.returncode, done.stdout.split()[-1:]) == (0, ["alive"]), done.stderr


def test_openvino_itself_reads_the_precision_from_the_file(files):
    graph = openvino.Core().read_model(str(files["bf16"]))
    assert graph.get_rt_info([*openvino_file.PRECISION_PLACE]).value == "bf16"
