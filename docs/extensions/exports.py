"""The API page is made of the stubs: what the package exports, by verb, and what else users take from its rooms.

Of a room these are the names with an example, those that the pages and the examples import, and the types that all of
them name in signatures and fields. What is left is for other rooms.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import griffe

ROOT = Path(__file__).parents[2]
PACKAGE = "hf_compalign"
PAGE = "api.md"
MARK = "<!-- exports -->"
# The folders whose names belong to each section.
FOLDERS = {
    "Align": ("align",),
    "Compress": ("compress",),
    "Measure": ("measure", "metrics"),
    "Report": ("report",),
    "Compress in one command": ("search",),
    "Ship": ("ship",),
    "Models and data": ("models", "data"),
}
_IMPORTERS = ("README.md", "docs/*.md", "examples/*.py", "benchmarks/*.py", f"{PACKAGE}/metrics/*/README.md")
_IMPORT = re.compile(rf"^\s*from ({PACKAGE}[\w.]*) import (\([^)]*\)|.+)$", re.M)
_EXAMPLE = ">>> "
_SECTIONS = (_EXAMPLE, "Args:", "Returns:", "Raises:")


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Put the exports where the API page has its mark; an event of mkdocs."""
    return markdown.replace(MARK, "\n".join(sections(load()))) if page.file.src_uri == PAGE else markdown


def load() -> griffe.Module:
    """The package, read and not run."""
    package = griffe.load(PACKAGE, search_paths=[ROOT])
    assert isinstance(package, griffe.Module)
    return package


def exports(room: griffe.Module) -> dict[str, griffe.Object]:
    """What the stub of the package or of a room names: name -> where it is defined."""
    aliases = {name: member for name, member in room.members.items() if isinstance(member, griffe.Alias)}
    own = {name: alias for name, alias in aliases.items() if alias.target_path.startswith(f"{PACKAGE}.")}
    return {name: alias.final_target for name, alias in own.items()}


def sections(package: griffe.Module) -> Iterator[str]:
    """The lines of the page."""
    public = exports(package)
    for title, folders in FOLDERS.items():
        own = {f"{PACKAGE}.{name}": found for name, found in public.items() if found.path.split(".")[1] in folders}
        yield from _section(title, "", own)
    known, wanted = {found.path for found in public.values()}, _wanted(package)
    for folder in (folder for folders in FOLDERS.values() for folder in folders):
        for room in _rooms(package.members[folder]):
            own = {f"{room.path}.{name}": found for name, found in exports(room).items()}
            shown = {path: found for path, found in own.items() if found.path in wanted - known}
            yield from _section(f"In {room.path}", room.docstring.value if room.docstring else "", shown)


def _wanted(package: griffe.Module) -> set[str]:
    """Where all is defined that the page shows."""
    imported = _imported()
    queue = list(exports(package).values())
    for room in _rooms(package):
        own = {f"{room.path}.{name}": found for name, found in exports(room).items()}
        queue += [found for path, found in own.items() if path in imported or _has_example(found)]
    seen: set[str] = set()
    while queue:
        found = queue.pop()
        if found.path not in seen:
            seen.add(found.path)
            queue += named_types(package, found)
    return seen


def named_types(package: griffe.Module, found: griffe.Object) -> Iterator[griffe.Object]:
    """What of the package a function names in its signature, or a class in its fields."""
    if isinstance(found, griffe.Function):
        annotations = [*(parameter.annotation for parameter in found.parameters), found.returns]
    else:
        fields = [one for one in found.members.values() if isinstance(one, griffe.Attribute) and one.is_public]
        annotations = [one.annotation for one in fields]
    for annotation in annotations:
        for part in annotation.iterate() if isinstance(annotation, griffe.Expr) else ():
            if isinstance(part, griffe.ExprName) and part.canonical_path.startswith(f"{PACKAGE}."):
                one = package[part.canonical_path.removeprefix(f"{PACKAGE}.")]
                yield one.final_target if isinstance(one, griffe.Alias) else one


def _imported() -> set[str]:
    """What pages and examples import from the package, by its whole path."""
    texts = [page.read_text(encoding="utf-8") for pattern in _IMPORTERS for page in ROOT.glob(pattern)]
    found = [match.groups() for text in texts for match in _IMPORT.finditer(text)]
    return {f"{room}.{name}" for room, names in found for name in re.findall(r"\w+", names)}


def _has_example(found: griffe.Object) -> bool:
    return found.docstring is not None and _EXAMPLE in found.docstring.value


def _rooms(module: griffe.Object | griffe.Alias) -> Iterator[griffe.Module]:
    if isinstance(module, griffe.Module) and module.is_init_module:
        yield module
        for member in module.members.values():
            yield from _rooms(member)


def _section(title: str, text: str, entries: dict[str, griffe.Object]) -> Iterator[str]:
    if entries:
        yield from (f"## {title}", "", text, "")
    for path, found in entries.items():
        yield f"::: {path}"
        if isinstance(found, griffe.Class) and found.bases:
            # The methods that a base class calls say no more than it does; those to be called say how.
            yield from ("    options:", f"      members: [{', '.join(_to_be_called(found))}]")
        yield ""


def _to_be_called(found: griffe.Class) -> list[str]:
    return [
        name
        for name, method in found.members.items()
        if not name.startswith("_") and method.docstring and any(part in method.docstring.value for part in _SECTIONS)
    ]
