"""The machine that models are timed on."""

import os
import platform
from pathlib import Path

import torch

from hf_compalign._extras import installed_versions


def timing_device(*, files: bool) -> torch.device:
    """On the CPU if exported files are among the models, else on a GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() and not files else "cpu")


def machine_name(device: torch.device) -> str:
    """The processor, how much of it torch uses, and the versions that matter for speed."""
    if device.type == "cuda":
        where = torch.cuda.get_device_name(device)
    else:
        where = f"{_cpu_name()} (threads: {torch.get_num_threads()}, CPUs: {os.cpu_count()})"
    versions = ", ".join(map(" ".join, installed_versions(("torch", "onnxruntime", "openvino")).items()))
    return f"{where}, {platform.system()}, {versions}"


def _cpu_name() -> str:
    """Only Linux tells the model's name, in a file."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
