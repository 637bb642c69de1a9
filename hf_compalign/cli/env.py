"""hf-compalign env."""

import platform
from typing import Any

import typer

from hf_compalign._extras import installed_versions
from hf_compalign.cli.options import Json
from hf_compalign.cli.screen import clear_errors, hush, print_json, stderr

_REQUIRED = ("torch", "transformers", "datasets", "accelerate", "evaluate", "numpy", "scipy", "safetensors")
# Optional package -> the extra that brings it.
_EXTRAS = {
    "pillow": "vision",
    "scikit-learn": "demo",
    "optimum": "optimum",
    "optimum-quanto": "optimum",
    "torchao": "torchao",
    "onnx": "onnx",
    "onnxscript": "onnx",
    "onnxruntime": "onnx",
    "openvino": "openvino",
    "nncf": "openvino",
    "fairlearn": "fairness",
    "captum": "attribution",
    "matplotlib": "report",
}


def env(as_json: Json = False) -> None:
    """Print the versions of everything involved, to paste into a bug report."""
    with clear_errors(stderr()):
        hush(bars=False)
        found = _environment()
    if as_json:
        print_json(found)
    else:
        for name, value in found.items():
            typer.echo(f"- {name}: {value}")


def _environment() -> dict[str, Any]:
    """Name -> version or description; a missing package says how to install it."""
    found = installed_versions(("hf-compalign", *_REQUIRED, *_EXTRAS))
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "hf_compalign": found.get("hf-compalign", "not installed"),
        **{package: found.get(package, "not installed") for package in _REQUIRED},
        **_hardware(),
        **{
            package: found.get(package, f"not installed (pip install 'hf-compalign[{extra}]')")
            for package, extra in _EXTRAS.items()
        },
    }


def _hardware() -> dict[str, Any]:
    try:
        import torch
    except (ImportError, OSError) as error:  # the very thing that a bug report may be about
        return {"device": f"unknown, as torch cannot be imported: {error}"}
    if torch.cuda.is_available():
        device = f"CUDA {torch.version.cuda}, {torch.cuda.device_count()} x {torch.cuda.get_device_name()}"
    else:
        device = "MPS" if torch.backends.mps.is_available() else "CPU"
    return {"device": device, "threads": torch.get_num_threads()}
