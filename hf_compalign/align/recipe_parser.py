"""A training run as a file: what the flags of a script say, in YAML."""

import json
import sys
from argparse import ArgumentParser
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml
from transformers import HfArgumentParser, TrainingArguments

from hf_compalign._files import read_text, write_text_atomic
from hf_compalign._recipes import recipe_as_text, recipe_keys

RECIPE_NAME = "recipe.yaml"


class RecipeParser:
    """An `HfArgumentParser` whose flags may also stand in a file, ``--recipe run.yaml``.

    Its keys are the names of the flags, of all dataclasses; a flag on the command line takes the place of a key.
    ``save`` writes what was said, file and command line together, which makes the same run again.

    Args:
        types: the dataclasses of the flags, such as `ModelArguments`, `AlignmentArguments`, `CompressionArguments` and
            ``TrainingArguments``.
    """

    def __init__(self, types: Sequence[Any]) -> None:
        self._parser = HfArgumentParser(types, allow_abbrev=False)
        self._parser.add_argument("--recipe", metavar="FILE", help="Take the flags that are not given from this file.")
        self.keys = tuple(one.name for of in types for one in fields(of) if one.init)
        self._lists = {one.name for of in types for one in fields(of) if "list[" in str(one.type).lower()}
        self._said: dict[str, list[str]] = {}

    def parse(self, argv: Sequence[str] | None = None) -> tuple[Any, ...]:
        """An object of each dataclass.

        Args:
            argv: the command line; by default that of the process.

        Raises:
            FileNotFoundError: there is no such recipe.
            ValueError: it is no YAML of keys and values, a key is unknown, empty, or has a list for one value, or there
                are several recipes; or what the dataclasses refuse.
        """
        finder = ArgumentParser(add_help=False, allow_abbrev=False)
        finder.add_argument("--recipe", type=Path, action="append", default=[])
        found, given = finder.parse_known_args(sys.argv[1:] if argv is None else [*argv])
        if len(found.recipe) > 1:
            raise ValueError(f"Give one recipe. Got {', '.join(map(str, found.recipe))}.")
        flags = [*(flag for path in found.recipe for flag in self._flags(path)), *given]
        objects = self._parser.parse_args_into_dataclasses(flags)
        self._said = self._words_of(flags)
        return tuple(objects[:-1])  # the last is what --recipe would say

    def save(self, args: TrainingArguments) -> None:
        """Write what was said as recipe.yaml into the output_dir, without tokens; the first process alone writes."""
        if not args.should_save:
            return
        said = {name: [_typed(word) for word in words] for name, words in self._said.items() if not _is_secret(name)}
        keys = {name: values if len(values) > 1 else values[0] for name, values in said.items()}
        folder = Path(args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        write_text_atomic(folder / RECIPE_NAME, recipe_as_text(keys))

    def _flags(self, path: Path) -> list[str]:
        """The keys of a file as they would stand on the command line."""
        if not path.is_file():
            raise FileNotFoundError(f"There is no recipe {path}. Give a YAML file, such as one of examples/recipes.")
        text, flags = read_text(path), []
        said = recipe_keys(text, path, self.keys)
        written = yaml.load(text, Loader=yaml.BaseLoader)  # as text: save_strategy: no is a word, not False
        for name, value in said.items():
            if value == []:
                raise ValueError(f"{path} has nothing for {name}: an empty list. Leave it out.")
            if isinstance(value, list) and name not in self._lists:
                raise ValueError(f"{path} has a list for {name}, which takes one value. Got {value}.")
            if isinstance(value, list):
                flags += [f"--{name}", *written[name]]
            elif value is not None:
                flags.append(f"--{name}={json.dumps(value) if isinstance(value, dict) else written[name]}")
        return flags

    def _words_of(self, flags: Sequence[str]) -> dict[str, list[str]]:
        """Key -> the words of its last flag."""
        said: dict[str, list[str]] = {}
        name = ""
        for word in flags:
            if not word.startswith("--"):
                said[name].append(word)
                continue
            name, is_set, value = word[2:].partition("=")
            name = name.replace("-", "_")
            denied = name not in self.keys  # --no_... of a flag that is on by default
            name = name.removeprefix("no_") if denied else name
            said[name] = [value] if is_set else ["false"] if denied else []
        return {name: words or ["true"] for name, words in said.items()}


def _is_secret(name: str) -> bool:
    return name.endswith("_token")


def _typed(word: str) -> Any:
    """A word as a number, a truth value or a dict where that is written in the same way."""
    if word.startswith("{"):
        with suppress(ValueError):
            return json.loads(word)
    for kind in (int, float):
        with suppress(ValueError):
            if word[-1:].isdigit() and str(kind(word)) == word:
                return kind(word)
    return {"true": True, "false": False}.get(word, word)
