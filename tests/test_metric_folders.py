"""Every folder of a metric as evaluate's own tests and the Spaces of the Hub take it."""

import doctest
import importlib
import inspect
import json
import runpy
import sys
from pathlib import Path
from types import SimpleNamespace

import evaluate
import numpy as np
import pandas as pd
import pytest

import hf_compalign.metrics
from hf_compalign.metrics import load_metric

FOLDER = Path(hf_compalign.metrics.__file__).parent
NAMES = sorted(path.parent.name for path in FOLDER.glob("*/README.md"))


@pytest.mark.parametrize("name", NAMES)
def test_it_passes_the_tests_of_evaluate(name):
    """Its tests/test_metric_common.py: the script alone, with examples inside, and no arguments without a name."""
    path = evaluate.loading.evaluation_module_factory(str(FOLDER / name), module_type="metric").module_path
    parameters = inspect.signature(evaluate.loading.import_main_class(path)._compute).parameters.values()
    assert all(parameter.kind != parameter.VAR_KEYWORD for parameter in parameters)
    assert doctest.testmod(importlib.import_module(path), raise_on_error=True).attempted > 1
    assert "Examples:" in load_metric(name).inputs_description


@pytest.mark.parametrize("name", NAMES)
def test_its_app_shows_the_card_and_computes_what_is_typed(name, monkeypatch):
    shown = {}
    parts = {"Dataframe": dict, "Textbox": dict}
    # evaluate 0.4.6 asks for the parts where gradio 3 has them, what comes after it where gradio 4 has them.
    gradio = SimpleNamespace(inputs=SimpleNamespace(**parts), outputs=SimpleNamespace(**parts), **parts)
    gradio.Interface = lambda **given: shown.update(given) or SimpleNamespace(launch=lambda: shown.update(up=True))
    monkeypatch.setitem(sys.modules, "gradio", gradio)
    monkeypatch.setattr(sys, "path", [str(FOLDER / name), *sys.path])  # as `python app.py` has it
    runpy.run_path(str(FOLDER / name / "app.py"), run_name="__main__")
    assert shown["up"]
    assert shown["article"].strip().startswith("# Metric card: ")
    typed = {"groups": [["a"], ["b"]], "predictions": [0, 1], "references": [0, 1], "teacher_predictions": [0, 1]}
    rows = {column: typed.get(column, [[0.9, 0.1], [0.2, 0.8]]) for column in shown["inputs"]["headers"]}
    table = {
        column: [json.dumps(one) if isinstance(one, list) else one for one in values] for column, values in rows.items()
    }
    np.testing.assert_equal(shown["fn"](pd.DataFrame(table)), load_metric(name).compute(**rows))
