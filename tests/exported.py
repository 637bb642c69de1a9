"""What stands in an exported file, read without the library's own code."""

from pathlib import Path


def weight_types(path: Path) -> dict[str, str]:
    """Layer of an OpenVINO file -> the type that its weights are stored in."""
    import openvino

    found = {}
    for node in openvino.Core().read_model(path).get_ordered_ops():
        kind = node.get_type_name()
        if kind in ("MatMul", "Gather", "Convolution"):
            weight = node.input_value(0 if kind == "Gather" else 1).get_node()
            while weight.get_type_name() in ("Convert", "Multiply"):
                weight = weight.input_value(0).get_node()
            if weight.get_type_name() == "Constant":
                found[node.get_friendly_name().partition("/")[0]] = weight.get_element_type().get_type_name()
    return {layer: kind for layer, kind in found.items() if kind in ("i8", "f32")}


def rounded_products(path: Path) -> set[str]:
    """The products of activations in an OpenVINO file whose factors are rounded to INT8."""
    import openvino

    found = set()
    for node in openvino.Core().read_model(path).get_ordered_ops():
        if node.get_type_name() == "FakeQuantize":
            readers = [node]
            while readers and readers[0].get_type_name() in ("FakeQuantize", "Reshape", "Transpose", "Multiply"):
                readers = [port.get_node() for port in readers[0].output(0).get_target_inputs()]
            found |= {one.get_friendly_name() for one in readers if one.get_type_name() == "MatMul"}
    return {name for name in found if name.partition("/")[0] not in weight_types(path)}
