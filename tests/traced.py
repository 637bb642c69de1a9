"""Trace each model once: it takes seconds, and tests of the export ask for the same few models again and again."""

import shutil
from contextlib import contextmanager

import pytest
import tiny

from hf_compalign.compress.export import onnx as export
from hf_compalign.compress.export import openvino as openvino_export
from hf_compalign.ship.repair import makers


@contextmanager
def traced_once(folder):
    """Real files of real models, but a model with the same weights gets a copy of its first one."""
    real, known = export.export_graph, {}

    def export_graph(model, target):
        key = hash(tuple(tiny.flat(model).tolist()))
        if key not in known:
            known[key] = folder / f"{len(known)}.onnx"
            real(model, known[key])
        shutil.copy(known[key], target)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export, "export_graph", export_graph)
        patch.setattr(makers, "export_graph", export_graph)
        patch.setattr(openvino_export, "export_graph", export_graph)
        yield
