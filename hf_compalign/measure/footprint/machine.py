"""The machine that models are timed on."""

import os
import platform

import torch

from hf_compalign._extras import installed_versions
from hf_compalign.models import cpu_name


def timing_device(*, files: bool) -> torch.device:
    """On the CPU if exported files are among the models, else on a GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() and not files else "cpu")


def machine_name(device: torch.device) -> str:
    """The processor, how much of it torch uses, and the versions that matter for speed."""
    if device.type == "cuda":
        where = torch.cuda.get_device_name(device)
    else:
        where = f"{cpu_name()} (threads: {torch.get_num_threads()}, CPUs: {os.cpu_count()})"
    versions = ", ".join(map(" ".join, installed_versions(("torch", "onnxruntime", "openvino")).items()))
    return f"{where}, {platform.system()}, {versions}"
