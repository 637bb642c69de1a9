"""Jobs for other processes, in a module that they import quickly. As a script: one that works until it is stopped."""

import os
import signal
import sys
import time
from dataclasses import dataclass
from multiprocessing import get_context

from hf_compalign.demo import do_all


@dataclass(frozen=True)
class CountDown:
    """Reports its process, and leads to the next."""

    left: int

    def __call__(self, tick):
        tick(f"{self.left} by {os.getpid()}")
        return [CountDown(self.left - 1)] if self.left else []


@dataclass(frozen=True)
class Fail:
    message: str

    def __call__(self, tick):
        raise ValueError(self.message)


@dataclass(frozen=True)
class Die:
    code: int

    def __call__(self, tick):
        os._exit(self.code)


@dataclass(frozen=True)
class Endless:
    def __call__(self, tick):
        lock = get_context("spawn").Lock()  # a semaphore, which outlives a process that is killed
        while lock:
            tick(str(os.getpid()))
            time.sleep(0.01)


def set_variable():
    os.environ["PREPARED"] = "yes"


@dataclass(frozen=True)
class ShowVariable:
    def __call__(self, tick):
        tick(os.environ.get("PREPARED", "no"))
        return []


def show(pid):
    print(pid, flush=True)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # what a shell starts in the background would ignore it
    try:
        do_all([Endless()], show, processes=2)
    except KeyboardInterrupt:
        sys.exit("stopped")
