"""Who may import whom, which file names which optional dependency, how little the package root imports."""

import ast
import fnmatch
import subprocess
import sys
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import hf_compalign

ROOT = Path(hf_compalign.__file__).parent
OURS = "hf_compalign."
MOST_LINES = 350

METRICS = (
    "attribution_agreement",
    "calibration_shift",
    "class_bias",
    "group_fairness",
    "mismatch",
    "prediction_shift",
)
PLOTS = ("attribution", "candidates", "cells", "curves", "frontier", "rows")

# Anyone may import the helpers. The other modules, from the lowest layer up, may import what stands here.
HELPERS = {
    "labels",
    "_files",
    "_compat",
    "_extras",
    "_modes",
    "_flops",
    "_records",
    "_visible",
    "fingerprint",
    "recipes",
}
MAY_IMPORT = {
    **dict.fromkeys(HELPERS, ()),
    "align": (),
    "compress": (),
    "measure": (),
    "tasks": (),
    "align.losses": (),
    "align.weighting": (),
    "align.arguments": ("align.losses", "align.weighting"),
    "compress.schedules": (),
    "compress.sharding": (),
    "compress.architectures": (),
    "compress.plan": ("compress.architectures",),
    "compress.widths": ("compress.architectures", "compress.fake_quantization", "compress.schemes"),
    "compress.cutting": ("compress.architectures", "compress.plan", "compress.widths"),
    "compress.schemes": (),
    "compress.fake_quantization": (),
    "compress.quantization": ("compress.schemes",),
    "compress.prepared": (
        "compress.schemes",
        "compress.fake_quantization",
        "compress.quantization",
        "compress.cutting",
        "compress.widths",
    ),
    "compress.quantized_files": ("compress.*",),
    "compress.loading": (
        "compress.architectures",
        "compress.cutting",
        "compress.plan",
        "compress.widths",
        "compress.schemes",
        "compress.quantized_files",
    ),
    "compress.quantize": ("compress.*",),
    "file_model": (),
    "onnx_model": ("file_model",),
    "openvino_model": ("file_model",),
    "compress.onnx_names": (),
    "compress.onnx_graph": ("compress.onnx_names",),
    "compress.export_checks": ("compress.*", "file_model", "inference", "tasks"),
    "compress.export": ("compress.*", "file_model", "inference", "onnx_model", "tasks"),
    "compress.openvino_export": ("compress.*", "openvino_model"),
    "measure.intervals": (),
    "measure.blocks": (),
    "measure.bootstrap": ("measure.blocks", "measure.intervals"),
    "measure.comparison": ("measure.bootstrap", "measure.intervals"),
    "measure.probabilities": ("measure.blocks",),
    "measure.calibration": (
        "measure.bootstrap",
        "measure.comparison",
        "measure.intervals",
        "measure.probabilities",
    ),
    "measure.margins": ("measure.comparison", "measure.intervals"),
    "measure.symmetry": ("measure.comparison",),
    "measure.one_vs_rest": (),
    "measure.class_bias": ("measure.comparison", "measure.one_vs_rest"),
    "measure.floor": ("measure.bootstrap", "measure.comparison", "measure.intervals"),
    "measure.attribution.similarity": (),
    "measure.attribution.record": ("measure.bootstrap",),
    "measure.audit_items": ("measure.attribution.record", "measure.probabilities"),
    "measure.predictions": ("measure.blocks",),
    "measure.pairing": ("measure.predictions",),
    "measure.candidates": (
        "measure.bootstrap",
        "measure.comparison",
        "measure.intervals",
        "measure.pairing",
        "measure.predictions",
    ),
    "measure.groups": (),
    "measure.attribution": (),
    "measure.groups.membership": ("columns",),
    "measure.groups.record": ("measure.bootstrap",),
    "measure.groups.table": ("measure.one_vs_rest",),
    "measure.groups.gaps": ("measure.bootstrap", "measure.groups.table", "measure.intervals", "measure.one_vs_rest"),
    "measure.groups.measures": (
        "measure.bootstrap",
        "measure.comparison",
        "measure.groups.gaps",
        "measure.groups.record",
        "measure.groups.table",
        "measure.intervals",
        "measure.one_vs_rest",
    ),
    "measure.audit_text": ("measure.attribution.record",),
    "measure.audit_record": ("measure.*",),
    "measure.latency": (),
    "columns": ("tasks",),
    "data": ("columns",),
    "inference": ("tasks", "columns", "compress.loading", "onnx_model", "openvino_model"),
    "align.meter": (),
    "align.teacher": ("tasks", "inference", "columns"),
    "compress.scores": (),
    "compress.masks": (),
    "compress.calibration": ("inference",),
    "compress.inputs": ("compress.calibration", "compress.sharding"),
    "compress.reconstruct": ("compress.calibration", "compress.inputs", "compress.masks", "compress.sharding"),
    "compress.importance": ("compress.architectures", "compress.calibration", "compress.sharding"),
    "compress.costs": ("compress.*",),
    "compress.budget": ("compress.*",),
    "compress.pruning": ("compress.*",),
    "compress.shrink": ("compress.*",),
    "measure.footprint": ("inference", "measure.latency", "file_model"),
    "measure.footprint_text": ("measure.footprint", "measure.latency"),
    "measure.predict": ("tasks", "inference", "columns", "data", "measure.predictions", "measure.reader"),
    "align.checks": ("align.*", "tasks", "columns"),
    "align.trainer": ("align.*", "tasks", "inference", "measure.comparison"),
    "align.fine_tuning": ("align.*",),
    **dict.fromkeys(("compress.callbacks", "compress.callbacks.resuming"), ("compress.*",)),
    "compress.callbacks.pruning": ("compress.*",),
    "compress.callbacks.removal": ("compress.*",),
    "compress.callbacks.shrinking": ("compress.*",),
    "compress.callbacks.composition": ("compress.*",),
    "compress.callbacks.quantizing": ("compress.*",),
    "compress.callbacks.timing": ("compress.*",),
    "compress.arguments": ("compress.*",),
    "measure.audit": ("measure.*",),
    "measure.audit_contents": ("columns", "measure.*", "tasks"),
    "measure.reader": ("columns", "inference", "tasks"),
    "measure.attribution.options": ("file_model",),
    "measure.attribution.methods": ("measure.attribution.options", "tasks"),
    "measure.attribution.pair": ("columns", "data", "inference", "measure.*", "tasks"),
    "measure.attribution.agreement": ("measure.*",),
    "measure.audit_callback": ("measure.*",),
    "metrics": ("measure.*",),
    "metrics.probabilities": ("measure.probabilities",),
    **dict.fromkeys((f"metrics.{name}.{name}" for name in METRICS), ("metrics.probabilities", "measure.*")),
    "report": (),
    "report.card_tables": ("measure.*",),
    "report.card": ("measure.*", "report.card_tables"),
    "report.plots": ("report.plots.*",),
    "report.plots.style": (),
    **dict.fromkeys((f"report.plots.{name}" for name in PLOTS), ("measure.*", "report.plots.style")),
    "report.svg": (),
    **dict.fromkeys(("report.page_text", "report.page_items"), ("measure.*", "report.page_text")),
    "report.page_summary": ("measure.*", "report.page_text"),
    **dict.fromkeys(("report.page_sections", "report.page_details"), ("measure.*", "report.*")),
    "report.page": ("measure.*", "report.*"),
    "ship": (),
    "ship.questions": ("measure.*", "inference", "columns", "tasks"),
    "ship.frontier": ("measure.*", "report.plots.frontier"),
    "ship.search": ("measure.*", "ship.*"),
    "ship.int8_files": ("compress.*", "measure.*", "report.*", "ship.*", "inference", "onnx_model", "tasks"),
    "ship.repair": ("compress.*", "measure.*", "report.*", "ship.*", "inference", "onnx_model", "tasks"),
    "ship.artifact": (
        "compress.*",
        "measure.*",
        "report.*",
        "ship.*",
        "file_model",
        "inference",
        "onnx_model",
        "tasks",
    ),
    "ship.hub": ("measure.audit_record",),
    "ship.done": ("compress.schemes", "report.card"),
    "screen": (),
    "environment": (),
    **dict.fromkeys(("demo", "demo.digits", "demo.run", "demo.results", "demo.readme"), ("*",)),
    **dict.fromkeys(
        ("cli", "cli.audit", "cli.demo", "cli.env", "cli.export", "cli.exporting", "cli.options", "cli.rows"), ("*",)
    ),
    **dict.fromkeys(("cli.auditing", "cli.report"), ("*",)),
}

# Where each optional dependency may be named: one module, or one to write its files and one to run them.
OPTIONAL = {
    "PIL": {"demo.digits"},
    "captum": {"measure.attribution.methods"},
    "fairlearn": {"measure.groups.measures"},
    "matplotlib": {"report.svg", "report.plots.style", *(f"report.plots.{name}" for name in PLOTS)},
    "nncf": {"compress.openvino_export"},
    "onnx": {"compress.onnx_graph", "compress.onnx_names", "onnx_model"},
    "onnx_ir": {"compress.onnx_graph", "compress.onnx_names"},
    "onnxruntime": {"compress.onnx_graph", "onnx_model"},
    "onnxscript": {"compress.onnx_graph"},
    "openvino": {"compress.openvino_export", "openvino_model"},
    "optimum": {"compress.quantization"},
    "sklearn": {"demo.digits"},
    "torchao": {"compress.quantization"},
}


def _name(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {_name(path): path for path in sorted(ROOT.rglob("*.py"))}
BELOW_ROOT = [name for name in MODULES if name]  # the root itself names every public module


@cache
def imports(name):
    """Full dotted names a module imports anywhere in it: inside functions and for type checking too."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[name].read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{name}, line {node.lineno}: imports are absolute here"
            found |= {_imported(node.module, alias.name) for alias in node.names}
    return frozenset(found)


def _imported(origin, name):
    """`from a.b import c` imports the module a.b.c where there is one of ours, else a.b."""
    full = f"{origin}.{name}"
    is_module = origin.startswith(OURS) and full.removeprefix(OURS) in MODULES
    return full if is_module else origin


def own_imports(name):
    return {full.removeprefix(OURS) for full in imports(name) if f"{full}.".startswith(OURS)}


@pytest.mark.parametrize("name", BELOW_ROOT)
def test_a_module_imports_only_the_layers_below_it(name):
    assert name in MAY_IMPORT, f"{name} is new: say in MAY_IMPORT ({Path(__file__).name}) what it may import"
    assert "hf_compalign" not in own_imports(name), f"{name} imports the package root: name a module"
    allowed = (*HELPERS, *MAY_IMPORT[name])
    too_much = {other for other in own_imports(name) if not any(fnmatch.fnmatchcase(other, one) for one in allowed)}
    assert not too_much, f"{name} may import {allowed}, not {too_much}"


def test_no_import_goes_in_a_circle():
    TopologicalSorter({name: own_imports(name) for name in BELOW_ROOT}).prepare()  # raises CycleError


@pytest.mark.parametrize("dependency", OPTIONAL)
def test_an_optional_dependency_is_named_in_its_place_only(dependency):
    users = {name for name in MODULES if dependency in {full.split(".")[0] for full in imports(name)}}
    assert users <= OPTIONAL[dependency]


@pytest.mark.parametrize("name", MODULES)
def test_a_module_is_documented_and_short(name):
    source = MODULES[name].read_text()
    assert ast.get_docstring(ast.parse(source)), f"{MODULES[name]} has no docstring"
    assert len(source.splitlines()) < MOST_LINES, f"{MODULES[name]} is long: part it"


@pytest.mark.parametrize("name", hf_compalign.__all__)
def test_a_public_name_can_be_imported(name):
    value = getattr(hf_compalign, name)
    assert isinstance(value, str) if name == "__version__" else callable(value)
    assert name in dir(hf_compalign)


def test_every_public_name_has_a_home():
    assert {*hf_compalign._HOMES, "__version__"} == {*hf_compalign.__all__}


def test_a_misspelt_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'hf_compalign' has no attribute 'PruningCalback'"):
        _ = hf_compalign.PruningCalback


def test_the_package_root_is_lean():
    code = "import sys, hf_compalign; print(*{'torch', 'transformers', 'numpy', 'datasets'} & {*sys.modules})"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.split() == []
