"""The steps of a search, from the cheap to the dear."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from importlib.util import find_spec

from hf_compalign._exported import FORMATS

# What must be installed for each format.
NEEDED = {"openvino": ("openvino", "nncf", "onnxscript"), "onnx": ("onnxruntime", "onnxscript")}
_TITLES = {one.folder: one.name for one in FORMATS}


@dataclass(frozen=True)
class Step:
    """One file to try.

    Attributes:
        file_format: "openvino" or "onnx".
        int8: whether it is in INT8, with ranges fixed beforehand.
        cut: the share of heads and neurons that are gone.
        trained: whether the cut model was trained to answer like the original.
        repaired: whether some layers of an INT8 file stay in float.
    """

    file_format: str
    int8: bool = False
    cut: float = 0.0
    trained: bool = False
    repaired: bool = False

    @property
    def weights(self) -> str:
        """What it is a file of, in words; empty for the model as it is.

        >>> Step("openvino", cut=0.125).weights, Step("openvino", cut=0.5, trained=True).weights
        ('12.5 % cut', '50 % cut and trained')
        """
        # All its digits: two cuts of one name would share their files.
        cut = f"{(100 * Decimal(repr(float(self.cut)))).normalize():f} % cut" if self.cut else ""
        return f"{cut} and trained" if self.trained else cut

    @property
    def name(self) -> str:
        """What it is called.

        >>> Step("openvino", int8=True, cut=0.25).name, Step("onnx").name
        ('25 % cut, OpenVINO INT8', 'ONNX')
        """
        form = f"{_TITLES[self.file_format]}{' INT8' if self.int8 else ''}{', repaired' if self.repaired else ''}"
        return ", ".join(filter(None, [self.weights, form]))

    @property
    def in_float(self) -> "Step":
        """The same weights in float."""
        return replace(self, int8=False, repaired=False)

    @property
    def untrained(self) -> "Step":
        """The same without the training."""
        return replace(self, trained=False)

    @property
    def whole(self) -> "Step":
        """The same form of the model as it is."""
        return replace(self, cut=0.0, trained=False)


def installed_formats() -> tuple[str, ...]:
    """Those whose libraries are there, OpenVINO first.

    Raises:
        ImportError: there is none.
    """
    found = tuple(name for name, needed in NEEDED.items() if all(map(find_spec, needed)))
    if not found:
        raise ImportError(
            "Writing and running files needs OpenVINO or ONNX Runtime. Install them: pip install "
            "'hf-compalign[openvino]' or 'hf-compalign[onnx]'"
        )
    return found


def ladder(formats: Sequence[str], *, int8: bool, cuts: Sequence[float], repairs: bool, trains: bool) -> Iterator[Step]:
    """All steps: files of the model, of cut models, of repairs, and of cut models after training.

    >>> [step.name for step in ladder(["onnx"], int8=True, cuts=[0.5], repairs=False, trains=False)]
    ['ONNX', 'ONNX INT8', '50 % cut, ONNX', '50 % cut, ONNX INT8']
    """
    forms = (False, True) if int8 else (False,)
    yield from (Step(name, int8=is_int8) for is_int8 in forms for name in formats)
    yield from (Step(formats[0], int8=is_int8, cut=cut) for cut in sorted(cuts) for is_int8 in forms)
    if int8 and repairs:
        yield from (Step(name, int8=True, repaired=True) for name in formats)
    if trains:
        yield from (Step(formats[0], int8=is_int8, cut=cut, trained=True) for cut in sorted(cuts) for is_int8 in forms)
