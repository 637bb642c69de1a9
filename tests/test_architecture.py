"""Who may import whom, room by room; which file names which optional dependency; how little the root imports."""

import ast
import subprocess
import sys
from functools import cache
from graphlib import TopologicalSorter
from importlib import import_module
from pathlib import Path
from typing import get_args

import pytest

import hf_compalign

ROOT = Path(hf_compalign.__file__).parent
OURS = "hf_compalign."
MOST_LINES = 350
MOST_LINES_OF_A_FUNCTION = 40  # without its signature and docstring

# Anyone may import the helpers.
HELPERS = {
    "labels",
    "tasks",
    "_checks",
    "_compat",
    "_exported",
    "_extras",
    "_files",
    "_folders",
    "_formats",
    "_recipes",
    "_records",
    "_saved",
    "_tables",
    "_trainer",
    "_visible",
}
# What a room may import of the others, from the lowest room up. A name stands for all rooms below it too.
MAY_IMPORT = {
    "data": (),
    "models": ("data",),
    "compress": ("data", "models"),
    "opening": ("compress", "models"),
    "align": ("data", "measure.statistics", "models", "opening"),
    "measure": ("data", "models", "opening"),
    "metrics": ("measure",),
    "report": ("measure",),
    "ship": ("compress", "data", "measure", "models", "opening", "report"),
    "search": ("align", "compress", "data", "measure", "models", "opening", "ship"),
    "demo": ("align", "compress", "data", "measure", "opening", "report.plots"),
    "cli": ("data", "demo", "measure", "report", "search", "ship"),
    "pytest_plugin": ("data", "measure", "search"),
}
# The same inside of rooms that hold others. "compress" stands here for what lies loose in it.
INSIDE = {
    "compress.prune": ("compress", "compress.quantize"),
    "compress.quantize": ("compress",),
    "compress.shrink": ("compress", "compress.quantize"),
    "compress.export": ("compress", "compress.quantize"),
    "compress.callbacks": ("compress", "compress.prune", "compress.quantize", "compress.shrink"),
    "compress": ("compress.callbacks", "compress.prune", "compress.quantize", "compress.shrink"),
    "measure.statistics": (),
    "measure.predictions": ("measure.statistics",),
    "measure.footprint": ("measure.predictions",),
    "measure.groups": ("measure.statistics",),
    "measure.attribution": ("measure.predictions", "measure.statistics"),
    "measure.slices": ("measure.groups", "measure.predictions", "measure.statistics"),
    "measure.audit": (
        "measure.attribution",
        "measure.footprint",
        "measure.groups",
        "measure.predictions",
        "measure.slices",
        "measure.statistics",
    ),
    "report.plots": (),
    "report.page": ("report.plots",),
    "report.card": (),
    "report.gate": (),
    "ship": ("ship.deferral", "ship.repair"),
    "ship.deferral": (),
    "ship.deployments": ("ship", "ship.deferral"),
    "ship.repair": ("ship",),
}
# Where each optional dependency may be named: one module or room, or one to write its files and one to run them.
OPTIONAL = {
    "PIL": {"demo.digits"},
    "captum": {"measure.attribution.methods"},
    "fairlearn": {"measure.groups.measures"},
    "matplotlib": {"report.page.svg", "report.plots"},
    "nncf": {"compress.export.openvino"},
    "onnx": {
        "compress.export.graph",
        "compress.export.smoothing",
        "models.onnx",
        "models.saturated",
        "models.saturation",
    },
    "onnx_ir": {"compress.export.graph", "compress.export.names", "compress.export.sharing"},
    "onnxruntime": {
        "compress.export.calibrating",
        "compress.export.graph",
        "compress.export.smoothing",
        "models.onnx",
        "models.saturation",
    },
    "onnxscript": {"compress.export.graph"},
    "openvino": {"compress.export.openvino", "models.openvino"},
    "optimum": {"compress.quantize.quanto"},
    "pytest": {"pytest_plugin"},
    "sklearn": {"demo.digits"},
    "torchao": {"compress.quantize.torchao"},
}


def _name(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {_name(path): path for path in sorted(ROOT.rglob("*.py"))}
ROOMS = {name for name, path in MODULES.items() if name and path.name == "__init__.py"}


def room_of(module):
    """The folder that a module lies in; a module that lies loose at the root is its own."""
    if module in ROOMS:
        return module
    folder = module.rpartition(".")[0]
    return "metrics" if folder.startswith("metrics") else folder or module


@cache
def nodes(path):
    """All nodes of the syntax tree of a file, the whole file first."""
    return tuple(ast.walk(ast.parse(path.read_text())))


def imports_from(path):
    """The nodes of `from ... import ...`."""
    return [node for node in nodes(path) if isinstance(node, ast.ImportFrom)]


@cache
def imports(name):
    """Full dotted names a module imports anywhere in it: inside functions and for type checking too."""
    path = MODULES[name]
    plain = {alias.name for node in nodes(path) if isinstance(node, ast.Import) for alias in node.names}
    absolute = [node for node in imports_from(path) if not node.level]
    return plain | {_imported(node.module, alias.name) for node in absolute for alias in node.names}


def _imported(origin, name):
    """`from a.b import c` imports the module a.b.c where there is one of ours, else a.b."""
    full = f"{origin}.{name}"
    is_module = origin.startswith(OURS) and full.removeprefix(OURS) in MODULES
    return full if is_module else origin


def own_imports(name):
    return {full.removeprefix(OURS) for full in imports(name) if f"{full}.".startswith(OURS)}


def has_stub(name):
    """Whether it is a room that names what others may take from it."""
    return name in ROOMS and MODULES[name].with_suffix(".pyi").exists()


@cache
def arrows():
    """Every room, and the rooms that modules in it import; the root names everything."""
    found = {room: set() for room in {room_of(name) for name in MODULES if name}}
    for name in filter(None, MODULES):
        found[room_of(name)] |= {room_of(other) for other in own_imports(name)} - HELPERS - {room_of(name)}
    return found


def allowed(room, other):
    return any(other == one or other.startswith(f"{one}.") for one in MAY_IMPORT.get(room.partition(".")[0], ())) or (
        other in INSIDE.get(room, ())
    )


def test_imports_are_absolute():
    relative = [(path, node) for path in MODULES.values() for node in imports_from(path) if node.level]
    wrong = [f"{path}, line {node.lineno}: imports are absolute here" for path, node in relative]
    assert not wrong, "\n".join(wrong)


def test_a_room_imports_only_the_rooms_below_it():
    wrong = []
    for room, others in sorted(arrows().items()):
        whole = room.partition(".")[0]
        if room not in HELPERS and whole not in MAY_IMPORT:
            wrong.append(f"{room} is new: say in MAY_IMPORT what it may import")
        elif found := {other for other in others if not allowed(room, other)}:
            may = f"It may import {MAY_IMPORT.get(whole)} and {INSIDE.get(room, ())}"
            wrong.append(f"{room} imports {sorted(found)}. {may}")
    assert not wrong, "\n".join(wrong)


def test_a_module_imports_other_rooms_by_their_names():
    """So that files can move inside of a room, and nobody else notices."""
    wrong = []
    for name in sorted(filter(None, MODULES)):
        if "hf_compalign" in own_imports(name):
            wrong.append(f"{name} imports the package root: name a room")
        own = f"{room_of(name)}."
        for other in sorted(own_imports(name) - ROOMS - HELPERS - {"opening"}):
            room = room_of(other)
            if has_stub(room) and not own.startswith(f"{room}."):
                wrong.append(f"{name} imports {other}: import it from {room}")
    assert not wrong, "\n".join(wrong)


def test_every_allowance_is_used():
    used = arrows()
    for room, others in MAY_IMPORT.items():
        inside = set().union(*(found for one, found in used.items() if one == room or one.startswith(f"{room}.")))
        idle = {one for one in others if not any(found == one or found.startswith(f"{one}.") for found in inside)}
        assert not idle, f"nothing in {room} imports {idle} any more: take the allowance out"
    for room, others in INSIDE.items():
        assert not set(others) - used[room], f"nothing in {room} imports {set(others) - used[room]} any more"
    for dependency, places in OPTIONAL.items():
        assert places == {_place(name, places) for name in MODULES if _names(name, dependency)}


def test_align_and_compress_never_meet():
    assert not {other for other in arrows()["align"] if other.startswith("compress")}
    assert not any("align" in found for room, found in arrows().items() if room.startswith("compress"))


def test_no_import_goes_in_a_circle():
    """Module by module: a name that is imported from a room comes from the module that defines it."""
    graph = {name: {home for other in own_imports(name) for home in _homes(name, other)} for name in MODULES if name}
    TopologicalSorter(graph).prepare()  # raises CycleError


def _homes(name, other):
    """The modules behind what a module imports from another, or from a room."""
    if not has_stub(other):
        return {other}
    froms = [node for node in imports_from(MODULES[name]) if node.module == OURS + other]
    taken = {alias.name for node in froms for alias in node.names}
    return {f"{other}.{file}" for file, names in exported(other).items() if names & taken}


@cache
def exported(room):
    """Module -> the names of it that a room gives to others."""
    found = {}
    for node in imports_from(MODULES[room].with_suffix(".pyi")):
        found.setdefault(node.module, set()).update(alias.name for alias in node.names)
    return found


def test_a_room_gives_what_it_names():
    wrong = []
    for room in sorted(filter(has_stub, ROOMS)):
        module = import_module(OURS + room)
        wrong += [f"{room} names {name} and does not have it" for name in module.__all__ if not hasattr(module, name)]
        # Such a name would be the one or the other, by who was imported first.
        both = set().union(*exported(room).values()) & {*exported(room)}
        wrong += [f"{room} gives {name}, which is also the name of a module in it" for name in sorted(both)]
    assert not wrong, "\n".join(wrong)


def _place(name, places):
    return room_of(name) if room_of(name) in places else name


def _names(name, dependency):
    return dependency in {full.split(".")[0] for full in imports(name)}


def test_an_optional_dependency_is_named_in_its_place_only():
    wrong = []
    for dependency, places in OPTIONAL.items():
        others = {_place(name, places) for name in MODULES if _names(name, dependency)} - places
        wrong += [f"{other} imports {dependency}, which is for {sorted(places)} alone" for other in sorted(others)]
    assert not wrong, "\n".join(wrong)


def test_a_module_is_documented_and_short():
    wrong = []
    for path in MODULES.values():
        if not ast.get_docstring(nodes(path)[0]):
            wrong.append(f"{path} has no docstring")
        n_lines = len(path.read_text().splitlines())
        if n_lines >= MOST_LINES:
            wrong.append(f"{path} has {n_lines} lines: part it")
    assert not wrong, "\n".join(wrong)


def test_a_function_is_short():
    wrong = []
    for path in MODULES.values():
        for node in nodes(path):
            if isinstance(node, ast.FunctionDef):
                body = node.body[1:] if ast.get_docstring(node) else node.body
                n_lines = body[-1].end_lineno - body[0].lineno + 1 if body else 0
                if n_lines > MOST_LINES_OF_A_FUNCTION:
                    wrong.append(f"{node.name} in {path} has {n_lines} lines: part it")
    assert not wrong, "\n".join(wrong)


def test_a_public_name_can_be_imported():
    wrong = []
    for name in hf_compalign.__all__:
        value = getattr(hf_compalign, name, None)
        is_usable = callable(value) or get_args(value)  # a function, a class, or a type that has a name
        if not (isinstance(value, str) if name == "__version__" else is_usable):
            wrong.append(f"hf_compalign.{name} is {value!r}")
        if name not in dir(hf_compalign):
            wrong.append(f"dir(hf_compalign) lacks {name}")
    assert not wrong, "\n".join(wrong)


def test_a_misspelt_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="No hf_compalign attribute PruningCalback"):
        _ = hf_compalign.PruningCalback


def test_the_package_root_is_lean():
    code = "import sys, hf_compalign; print(*{'torch', 'transformers', 'numpy', 'datasets'} & {*sys.modules})"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.split() == []
