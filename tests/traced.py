"""Trace each model once in a run: it takes seconds, and tests ask for the same few tiny models again and again."""

from contextlib import contextmanager
from pathlib import Path

import pytest
import tiny

from hf_compalign.compress.export import export_graph as _export_graph
from hf_compalign.compress.export import onnx, openvino
from hf_compalign.ship.repair import makers

_TRACED = {}


def export_graph(model, target):
    """As the library's, but a model with the same weights and shape gets a copy of its first file."""
    own = {name: value for name, value in model.config.to_dict().items() if name not in ("id2label", "label2id")}
    key = (type(model), str(own), hash(tuple(tiny.flat(model).tolist())))
    if key not in _TRACED:
        _export_graph(model, target)
        _TRACED[key] = Path(target).read_bytes()
    Path(target).write_bytes(_TRACED[key])


@contextmanager
def traced_once():
    """Real files of real models, but each is traced once."""
    with pytest.MonkeyPatch.context() as patch:
        for place in (onnx, openvino, makers):
            patch.setattr(place, "export_graph", export_graph)
        yield
