"""What the documentation shows is true: its Python runs, docstrings' examples hold, its commands exist."""

import doctest
import importlib
import re
import shlex
from pathlib import Path

import pytest
import typer

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("hf_compalign/metrics/*/README.md")])
MODULES = sorted(path for path in ROOT.glob("hf_compalign/**/*.py") if ">>> " in path.read_text())

_FENCE = re.compile(r"^(?P<indent> *)``` *(?P<language>\w+)[^\n]*\n(?P<code>.*?)^(?P=indent)```", re.M | re.S)
_DOCTEST_OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def blocks(page, *languages):
    """The fenced blocks of a page in these languages: (lines before the code, code)."""
    text = page.read_text()
    for fence in _FENCE.finditer(text):
        if fence["language"] in languages:
            code = re.sub(rf"^{fence['indent']}", "", fence["code"], flags=re.M)
            yield text.count("\n", 0, fence.start("code")), code


def pages_with(*languages):
    return [page for page in PAGES if any(blocks(page, *languages))]


def _relative(path):
    return str(path.relative_to(ROOT))


def _tree():
    """The paths that the README's tree names; a folder ends in a slash."""
    above = []
    for line in re.search(r"## The files\n\n```text\n(.*?)```", (ROOT / "README.md").read_text(), re.S)[1].splitlines():
        name = line.split()[0]
        above[(len(line) - len(line.lstrip())) // 2 :] = [name]
        yield "".join(above)


def test_the_readme_names_every_file_in_its_place():
    named = {*_tree()}
    assert not [path for path in named if "<" not in path and not (ROOT / path).exists()]
    left_open = tuple(
        path for path in named if path.endswith("/") and not any(o != path and o.startswith(path) for o in named)
    )
    for path in sorted(ROOT.glob("hf_compalign/**/*.py")):
        place = _relative(path)
        inside = place.startswith((*left_open, "hf_compalign/metrics/"))
        assert path.name == "__init__.py" or inside or place in named, f"the README's tree does not name {place}"


def _run_examples(test, **options):
    report = []
    runner = doctest.DocTestRunner(optionflags=_DOCTEST_OPTIONS, verbose=False)
    runner.run(test, out=report.append, **options)
    assert not runner.failures, "".join(report)


@pytest.mark.parametrize("page", pages_with("python", "pycon"), ids=_relative)
def test_the_python_of_a_page_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "__main__"}
    for line, code in blocks(page, "python", "pycon"):
        if code.lstrip().startswith(">>>"):
            test = doctest.DocTestParser().get_doctest(code, {}, page.name, str(page), line)
            test.globs = names  # get_doctest copies, and a page's blocks build on each other
            _run_examples(test, clear_globs=False)
        else:
            # The empty lines give an error's traceback the page's own line numbers.
            exec(compile("\n" * line + code, page, "exec"), names)


@pytest.mark.parametrize("path", MODULES, ids=_relative)
def test_the_examples_of_a_module_hold(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    parts = path.relative_to(ROOT).with_suffix("").parts
    module = importlib.import_module(".".join(parts).removesuffix(".__init__"))
    tests = [test for test in doctest.DocTestFinder(exclude_empty=True).find(module) if test.examples]
    assert tests, "its examples stand where doctest does not look"
    for test in tests:
        _run_examples(test)


@pytest.mark.parametrize("page", pages_with("bash"), ids=_relative)
def test_the_commands_of_a_page_exist(page):
    for _, code in blocks(page, "bash"):
        for command in re.split(r"&&|\n", code.replace("\\\n", " ")):
            _check_command(shlex.split(command, comments=True))


def _check_command(words):
    for word in words:
        if re.fullmatch(r"(examples|benchmarks)/.*\.py", word):
            assert (ROOT / word).is_file(), f"{word} does not exist"
    if words[:1] == ["make"]:
        targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.M))
        named = {word for word in words[1:] if "=" not in word}
        assert named <= targets, f"make has no target {named - targets}"
    if words[:1] == ["hf-compalign"] and words[1:] != ["--help"]:
        _check_subcommand(*words[1:])


def _check_subcommand(name, *arguments):
    from hf_compalign.cli import app

    subcommands = typer.main.get_command(app).commands
    assert name in subcommands, f"hf-compalign has no subcommand {name}"
    known = {option for parameter in subcommands[name].params for option in parameter.opts} | {"--help"}
    used = {word.partition("=")[0] for word in arguments if word.startswith("--")}
    assert used <= known, f"hf-compalign {name} has no option {used - known}"
