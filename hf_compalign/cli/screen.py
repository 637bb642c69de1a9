"""What the command line shows: bars, JSON and errors; and what it keeps off the screen."""

import json
import logging
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import typer
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

BAD_INPUT = 2
INTERRUPTED = 130  # as of a command that SIGINT ends


def stderr() -> Console:
    """Where progress and errors go: stdout holds nothing but results."""
    return Console(stderr=True, highlight=False)


def stdout() -> Console:
    """Where results go; into a file or a pipe, as lines of any length."""
    console = Console(highlight=False)
    console.soft_wrap = not console.is_terminal
    return console


def hush(*, bars: bool) -> None:
    """Keep off the screen what libraries say and a user cannot act on; call this before importing them."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("DATASETS_VERBOSITY", "critical")
    if not bars:
        os.environ["TQDM_DISABLE"] = "1"
    for name in ("torchao", "torch.utils._pytree"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.simplefilter("ignore")


def hush_loading() -> None:
    """No bar for reading a file, which takes seconds, but one for a download."""
    from huggingface_hub.utils.tqdm import enable_progress_bars
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    enable_progress_bars()


@contextmanager
def clear_errors(console: Console) -> Iterator[None]:
    """Turn what the user can fix into one red line and exit code 2, and Ctrl-C into a word and exit code 130."""
    try:
        yield
    except KeyboardInterrupt as error:
        console.print("Interrupted.")
        raise typer.Exit(INTERRUPTED) from error
    except (ValueError, OSError, ImportError) as error:
        message = " ".join(str(error).split())
        console.print(Text(f"Error: {message}", style="bold red"), soft_wrap=True)
        raise typer.Exit(BAD_INPUT) from error


@dataclass(frozen=True)
class _Narrower:
    """Leaves the last column of the screen free.

    Some terminals go to the next line as soon as a line is full, and would keep a copy of every state of a bar.
    """

    content: RenderableType

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield from console.render(self.content, options.update_width(options.max_width - 1))


class _Bars(Progress):
    def get_renderable(self) -> RenderableType:
        return _Narrower(super().get_renderable())


@contextmanager
def progress_bars(console: Console) -> Iterator[Callable[[str, int, int], None]]:
    """A function (stage, done, total) that shows one bar for each stage."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with _Bars(*columns, console=console) as progress:
        tasks: dict[str, Any] = {}

        def show(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = progress.add_task(stage, total=total)
                if not console.is_terminal:
                    console.print(stage)  # a log shows no bars before the end
            progress.update(tasks[stage], completed=done)

        yield show


def print_json(found: Mapping[str, Any]) -> None:
    """Print one object to stdout; JSON has no nan, so a number without a value is null."""
    strict = json.loads(json.dumps(found), parse_constant=lambda _: None)
    typer.echo(json.dumps(strict, indent=2, ensure_ascii=False))
