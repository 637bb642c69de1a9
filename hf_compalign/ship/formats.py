"""The formats of the files that ship."""

from collections.abc import Callable
from typing import Any

from hf_compalign.compress.export import Export, export_onnx, export_openvino

EXPORTERS: dict[str, Callable[..., Export]] = {"onnx": export_onnx, "openvino": export_openvino}


def check_format(file_format: str, *, precision: str | None, portable: bool) -> None:
    """Raise a ValueError unless there is such a format, and it has these options."""
    if file_format not in EXPORTERS:
        raise ValueError(f"file_format must be one of {', '.join(EXPORTERS)}. Got {file_format!r}.")
    if portable and file_format != "onnx":
        raise ValueError(
            f"portable=True is about the integer products of ONNX Runtime. Got file_format={file_format!r}. Leave it "
            "out, or say file_format='onnx'."
        )
    if precision is not None and file_format != "openvino":
        raise ValueError(
            f"precision={precision!r} is for OpenVINO files: on CPUs ONNX Runtime has no fast kernels in bfloat16 or "
            "float16. Leave it out, or say file_format='openvino'."
        )


def particular(*, precision: str | None, portable: bool) -> dict[str, Any]:
    """The arguments that one exporter alone has, as far as they were given."""
    found = {"precision": precision, "portable": portable}
    return {name: value for name, value in found.items() if value not in (None, False)}
