"""Jobs in several processes: all are done, and none outlives whoever gives them."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jobs
import pytest

from hf_compalign.demo import do_all


@pytest.mark.parametrize("processes", [1, 2])
def test_all_jobs_and_those_that_follow_are_done(processes):
    seen = []
    do_all([jobs.CountDown(2), jobs.CountDown(1)], seen.append, processes=processes)
    steps, pids = zip(*(step.split(" by ") for step in seen), strict=True)
    assert sorted(steps) == ["0", "0", "1", "1", "2"]
    assert len({*pids}) == processes
    assert (str(os.getpid()) in pids) == (processes == 1)
    assert not multiprocessing.active_children()


def test_new_processes_are_prepared_first():
    seen = []
    do_all([jobs.ShowVariable()], seen.append, processes=2, prepare=jobs.set_variable)
    do_all([jobs.ShowVariable()], seen.append)
    assert seen == ["yes", "no"]


@pytest.mark.parametrize(
    ("job", "error", "message"),
    [
        (jobs.Fail("a disk that is full"), ValueError, "^a disk that is full$"),
        (jobs.Die(3), ChildProcessError, "ended by itself, with exit code 3.*Set OMP_NUM_THREADS=1"),
    ],
)
def test_what_goes_wrong_in_one_process_ends_all(job, error, message):
    with pytest.raises(error, match=message):
        do_all([job, jobs.Endless()], lambda stage: None, processes=2)
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGKILL])
def test_no_process_outlives_the_one_that_started_it(end):
    run = subprocess.Popen(
        [sys.executable, Path(jobs.__file__)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    worker = int(run.stdout.readline())
    # Ctrl-C reaches all processes of a terminal.
    (os.killpg if end == signal.SIGINT else os.kill)(run.pid, end)
    _, said = run.communicate(timeout=60)
    assert said == ("stopped\n" if end == signal.SIGINT else "")
    deadline = time.monotonic() + 60
    while _runs(worker):
        assert time.monotonic() < deadline, "a process is left over"
        time.sleep(0.02)


def _runs(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
