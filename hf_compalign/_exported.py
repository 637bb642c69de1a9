"""The formats of exported files: what they are called, and where one lies in a folder that ships."""

from dataclasses import dataclass
from pathlib import PurePath


@dataclass(frozen=True)
class FileFormat:
    """A format of exported files.

    Attributes:
        name: for people.
        folder: of an artifact, for such files; the argument of `save_artifact` that takes them has its name too.
        suffix: of a file.
        pattern: the names of those that a folder's path means.
        stem: the name that one has in an artifact, or that its name begins with.
        exporter: what writes one.
        weights: the suffix of the file of the same name that holds the weights; empty where the file itself names it.
    """

    name: str
    folder: str
    suffix: str
    pattern: str
    stem: str
    exporter: str
    weights: str = ""


ONNX = FileFormat("ONNX", "onnx", ".onnx", "*.onnx", "model", "export_onnx")
# The layout of Optimum Intel and sentence-transformers.
OPENVINO = FileFormat(
    "OpenVINO", "openvino", ".xml", "openvino_model*.xml", "openvino_model", "export_openvino", weights=".bin"
)
FORMATS = (ONNX, OPENVINO)


def format_of(path: str | PurePath) -> FileFormat | None:
    """The format of a file, by its suffix; None for another file or a folder."""
    return next((one for one in FORMATS if PurePath(path).suffix == one.suffix), None)


def record_name(path: str | PurePath, record: str) -> str:
    """Where the audit or the deferral of a file lies: beside an exported file, in the folder of other weights.

    >>> record_name("onnx/model.onnx", "audit.json"), record_name("model.safetensors", "audit.json")
    ('onnx/model.audit.json', 'audit.json')
    """
    path = PurePath(path)
    return path.with_name(record if format_of(path) is None else f"{path.stem}.{record}").as_posix()
