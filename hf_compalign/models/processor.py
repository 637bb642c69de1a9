"""The processor of this machine: its name, and the instructions that decide how fast and how exactly it computes."""

import platform
from functools import cache
from pathlib import Path

# What matrix products in float32, bfloat16, float16 and INT8 are computed by, in the order of their age.
_X86 = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "avx512_fp16", "amx_bf16", "amx_int8", "amx_fp16")
_ARM = ("asimd", "asimddp", "asimdhp", "i8mm", "bf16", "sve", "sve2", "sme")


def cpu_name() -> str:
    """As the system calls it. Only Linux tells the model's name, in a file."""
    return _said("model name") or platform.processor() or platform.machine()


@cache
def instruction_sets() -> tuple[str, ...]:
    """The instructions for matrix products that this CPU has, by Linux's names; empty where the system does not tell.

    Two CPUs with the same ones give a file the same kernels. INT8 without ``avx512_vnni``, ``avx_vnni`` or an ``amx``
    may cut off large sums, and without ``avx512_bf16`` or ``amx_bf16`` bfloat16 is no gain.
    """
    there = {*_said("flags").split(), *_said("Features").split()}
    return tuple(name for name in (*_X86, *_ARM) if name in there)


def _said(key: str) -> str:
    """What Linux says of the first processor; empty elsewhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    found = (line.partition(":") for line in lines)
    return next((value.strip() for name, _, value in found if name.strip() == key), "")
