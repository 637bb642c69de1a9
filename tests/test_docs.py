"""What the documentation shows is true: its Python runs, docstrings' examples hold, its commands exist."""

import doctest
import importlib
import importlib.util
import json
import re
import shlex
from itertools import pairwise
from pathlib import Path

import griffe
import pytest
import tiny
import typer
import yaml

import hf_compalign

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("hf_compalign/metrics/*/README.md")])
FOR_OWN_MODELS = (ROOT / "README.md", ROOT / "SKILL.md")
NOTEBOOKS = sorted(ROOT.glob("docs/notebooks/*.ipynb"))
MODULES = sorted(path for path in ROOT.glob("hf_compalign/**/*.py") if ">>> " in path.read_text())

_FENCE = re.compile(r"^(?P<indent> *)``` *(?P<language>\w+)[^\n]*\n(?P<code>.*?)^(?P=indent)```", re.M | re.S)
_DOCTEST_OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE

pytestmark = pytest.mark.usefixtures("traced_once")


def blocks(page, *languages):
    """The fenced blocks of a page in these languages: (lines before the code, code)."""
    text = page.read_text()
    for fence in _FENCE.finditer(text):
        if fence["language"] in languages:
            code = re.sub(rf"^{fence['indent']}", "", fence["code"], flags=re.M)
            yield text.count("\n", 0, fence.start("code")), code


def outputs(page):
    """Lines before a block's code -> the words that the page says it prints, where a block of text follows it."""
    text, found = page.read_text(), [*_FENCE.finditer(page.read_text())]
    return {
        text.count("\n", 0, one.start("code")): words_of(after["code"])
        for one, after in pairwise(found)
        if after["language"] == "text" and not text[one.end() : after.start()].strip()
    }


def words_of(text):
    """Without numbers, which another processor may round otherwise, and what it is called."""
    by_chance = {"over", "under", "thread", "threads", "avx_vnni", "inf", "nan"}
    return {*re.findall(r"\b[A-Za-z_]{3,}\b", text)} - by_chance


def pages_with(*languages):
    return [page for page in PAGES if any(blocks(page, *languages))]


def _relative(path):
    return str(path.relative_to(ROOT))


def _tree():
    """The paths that the tree of CONTRIBUTING.md names; a folder ends in a slash."""
    above = []
    for line in re.search(r"## The files\n\n```text\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), re.S)[
        1
    ].splitlines():
        name = line.split()[0]
        above[(len(line) - len(line.lstrip())) // 2 :] = [name]
        yield "".join(above)


def test_the_tree_names_every_file_in_its_place():
    named = {*_tree()}
    assert not [path for path in named if "<" not in path and not (ROOT / path).exists()]
    left_open = tuple(
        path for path in named if path.endswith("/") and not any(o != path and o.startswith(path) for o in named)
    )
    for path in sorted(ROOT.glob("hf_compalign/**/*.py")):
        place = _relative(path)
        inside = place.startswith((*left_open, "hf_compalign/metrics/"))
        assert path.name == "__init__.py" or inside or place in named, (
            f"the tree in CONTRIBUTING.md does not name {place}"
        )


def _run_examples(test, **options):
    report = []
    runner = doctest.DocTestRunner(optionflags=_DOCTEST_OPTIONS, verbose=False)
    runner.run(test, out=report.append, **options)
    assert not runner.failures, "".join(report)


def stand_ins(folder):
    """What the reader of these pages has: a fine-tuned model in a folder, its tokenizer, and data."""
    model = tiny.bert(**tiny.NAMED, vocab_size=len(tiny.WORDS))
    tokenizer = tiny.tokenizer()
    for one in (model, tokenizer):
        one.save_pretrained(folder / "my-model")
    raw = tiny.reviews().map(lambda row, place: {"id": place}, with_indices=True)
    return {"train": raw.map(lambda row: tokenizer(row["text"])), "test": raw, "tokenizer": tokenizer}


@pytest.mark.parametrize(("page", "most"), [("README.md", 200), ("SKILL.md", 80)])
def test_a_page_is_short(page, most):
    assert len((ROOT / page).read_text().splitlines()) <= most


def test_the_skill_says_when_to_take_it():
    """As agents read it: https://agentskills.io/specification"""
    _, front, _ = (ROOT / "SKILL.md").read_text().split("---\n", 2)
    skill = yaml.safe_load(front)
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", skill["name"])
    assert "Use when" in skill["description"]
    assert len(skill["description"]) <= 1024


@pytest.mark.slow
@pytest.mark.parametrize("page", pages_with("python", "pycon"), ids=_relative)
def test_the_python_of_a_page_runs_and_prints_what_it_says(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "__main__"} | (stand_ins(tmp_path) if page in FOR_OWN_MODELS else {})
    said = {} if page in FOR_OWN_MODELS else outputs(page)
    for line, code in blocks(page, "python", "pycon"):
        if code.lstrip().startswith(">>>"):
            test = doctest.DocTestParser().get_doctest(code, {}, page.name, str(page), line)
            test.globs = names  # get_doctest copies, and a page's blocks build on each other
            _run_examples(test, clear_globs=False)
        else:
            # The empty lines give an error's traceback the page's own line numbers.
            capsys.readouterr()
            exec(compile("\n" * line + code, page, "exec"), names)
            printed = capsys.readouterr().out
            # A block that prints nothing has no output: the text behind it is something else.
            unsaid = said.get(line, set()) - words_of(printed) if printed else set()
            # On another processor a sentence of a long output may come to another conclusion.
            most = 0.05 * len(said.get(line, ()))
            assert len(unsaid) <= most, f"{page.name}, line {line}: it printed\n{printed}\nwithout {unsaid}"


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=_relative)
def test_a_notebook_runs_and_holds_no_outputs(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "__main__"}
    for number, cell in enumerate(json.loads(path.read_text())["cells"]):
        code = "".join(cell["source"])
        if cell["cell_type"] == "code":
            assert (cell["outputs"], cell["execution_count"]) == ([], None)
            exec(compile(code, f"{path.name}, cell {number}", "exec"), names)
        for link in re.findall(r"\]\((\.\./[^)#]+)", code):
            assert (path.parent / link).is_file(), f"there is no {link}"


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
        targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M))
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


# ---- the API page, which docs/extensions/exports.py makes of the stubs ----


@pytest.fixture(scope="module")
def api():
    spec = importlib.util.spec_from_file_location("exports", ROOT / "docs/extensions/exports.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def package(api):
    return api.load()


def test_the_api_page_has_every_public_name_once(api, package):
    shown = re.findall(r"^::: (.+)$", "\n".join(api.sections(package)), re.M)
    assert len({*shown}) == len(shown)
    public = {f"hf_compalign.{name}" for name in hf_compalign.__all__ if name != "__version__"}
    assert {name for name in shown if name.count(".") == 1} == public
    assert {"hf_compalign.align.kl_loss", "hf_compalign.compress.prune.compute_masks"} < {*shown}


def test_the_api_page_lists_nothing_by_hand(api):
    text = (ROOT / "docs" / api.PAGE).read_text()
    assert text.count(api.MARK) == 1
    assert ":::" not in text


def test_what_a_public_signature_names_is_public(api, package):
    public = api.exports(package)
    paths = {found.path for found in public.values()}
    for name, found in public.items():
        function = found if isinstance(found, griffe.Function) else found.members.get("__init__")
        # The record that a function returns says in its own fields what it is made of.
        if isinstance(function, griffe.Function) and "dataclass" not in found.labels:
            missing = {one.path for one in api.named_types(package, function)} - paths
            assert not missing, f"the signature of {name} names {missing}: put it into hf_compalign/__init__.pyi"
