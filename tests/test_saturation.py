"""A file as on a CPU whose products saturate: against sums by hand, and ONNX Runtime's own kernels for such a CPU."""

import json
import shutil
import subprocess
import sys

import numpy as np
import onnx
import pytest
import tiny
import torch
from onnx import TensorProto, helper, numpy_helper
from transformers import BertConfig, ViTConfig

from hf_compalign import audit, predict
from hf_compalign.compress.export import export_onnx
from hf_compalign.models import OnnxModel, SaturatingModel, saturation
from hf_compalign.models import saturated as rewriting
from hf_compalign.models.saturated import saturate_

pytestmark = pytest.mark.usefixtures("traced_once")
UINT8, INT8, FLOAT = TensorProto.UINT8, TensorProto.INT8, TensorProto.FLOAT


def saved(folder, nodes, tensors, *, inputs, n_labels, opset=13, images=False):
    """A classifier of these nodes: they read "input_ids" or "pixel_values", and the output is "logits"."""
    kind = FLOAT if images else TensorProto.INT64
    graph = helper.make_graph(
        nodes,
        "handmade",
        [helper.make_tensor_value_info(name, kind, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info("logits", FLOAT, ("b", n_labels))],
        [numpy_helper.from_array(np.asarray(values), name) for name, values in tensors.items()],
    )
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), folder / "model.onnx")
    config, name = (ViTConfig, "ViTForImage") if images else (BertConfig, "BertForSequence")
    config(num_labels=n_labels, architectures=[f"{name}Classification"]).save_pretrained(folder)
    return folder / "model.onnx"


def product(folder, weights, *, operator="MatMulInteger", zero=0, **options):
    """The logits are the input times the weights; the input's numbers are those of uint8."""
    n_labels = len(weights) if options.get("transB") else len(weights.T)
    scale, none = np.float32(1), np.int8(0)
    tensors = {"weights": weights, "zero": np.uint8(zero), "scale": scale, "none": none}
    names = {"MatMulInteger": ["a", "weights", "zero", "none"]}
    names["QGemm"] = ["a", "scale", "zero", "weights", "scale", "none"]
    names["QLinearMatMul"] = ["a", "scale", "zero", "weights", "scale", "none", "step", "middle"]
    tensors |= {"step": np.float32(1000), "middle": np.uint8(128)} if operator == "QLinearMatMul" else {}
    domain = "com.microsoft" if operator == "QGemm" else ""
    nodes = [
        helper.make_node("Cast", ["input_ids"], ["a"], to=UINT8),
        helper.make_node(operator, names[operator], ["y"], domain=domain, **options),
        helper.make_node("Cast", ["y"], ["logits"], to=FLOAT),
    ]
    return saved(folder, nodes, tensors, inputs={"input_ids": ("b", "n")}, n_labels=n_labels)


def saturated(activations, weights):
    """Sums of products, pair by pair in 16 bits."""
    activations, weights = activations.astype(int), weights.astype(int)
    if len(weights) % 2:
        activations, weights = np.pad(activations, ((0, 0), (0, 1))), np.pad(weights, ((0, 1), (0, 0)))
    pairs = zip(range(0, len(weights), 2), range(1, len(weights), 2), strict=True)
    return sum(
        np.clip(np.outer(activations[:, i], weights[i]) + np.outer(activations[:, j], weights[j]), -32768, 32767)
        for i, j in pairs
    )


def logits(model, ids):
    return model(input_ids=torch.as_tensor(ids.astype(np.int64)))["logits"].numpy()


def random_product(n_inner, n_outputs, *, n_rows=7):
    rng = np.random.default_rng(n_inner)
    activations = rng.integers(100, 256, (n_rows, n_inner)).astype(np.uint8)
    return activations, rng.integers(-127, 128, (n_inner, n_outputs)).astype(np.int8)


# ---- by hand ----


def test_sums_of_two_products_end_at_16_bits(tmp_path):
    """255 * 127 + 255 * 127 = 64770 is beyond 32767; 255 * 64 + 255 * 64 = 32640 is not; -66 and less is below."""
    weights = np.int8([[127, 64, -127, 127], [127, 64, -127, -127], [1, 1, 1, 1]])
    model = SaturatingModel(product(tmp_path, weights))
    ids = np.array([[255, 255, 2], [255, 0, 3], [200, 100, 0]])
    expected = [[32767 + 2, 32640 + 2, -32768 + 2, 2], [32385 + 3, 16320 + 3, -32385 + 3, 32385 + 3]]
    assert logits(model, ids).tolist() == [*expected, [32767, 19200, -32768, 12700]]
    if not saturation._saturates():
        assert logits(OnnxModel(model.path), ids)[0].tolist() == [64772, 32642, -64768, 2]


def test_a_cpu_that_saturates_itself_runs_the_file(tmp_path, monkeypatch):
    path = product(tmp_path, np.int8([[127], [127]]))
    monkeypatch.setattr(saturation, "_saturates", lambda: True)
    ids = np.array([[255, 255]])
    assert np.array_equal(logits(SaturatingModel(path), ids), logits(OnnxModel(path), ids))


@pytest.mark.parametrize("operator", ["MatMulInteger", "QGemm", "QLinearMatMul"])
@pytest.mark.parametrize(("n_inner", "n_outputs"), [(1, 3), (2, 1), (37, 5), (64, 40)])
def test_products_of_any_size(tmp_path, operator, n_inner, n_outputs):
    activations, weights = random_product(n_inner, n_outputs)
    model = SaturatingModel(product(tmp_path, weights, operator=operator, zero=3))
    sums = saturated(activations, weights) - 3 * weights.astype(int).sum(0)
    if operator == "QLinearMatMul":
        sums = np.clip(np.rint(sums.astype(np.float32) / np.float32(1000)) + 128, 0, 255)
    assert np.array_equal(logits(model, activations), sums)


def test_a_product_in_parts_is_the_same(tmp_path, monkeypatch):
    activations, weights = random_product(64, 40)
    monkeypatch.setattr(rewriting, "_PAIRS", 5)
    model = SaturatingModel(product(tmp_path, weights))
    assert np.array_equal(logits(model, activations), saturated(activations, weights))


def test_transposed_weights_and_a_factor(tmp_path):
    activations, weights = random_product(8, 3)
    path = product(tmp_path, weights.T.copy(), operator="QGemm", transB=1, alpha=0.5)
    assert np.array_equal(logits(SaturatingModel(path), activations), saturated(activations, weights) / 2)


def test_it_is_the_file_but_says_what_it_simulates(tmp_path):
    path = product(tmp_path, np.int8([[127, 127], [127, 127]]))
    model, file = SaturatingModel(path), OnnxModel(path)
    assert (model.fingerprint, model.size_bytes) == (file.fingerprint, file.size_bytes)
    assert model.count_parameters() == file.count_parameters()
    assert model.computed_by.engine == f"{file.computed_by.engine} as without VNNI"


# ---- convolutions ----

CONVOLUTIONS = {
    "patches": {"shape": (16, 1, 4, 4), "strides": [4, 4]},
    "padded": {"shape": (8, 3, 3, 3), "pads": [1, 1, 1, 1]},
    "crooked": {"shape": (6, 4, 3, 2), "pads": [2, 0, 1, 1], "strides": [2, 1], "dilations": [1, 3]},
    "groups": {"shape": (8, 4, 3, 3), "group": 2},
    "channels": {"shape": (4, 1, 3, 3), "group": 4},
    "one": {"shape": (8, 5, 1, 1)},
}


def convolution(folder, *, shape, **options):
    """The logits are all numbers of a convolution of an image with numbers of uint8; its weights too."""
    weights = np.random.default_rng(0).integers(-127, 128, shape).astype(np.int8)
    n_channels, scale = shape[1] * options.get("group", 1), np.float32(1)
    tensors = {"weights": weights, "scale": scale, "zero": np.uint8(7), "none": np.int8(0), "middle": np.uint8(128)}
    tensors |= {"scales": np.linspace(0.5, 1, len(weights), dtype=np.float32), "step": np.float32(2000)}
    tensors["bias"] = np.arange(len(weights), dtype=np.int32) * 1000
    names = ["a", "scale", "zero", "weights", "scales", "nones", "step", "middle", "bias"]
    tensors["nones"] = np.zeros(len(weights), dtype=np.int8)
    nodes = [
        helper.make_node("Cast", ["pixel_values"], ["a"], to=UINT8),
        helper.make_node("QLinearConv", names, ["y"], kernel_shape=shape[2:], **options),
        helper.make_node("Flatten", ["y"], ["flat"]),
        helper.make_node("Cast", ["flat"], ["logits"], to=FLOAT),
    ]
    torch_options = {"stride": options.get("strides", 1), "dilation": options.get("dilations", 1)}
    pads = options.get("pads", [0, 0, 0, 0])
    image = torch.nn.functional.pad(torch.full((1, n_channels, 9, 9), 7.0), (pads[1], pads[3], pads[0], pads[2]))
    filters = torch.as_tensor(weights).float()
    n_numbers = torch.conv2d(image, filters, groups=options.get("group", 1), **torch_options).numel()
    path = saved(
        folder, nodes, tensors, inputs={"pixel_values": ("b", n_channels, "h", "w")}, n_labels=n_numbers, images=True
    )
    return path, weights, tensors


def pixels(path, n=2):
    n_channels = OnnxModel(path)._inputs["pixel_values"].shape[1]
    return np.random.default_rng(1).integers(100, 256, (n, n_channels, 9, 9))


def saturated_convolution(images, weights, tensors, *, group=1, pads=(0, 0, 0, 0), strides=(1, 1), dilations=(1, 1)):
    """What comes out, place by place: neighbors are channels, then places of the kernel."""
    top, left, bottom, right = pads
    images = np.pad(images, ((0, 0), (0, 0), (top, bottom), (left, right)), constant_values=7)
    n_outputs, n_channels, height, width = weights.shape
    reach = [(size - 1) * gap for size, gap in zip((height, width), dilations, strict=True)]
    rows, columns = (range(0, images.shape[2 + axis] - reach[axis], strides[axis]) for axis in (0, 1))
    found = np.zeros((len(images), n_outputs, len(rows), len(columns)), dtype=int)
    for output in range(n_outputs):
        first = output // (n_outputs // group) * n_channels
        matrix = weights[output].transpose(1, 2, 0).reshape(-1, 1)
        for at, row in enumerate(rows):
            for beside, column in enumerate(columns):
                part = images[:, first : first + n_channels, row : row + reach[0] + 1 : dilations[0]]
                part = part[..., column : column + reach[1] + 1 : dilations[1]].transpose(0, 2, 3, 1)
                part = part.reshape(len(images), -1)
                sums = part @ matrix if n_channels == 1 < group else saturated(part, matrix)
                found[:, output, at, beside] = (sums - 7 * matrix.astype(int).sum())[:, 0]
    total = (found + tensors["bias"][:, None, None]).astype(np.float32)
    scaled = total * (tensors["scales"] / tensors["step"])[:, None, None]
    return np.clip(np.rint(scaled) + 128, 0, 255).reshape(len(images), -1)


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions(tmp_path, name):
    """A convolution of single channels does not saturate."""
    options = dict(CONVOLUTIONS[name])
    path, weights, tensors = convolution(tmp_path, **options)
    images = pixels(path)
    options.pop("shape")
    expected = saturated_convolution(images, weights, tensors, **options)
    got = SaturatingModel(path)(pixel_values=torch.as_tensor(images))["logits"].numpy()
    assert np.array_equal(got, expected)
    exact = OnnxModel(path)(pixel_values=torch.as_tensor(images))["logits"].numpy()
    assert np.array_equal(exact, expected) == (name == "channels" or saturation._saturates())


# ---- models ----


def extreme(model):
    """With outputs of layers whose weights are as large as weights can be."""
    with torch.no_grad():
        for name, module in model.named_modules():
            if isinstance(module, torch.nn.Linear) and name.rpartition(".")[2] in ("dense", "fc1", "fc2"):
                module.weight[::2] = module.weight[::2].abs().max() * module.weight[::2].sign()
    return model.eval()


ROWS = {"bert": tiny.texts(40, length=9), "vit": tiny.images(40)}
MODELS = {"bert": lambda: extreme(tiny.bert()), "vit": lambda: extreme(tiny.vit())}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """(model, way to quantize, portable) -> its file; each is made once."""
    made = {}

    def get(name, quantize, portable):
        key = (name, quantize, portable)
        if key not in made:
            folder = tmp_path_factory.mktemp("saturation") / "onnx"
            rows = ROWS[name] if quantize == "static" else None
            options = {"quantize": quantize, "portable": portable, "calibration": rows}
            made[key] = export_onnx(MODELS[name](), folder, **options).path
        return made[key]

    return get


# In units of a logit: more than rounding in another order makes of these models.
FAR = 0.02
KINDS = [(name, quantize) for name in MODELS for quantize in ("dynamic", "static")]


@pytest.mark.parametrize(("name", "quantize"), KINDS)
def test_a_portable_file_answers_to_the_bit_as_here(files, name, quantize):
    path, rows = files(name, quantize, True), ROWS[name]
    if saturation._saturates():
        pytest.skip("another CPU is not simulated here")
    assert np.array_equal(predict(SaturatingModel(path), rows).logits, predict(path, rows).logits)
    compared = audit(path, SaturatingModel(path), rows)
    assert (compared.n, compared.metrics["cie"]) == (40, 0)


@pytest.mark.parametrize(("name", "quantize"), KINDS)
def test_another_file_with_extreme_weights_does_not(files, name, quantize):
    path, rows = files(name, quantize, False), ROWS[name]
    if saturation._saturates():
        pytest.skip("another CPU is not simulated here")
    assert np.abs(predict(SaturatingModel(path), rows).logits - predict(path, rows).logits).max() > FAR


# ---- ONNX Runtime's own kernels for a CPU without VNNI ----

ASKED = """
import json, sys
import numpy, onnxruntime
for path, asked, precision in json.loads(sys.argv[1]):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.x64quantprecision", precision)
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    numpy.save(asked + ".npy", session.run(["logits"], dict(numpy.load(asked + ".npz")))[0])
"""


def on_another_cpu(folder, asked):
    """What ONNX Runtime answers to (path, inputs, precision) on a CPU with AVX2 and no VNNI, which is emulated.

    All are asked in one process: there it takes seconds to import a library.
    """
    emulator = shutil.which("qemu-x86_64")
    if emulator is None:
        pytest.skip("the emulator of another CPU is not installed: apt-get install qemu-user")
    told = []
    for path, inputs, precision in asked:
        told.append([str(path), str(folder / f"asked-{len(told)}"), precision])
        np.savez(f"{told[-1][1]}.npz", **OnnxModel(path).feeds(inputs))
    call = [emulator, "-cpu", "Haswell", sys.executable, "-c", ASKED, json.dumps(told)]
    subprocess.run(call, check=True, capture_output=True)
    return [np.load(f"{name}.npy") for _, name, _ in told]


def test_products_are_those_of_the_other_cpu(tmp_path):
    activations, weights = random_product(37, 5)
    paths = []
    for operator in ("MatMulInteger", "QGemm", "QLinearMatMul"):
        (tmp_path / operator).mkdir()
        paths.append(product(tmp_path / operator, weights, operator=operator, zero=3))
    asked = [(path, {"input_ids": activations}, precision) for path in paths for precision in "01"]
    found = on_another_cpu(tmp_path, asked)
    for path, there, exact in zip(paths, found[::2], found[1::2], strict=True):
        assert np.array_equal(logits(SaturatingModel(path), activations), there)
        assert not np.array_equal(exact, there)
        if not saturation._saturates():
            assert np.array_equal(exact, logits(OnnxModel(path), activations))


def test_convolutions_are_those_of_the_other_cpu(tmp_path):
    asked = []
    for name, options in CONVOLUTIONS.items():
        (tmp_path / name).mkdir()
        path, *_ = convolution(tmp_path / name, **options)
        asked.append((path, {"pixel_values": pixels(path)}, "0"))
    for (path, inputs, _), there in zip(asked, on_another_cpu(tmp_path, asked), strict=True):
        assert np.array_equal(SaturatingModel(path)(**inputs)["logits"], there), path


def test_models_answer_as_on_the_other_cpu(files, tmp_path):
    asked = []
    for name, quantize in KINDS:
        batch = {key: values for key, values in tiny.batch(ROWS[name]).items() if key != "labels"}
        asked += [(files(name, quantize, portable), batch, "0") for portable in (False, True)]
    for (path, batch, _), there in zip(asked, on_another_cpu(tmp_path, asked), strict=True):
        assert np.abs(SaturatingModel(path)(**batch)["logits"].numpy() - there).max() < FAR / 10, path


# ---- errors ----


def message_of(operator, kind=UINT8, *, opset=13, domain="", weights=((127,), (127,)), inner=False, **options):
    """A graph of one product, perhaps in the branch of an If."""
    names = ["a", "w"] if operator in ("MatMulInteger", "QAttention") else ["a", "s", "z", "w", "s", "n", "s", "z"]
    node = helper.make_node(operator, names, ["y"], name="layer/MatMul", **options)
    if inner:
        branch = helper.make_graph([node], "branch", [], [])
        node = helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)
    tensors = {"w": np.int8(weights or 0), "s": np.float32(1), "z": np.uint8(0), "n": np.int8(options.get("group", 0))}
    inputs = [helper.make_tensor_value_info("a", kind, None)]
    if weights is None:
        del tensors["w"]
        inputs.append(helper.make_tensor_value_info("w", INT8, None))
    arrays = [numpy_helper.from_array(np.asarray(values), name) for name, values in tensors.items()]
    graph = helper.make_graph([node], "one", inputs, [], arrays)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])


@pytest.mark.parametrize(
    ("operator", "options", "message"),
    [
        ("MatMulInteger", {"opset": 10}, "The file is of opset 10, and 11 is needed"),
        ("MatMulInteger", {"kind": INT8}, "Its activations are in int8 instead of uint8"),
        ("MatMulInteger", {"weights": None}, "Its right factor is no matrix of constants"),
        ("MatMulInteger", {"weights": [[[127], [127]]]}, "Its right factor is no matrix of constants"),
        ("MatMulInteger", {"inner": True}, "MatMulInteger hides its products"),
        ("QAttention", {}, "QAttention hides its products"),
        ("QGemm", {"transA": 1}, "It turns its left factor, or chooses its padding itself"),
        ("QLinearConv", {"auto_pad": "SAME_UPPER"}, "It turns its left factor, or chooses its padding itself"),
        ("QLinearConv", {"group": 2}, "The zero point of its weights is not 0"),
    ],
)
def test_what_cannot_be_simulated_is_refused(operator, options, message):
    with pytest.raises(ValueError, match=rf"{message}.* Simulate a file of export_onnx\(model, folder, quantize="):
        saturate_(message_of(operator, **options))


def test_a_file_that_cannot_be_opened_and_a_gpu_are_refused(tmp_path):
    (tmp_path / "text.onnx").write_text("not a graph")
    with pytest.raises(ValueError, match=r"text.onnx is not an ONNX file that ONNX Runtime can open"):
        SaturatingModel(tmp_path / "text.onnx")
    model = SaturatingModel(product(tmp_path, np.int8([[127], [127]])))
    model.device = torch.device("cuda")
    with pytest.raises(ValueError, match=r"simulates another CPU, .*Got the device cuda. Use OnnxModel\(path\) there"):
        model._graph(None)


@pytest.mark.parametrize("missing", ["onnx", "onnxruntime"])
def test_a_missing_extra_is_named(tmp_path, monkeypatch, missing):
    path = product(tmp_path, np.int8([[127], [127]]))
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ImportError, match=r"Running an ONNX file needs .*pip install 'hf-compalign\[onnx\]'"):
        SaturatingModel(path)
