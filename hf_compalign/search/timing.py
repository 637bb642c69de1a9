"""How many times faster a file is than the original, on a machine that may be busy."""

from typing import Any

import numpy as np
from datasets import Dataset

from hf_compalign.measure.footprint import batches_of, interleaved_times_ms, opened_on, timing_device
from hf_compalign.measure.statistics import Estimate
from hf_compalign.search.options import SearchOptions
from hf_compalign.ship.deployments import speedup_of

# How often each batch is timed, and how many passes a model makes before the next has its turn.
_ROUNDS, _IN_A_ROW = 3, 5


def times_faster(original: Any, network: Any, rows: Dataset, *, processor: Any, options: SearchOptions) -> Estimate:
    """The time of the original over that of a file, on the same batches, in turn.

    Of each batch the least of some times counts: what else the machine does only ever adds to it. The batches are
    different rows, since a file that defers asks the original for some of them alone.
    """
    device = timing_device(files=True)
    sizes = [options.batch_size] * options.n_runs
    given = {}
    for name, one in (("original", opened_on(original, device)), ("file", network)):
        batches = batches_of(one, rows, sizes=sizes, processing_class=processor, columns=options.columns)
        given[name] = (one, batches)
    rounds = [
        interleaved_times_ms(given, n_warmup=1, n_runs=options.n_runs, in_a_row=_IN_A_ROW) for _ in range(_ROUNDS)
    ]
    original_ms, file_ms = (np.min([times[name] for times in rounds], axis=0).tolist() for name in given)
    return speedup_of(original_ms, file_ms)
