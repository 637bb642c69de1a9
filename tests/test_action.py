"""The GitHub Action: its commands exist, and its steps do what they say, run by hand."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import shipping
import tiny
import typer
import yaml

from hf_compalign.cli import app
from hf_compalign.measure.predictions import predict

ACTION = yaml.safe_load((Path(__file__).parent.parent / "action.yml").read_text())
STEPS = {step["name"]: step for step in ACTION["runs"]["steps"]}
# Stands for GitHub's command: it knows one comment of ours, if any, and notes what it is told.
_GH = """#!{python}
import json, os, sys
from pathlib import Path
words = sys.argv[1:]
if "--jq" in words:
    print(os.environ.get("KNOWN", ""))
else:
    body = next(word for word in words if word.startswith("body=@"))
    Path("told.json").write_text(json.dumps({{"words": words, "body": Path(body[6:]).read_text()}}))
"""
_COMMAND = "#!{python}\nfrom hf_compalign.cli import main\nmain()\n"


@pytest.fixture
def place(tmp_path):
    """A folder as a job sees it: models, rows, a baseline, and the commands."""
    for seed, name in enumerate(("original", "other")):
        shipping.saved(tmp_path / name, tiny.bert(seed=seed, **shipping.NAMED))
    rows = shipping.raw_texts(200)
    rows.to_parquet(tmp_path / "rows.parquet")
    predict(tmp_path / "original", rows).save(tmp_path / "base.npz")
    (tmp_path / "bin").mkdir()
    for name, text in (("gh", _GH), ("hf-compalign", _COMMAND)):
        script = tmp_path / "bin" / name
        script.write_text(text.format(python=sys.executable))
        script.chmod(0o755)
    return tmp_path


def run(place, name, **given):
    """A step with the inputs of the action and what GitHub sets, as GitHub runs it; what it wrote as outputs."""
    inputs = {key: one.get("default", "") for key, one in ACTION["inputs"].items()} | given
    values = {"inputs." + key: value for key, value in inputs.items()}
    values |= {"steps.compare.outputs.exit-code": given.get("code", ""), "github.event.pull_request.number": "7"}
    own = {
        key: re.sub(r"\$\{\{ (.+?) \}\}", lambda one: values[one[1]], text) for key, text in STEPS[name]["env"].items()
    }
    paths = {"GITHUB_STEP_SUMMARY": str(place / "job.md"), "GITHUB_OUTPUT": str(place / "out.txt")}
    about = {
        "PATH": f"{place / 'bin'}:{os.environ['PATH']}",
        "GITHUB_REPOSITORY": "org/repo",
        "KNOWN": given.get("known", ""),
    }
    environment = os.environ | about | paths | own | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", STEPS[name]["run"]]
    done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, check=False)
    lines = (place / "out.txt").read_text().split() if (place / "out.txt").exists() else []
    return done, dict(line.split("=") for line in lines)


def test_the_commands_exist_with_their_options():
    command = typer.main.get_command(app).commands["compare"]
    known = {option for parameter in command.params for option in parameter.opts}
    script = STEPS["Compare"]["run"].replace("\\\n", " ")
    assert "hf-compalign compare" in script
    used = {word for word in shlex.split(script, comments=True) if word.startswith("--")}
    used |= set(re.findall(r"\((--[\w-]+)", script))
    assert {"--limit", "--summary", "--junit", "--no-contents", "--dataset"} <= used
    assert used <= known


def test_every_input_is_used_and_reaches_no_script_as_text():
    used = set(re.findall(r"inputs\.([\w-]+)", json.dumps(ACTION["runs"]) + json.dumps(ACTION["outputs"])))
    assert used == {*ACTION["inputs"]}
    for step in STEPS.values():
        assert "${{" not in step.get("run", "")
        assert step.get("shell") == ("bash" if "run" in step else None)


def test_the_extras_to_install_are_those_of_the_package():
    text = (Path(__file__).parent.parent / "pyproject.toml").read_text()
    for extra in ACTION["inputs"]["extras"]["default"].split(","):
        assert re.search(rf"^{extra} = \[", text, re.M)


@pytest.mark.slow
def test_a_good_model_passes_and_a_comment_is_made(place):
    given = {
        "baseline": "base.npz",
        "model": "original",
        "dataset": "rows.parquet",
        "limits": "mismatch_rate=0.05 nfr=0.1",
    }
    done, outputs = run(place, "Compare", **given, arguments="--bins words --min-group-size 5")
    assert outputs == {"exit-code": "0"}, done.stderr
    folder = place / "hf-compalign"
    assert sorted(path.name for path in folder.iterdir()) == ["audit.json", "junit.xml", "report.html", "summary.md"]
    assert (place / "job.md").read_text() == (folder / "summary.md").read_text()
    texts = set(shipping.raw_texts(200)["text"])
    assert not any(text in (folder / "report.html").read_text() for text in texts)
    done, _ = run(place, "Comment")
    assert done.returncode == 0, done.stderr
    told = json.loads((place / "told.json").read_text())
    assert "repos/org/repo/issues/7/comments" in told["words"]
    assert "POST" in told["words"]
    assert told["body"] == f"<!-- hf-compalign compare hf-compalign -->\n\n{(folder / 'summary.md').read_text()}"
    run(place, "Comment", known="11")
    told = json.loads((place / "told.json").read_text())
    assert "repos/org/repo/issues/comments/11" in told["words"]
    assert "PATCH" in told["words"]
    assert run(place, "Verdict", code="0")[0].returncode == 0


@pytest.mark.slow
def test_another_model_fails_after_all_is_written(place):
    given = {"baseline": "base.npz", "dataset": "rows.parquet", "limits": "mismatch_rate=0.05", "contents": "true"}
    done, outputs = run(place, "Compare", **given, model="other")
    assert (done.returncode, outputs) == (0, {"exit-code": "1"}), done.stderr
    assert "Not passed" in (place / "job.md").read_text()
    assert any(text in (place / "hf-compalign" / "report.html").read_text() for text in shipping.raw_texts(200)["text"])
    assert run(place, "Verdict", code="1")[0].returncode == 1


def test_a_comparison_that_could_not_be_made_says_so_and_runs_no_input(place):
    (place / "bin" / "hf-compalign").write_text("#!/bin/sh\nexit 2\n")
    given = {"baseline": "base.npz", "dataset": "rows.parquet", "limits": "mismatch_rate=0.05"}
    _, outputs = run(place, "Compare", **given, model="$(touch hacked); nowhere")
    assert outputs == {"exit-code": "2"}
    assert "could not compare (exit code 2)" in (place / "hf-compalign" / "summary.md").read_text()
    assert not (place / "hacked").exists()
