"""Jobs done by several processes at once, or by this one.

A job is a function of a picklable kind that reports each of its steps, and returns the jobs that can begin after it.
"""

import multiprocessing
import signal
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

_PATIENCE = 10  # seconds, with a process that is told to end

Tick = Callable[[str], None]  # a step of the stage of that name is done
Job = Callable[[Tick], Sequence[Any]]


def do_all(jobs: Iterable[Job], tick: Tick, *, processes: int = 1, prepare: Callable[[], None] | None = None) -> None:
    """Do the jobs and those that follow from them.

    Args:
        jobs: what can begin at once.
        tick: called in this process for every step of any job.
        processes: how many jobs are done at once. With 1 this process does them; else new ones, which end in any case
            before this function does.
        prepare: called first in every new process.

    Raises:
        ChildProcessError: a process ended by itself.
        Exception: whatever a job raises.
    """
    waiting = deque(jobs)
    if processes == 1:
        while waiting:
            waiting.extend(waiting.popleft()(tick))
        return
    with _workers(processes, prepare) as idle:
        busy: dict[Any, BaseProcess] = {}
        while waiting or busy:
            while waiting and idle:
                pipe, process = idle.popitem()
                busy[pipe] = process
                pipe.send(waiting.popleft())
            for pipe in wait([*busy]):
                kind, value = _received(pipe, busy[pipe])
                if kind == "tick":
                    tick(value)
                else:
                    waiting.extend(value)
                    idle[pipe] = busy.pop(pipe)


def _received(pipe: Any, process: BaseProcess) -> tuple[str, Any]:
    try:
        kind, value = pipe.recv()
    except EOFError:
        process.join()
        raise ChildProcessError(
            f"A process that trains ended by itself, with exit code {process.exitcode}, as happens when memory runs "
            "out. Set OMP_NUM_THREADS=1 to train in one process."
        ) from None
    if kind == "error":
        error, text = value
        raise error from RuntimeError(text)
    return kind, value


@contextmanager
def _workers(n: int, prepare: Callable[[], None] | None) -> Iterator[dict[Any, BaseProcess]]:
    """New processes by the pipes to them.

    A fork would be faster, but copies the threads of a progress bar and of libraries in whatever state they are.
    """
    context = multiprocessing.get_context("spawn")
    started: dict[Any, BaseProcess] = {}
    try:
        with _deaf_to_ctrl_c():
            for _ in range(n):
                ours, theirs = context.Pipe()
                process: BaseProcess = context.Process(target=_serve, args=(theirs, prepare), daemon=True)
                process.start()
                theirs.close()  # else the end of the process would not be the end of the pipe
                started[ours] = process
        yield dict(started)
    finally:
        for process in started.values():
            process.terminate()
        for pipe, process in started.items():
            process.join(_PATIENCE)
            process.kill()
            pipe.close()


@contextmanager
def _deaf_to_ctrl_c() -> Iterator[None]:
    """A process that starts in the block ignores Ctrl-C, which reaches all of a terminal's processes: we end it."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may say so
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _serve(pipe: Connection, prepare: Callable[[], None] | None) -> None:
    """Do one job after the other, until whoever gives them is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # where it is not inherited
    # An exit gives back what libraries hold of the system, which a mere end would leave behind, with a warning.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    if prepare is not None:
        prepare()
    with suppress(EOFError, BrokenPipeError):
        while True:
            job = pipe.recv()
            try:
                answer = "jobs", job(lambda stage: pipe.send(("tick", stage)))
            except Exception as error:
                answer = "error", (error, traceback.format_exc())
            pipe.send(answer)
