"""The simulation computes what ONNX Runtime computes, and lets a training through."""

import copy
import io
import pickle

import numpy as np
import pytest
import tiny
import torch
import zoo
from torch import nn

from hf_compalign.compress.quantize import (
    FakeQuantizedEmbedding,
    FakeQuantizedLinear,
    asymmetric_levels,
    fake_quantize_,
    quantized_layers,
    restore_,
    symmetric_levels,
)

pytestmark = pytest.mark.numeric


def linear(*, n_in=24, bias=True):
    torch.manual_seed(0)
    layer = nn.Linear(n_in, 10, bias=bias)
    fake_quantize_(layer)
    return layer


def embedding():
    torch.manual_seed(0)
    layer = nn.Embedding(12, 8)
    fake_quantize_(layer)
    return layer


# ---- against ONNX Runtime and ONNX's own reference ----


def quantized_file(folder, node, weight, *, bias=None):
    """A graph of one layer, made by onnx and quantized by onnxruntime."""
    onnx = pytest.importorskip("onnx")
    quantization = pytest.importorskip("onnxruntime.quantization")
    is_gather = node == "Gather"
    constants = {"weight": weight} if bias is None else {"weight": weight, "bias": bias}
    inputs = ["weight", "input"] if is_gather else ["input", "weight"]
    nodes = [onnx.helper.make_node(node, inputs, ["output" if bias is None else "product"], name="layer")]
    if bias is not None:
        nodes.append(onnx.helper.make_node("Add", ["product", "bias"], ["output"]))
    kind = onnx.TensorProto.INT64 if is_gather else onnx.TensorProto.FLOAT
    graph = onnx.helper.make_graph(
        nodes,
        "one",
        [onnx.helper.make_tensor_value_info("input", kind, ["rows"] if is_gather else ["rows", "features"])],
        [onnx.helper.make_tensor_value_info("output", onnx.TensorProto.FLOAT, ["rows", "outputs"])],
        [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 21)], ir_version=10)
    onnx.save(model, folder / "float.onnx")
    quantization.quantize_dynamic(
        folder / "float.onnx", folder / "int8.onnx", per_channel=True, weight_type=quantization.QuantType.QInt8
    )
    made = onnx.load(folder / "int8.onnx")
    assert {"MatMulInteger", "DequantizeLinear"} & {one.op_type for one in made.graph.node}
    return folder / "int8.onnx"


def by_reference(path, values):
    reference = pytest.importorskip("onnx.reference")
    return reference.ReferenceEvaluator(str(path)).run(None, {"input": values})[0]


def by_onnxruntime(path, values):
    runtime = pytest.importorskip("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"input": values})[0]


INPUTS = {
    "normal": lambda values: values,
    "outliers": lambda values: values * torch.where(torch.rand(17, 24) < 0.02, 40.0, 1.0),
    "positive": lambda values: values.abs() + 0.5,
    "negative": lambda values: -values.abs() - 0.5,
    "constant": lambda values: torch.full((17, 24), 0.7),
    "zero": torch.zeros_like,
    "tiny": lambda values: values * 1e-20,
}


@pytest.mark.parametrize("kind", INPUTS)
def test_a_linear_layer_computes_what_onnx_runtime_computes(kind, tmp_path):
    layer = linear()
    torch.manual_seed(100)
    values = INPUTS[kind](torch.randn(17, 24))
    with torch.no_grad():
        layer.weight[3] = 0.0
        layer.weight[4] *= 50.0
        mine = layer(values).numpy()
    weight, bias = layer.weight.detach().numpy(), layer.bias.detach().numpy()
    path = quantized_file(tmp_path, "MatMul", weight.T.copy(), bias=bias)
    expected = by_reference(path, values.numpy())
    np.testing.assert_allclose(mine, expected, atol=1e-6, rtol=1e-6)
    runs = by_onnxruntime(path, values.numpy())
    if np.abs(runs - expected).max() > 1e-3:
        pytest.skip("ONNX Runtime saturates on a CPU without VNNI")
    np.testing.assert_allclose(mine, runs, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("shift", [0.0, 5.0, -5.0])
def test_an_embedding_gives_what_onnx_runtime_gives(shift, tmp_path):
    layer, ids = embedding(), torch.arange(12)
    with torch.no_grad():
        layer.weight += shift
        mine = layer(ids).numpy()
    path = quantized_file(tmp_path, "Gather", layer.weight.detach().numpy())
    assert np.array_equal(mine, by_reference(path, ids.numpy()))
    assert np.array_equal(mine, by_onnxruntime(path, ids.numpy()))


def test_the_levels_by_hand():
    levels, scale = asymmetric_levels(torch.tensor([2.0, 4.0, 5.1]))
    assert scale.item() == pytest.approx(0.02)  # from 0, which must be there
    assert levels.tolist() == [100, 200, 255]
    levels, scale = asymmetric_levels(torch.tensor([-5.1, -0.02]))
    assert levels.tolist() == [-255, -1]
    levels, scale = symmetric_levels(torch.tensor([[-1.27, 0.005, 0.015, 0.64]]))
    assert levels.tolist() == [[-127, 0, 2, 64]]  # halves go to the even number


def test_zeros_stay_zeros_and_give_no_nan():
    layer = linear()
    with torch.no_grad():
        layer.weight[:, ::2] = 0.0
    levels, scale = symmetric_levels(layer.weight)
    assert bool((levels[:, ::2] == 0).all())
    assert bool(scale.isfinite().all())
    assert torch.equal(linear(bias=False)(torch.zeros(2, 3, 24)), torch.zeros(2, 3, 10))
    with torch.no_grad():
        layer.weight.zero_()
    assert torch.equal(layer(torch.randn(2, 24)), layer.bias.expand(2, -1))
    table = embedding()
    with torch.no_grad():
        table.weight.zero_()
    assert torch.equal(table(torch.tensor([1, 2])), torch.zeros(2, 8))


# ---- gradients ----


def test_gradients_are_those_of_the_rounded_layer():
    layer, values = linear(), torch.randn(5, 24, requires_grad=True)
    upstream = torch.randn(5, 10)
    layer(values).backward(upstream)
    inputs, input_scale = asymmetric_levels(values.detach())
    weights, weight_scale = symmetric_levels(layer.weight.detach())
    torch.testing.assert_close(values.grad, upstream @ (weights * weight_scale))
    torch.testing.assert_close(layer.weight.grad, upstream.T @ (inputs * input_scale))
    torch.testing.assert_close(layer.bias.grad, upstream.sum(0))


def test_gradients_of_an_embedding_reach_the_rows_that_were_read():
    table = embedding()
    table(torch.tensor([[3, 3, 5]])).sum().backward()
    expected = torch.zeros(12, 8)
    expected[3], expected[5] = 2.0, 1.0
    torch.testing.assert_close(table.weight.grad, expected)


def test_the_padding_row_gets_no_gradient():
    table = nn.Embedding(6, 4, padding_idx=1)
    fake_quantize_(table)
    table(torch.tensor([1, 2])).sum().backward()
    assert not table.weight.grad[1].any()
    assert table.weight.grad[2].all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_under_autocast_the_ranges_stay_exact(dtype):
    layer, values = linear(n_in=3072), 30 * torch.randn(6, 3072)
    exact = layer(values)
    with torch.autocast("cpu", dtype=dtype):
        output = layer(values)
        plain = nn.functional.linear(values, layer.weight, layer.bias)
    assert output.dtype == plain.dtype == dtype
    # Integers multiply exactly in 16 bits; only the output is rounded.
    torch.testing.assert_close(output.float(), exact, rtol=2 * torch.finfo(dtype).eps, atol=1e-2)
    output.float().sum().backward()
    assert layer.weight.grad.dtype == torch.float32
    assert bool(layer.weight.grad.isfinite().all())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_weights(dtype):
    layer, table = linear().to(dtype), embedding().to(dtype)
    assert layer(torch.randn(3, 24, dtype=dtype)).dtype == dtype
    assert table(torch.tensor([1])).dtype == dtype


# ---- the layers stay what they are ----


def test_layers_stay_the_same_objects():
    model = tiny.bert().eval()
    inputs = zoo.inputs(model)
    answer = zoo.answer(model, inputs)
    parameters, keys = [*map(id, model.parameters())], list(model.state_dict())
    layers = [module for module in model.modules() if type(module) in (nn.Linear, nn.Embedding)]
    seen = []
    layers[0].register_forward_hook(lambda *_: seen.append(1))
    for layer in layers:
        fake_quantize_(layer)
        assert isinstance(layer, (FakeQuantizedLinear, FakeQuantizedEmbedding))
        assert isinstance(layer, (nn.Linear, nn.Embedding))
    assert parameters == [*map(id, model.parameters())]
    assert keys == list(model.state_dict())
    assert len(quantized_layers(model)) == len(layers)
    rounded = zoo.answer(model, inputs)
    assert tiny.distance(rounded, answer) > 100 * tiny.ROUNDING
    assert seen
    for layer in layers:
        restore_(layer)
    assert not quantized_layers(model)
    assert torch.equal(zoo.answer(model, inputs), answer)


def test_copies_and_pickles():
    layer, values = linear(), torch.randn(3, 24)
    expected = layer(values)
    file = io.BytesIO()
    torch.save(layer, file)
    file.seek(0)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), torch.load(file, weights_only=False)):
        assert type(other) is FakeQuantizedLinear
        assert tiny.distance(other(values), expected) < tiny.ROUNDING


def test_compiled_layers_compute_the_same():
    model = nn.Sequential(embedding(), linear(n_in=8))
    ids = torch.tensor([[1, 2], [3, 4]])
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    assert tiny.distance(compiled(ids), model(ids)) < tiny.ROUNDING
    parameters = [*model.parameters()]
    gradients = [torch.autograd.grad(run(ids).sum(), parameters) for run in (compiled, model)]
    torch.testing.assert_close(*gradients)


def test_what_other_tools_quantized_is_seen():
    torchao = pytest.importorskip("torchao.quantization")
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    torchao.quantize_(model, torchao.Int8WeightOnlyConfig(), filter_fn=lambda module, name: name == "1")
    assert list(quantized_layers(model)) == ["1"]
