"""How a model is computed, as plain data: what a deployment sets, and what was used."""

from dataclasses import dataclass, replace

from hf_compalign._checks import check_whole
from hf_compalign._formats import plural

PRECISIONS = ("f32", "bf16", "f16")


@dataclass(frozen=True)
class RuntimeSettings:
    """What a deployment sets for an exported file.

    Attributes:
        precision: in which type OpenVINO computes what is not in INT8: "f32", "bf16" or "f16"; None: as the file says,
            which is how it was exported.
        threads: None: as many as torch has, so that the two can be compared.
        spinning: whether idle threads of ONNX Runtime wait actively. One stream of small batches becomes faster, and
            whatever runs beside it slower.

    Raises:
        ValueError: an unknown precision, or threads < 1.
    """

    precision: str | None = None
    threads: int | None = None
    spinning: bool = False

    def __post_init__(self) -> None:
        if self.precision is not None:
            check_precision(self.precision)
        if self.threads is not None:
            check_whole("threads", self.threads, least=1)


@dataclass(frozen=True)
class Runtime:
    """What computed some answers, and where.

    >>> print(Runtime("OpenVINO 2026.4.1", "bf16", 2, ("avx2", "amx_bf16"), batch_size=8))
    OpenVINO 2026.4.1 in bf16, 2 threads, batches of 8, on a CPU with avx2 amx_bf16

    Attributes:
        engine: its name and version; that of a pair of models names both.
        precision: the type of what is not in INT8.
        threads: of the CPU.
        instructions: `instruction_sets` of the CPU; empty when unknown or on a GPU.
        batch_dependent: whether an item's answer depends on those in its batch, as by ranges taken from the batch.
        spinning: whether idle threads wait actively.
        batch_size: rows at a time; None when unknown.
    """

    engine: str
    precision: str
    threads: int
    instructions: tuple[str, ...] = ()
    batch_dependent: bool = False
    spinning: bool = False
    batch_size: int | None = None

    def __str__(self) -> str:
        parts = [f"{self.engine} in {self.precision}", plural(self.threads, "thread")]
        parts += ["spinning"] if self.spinning else []
        if self.batch_size is not None:
            depending = ", on which the answers depend" if self.batch_dependent else ""
            parts.append(f"batches of {self.batch_size}{depending}")
        if self.instructions:
            parts.append(f"on a CPU with {' '.join(self.instructions)}")
        return ", ".join(parts)

    def asked_by(self, batch_size: int) -> "Runtime":
        """The same, asked so many rows at a time."""
        return replace(self, batch_size=batch_size)


def check_precision(precision: str) -> None:
    """Raise a ValueError unless it is one of `PRECISIONS`."""
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be {' or '.join(map(repr, PRECISIONS))}. Got {precision!r}.")
