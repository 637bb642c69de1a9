"""The files that a card sets side by side: their table, and how each is loaded."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from hf_compalign._exported import ONNX, OPENVINO, FileFormat, format_of
from hf_compalign._formats import count, interval, megabytes, percent
from hf_compalign._records import plain
from hf_compalign._tables import Table, escaped
from hf_compalign.measure.audit import batch_words, judged_together
from hf_compalign.measure.footprint import quartiles, wide_spread
from hf_compalign.report.card.details import CardDetails, Deferred, Measured

# Transformers.js has these names for files in onnx/. It loads others by their file name.
_JS_DTYPES = {"model": "fp32", "model_quantized": "q8"}
_JS_DTYPES |= {f"model_{dtype}": dtype for dtype in ("fp16", "int8", "uint8", "q4", "q4f16", "bnb4")}


def exported_files(files: Mapping[str, Measured], *formats: FileFormat) -> list[str]:
    """The names of those of these formats."""
    return [name for name in files if format_of(name) in formats]


def js_options(files: Mapping[str, Measured]) -> str:
    """The options with which Transformers.js loads the last of the ONNX files; empty without any."""
    found = exported_files(files, ONNX)
    if not found:
        return ""
    stem = Path(found[-1]).stem
    return f'dtype: "{_JS_DTYPES[stem]}"' if stem in _JS_DTYPES else f'dtype: "fp32", model_file_name: "{stem}"'


def precisions(files: Mapping[str, Measured]) -> dict[str, str]:
    """In which precision each OpenVINO file was computed for its audit; float32 where nothing else is said."""
    runtimes = {name: one.audit.candidate.runtime for name, one in files.items() if one.audit is not None}
    said = {name: runtimes.get(name) for name in exported_files(files, OPENVINO)}
    return {name: "f32" if runtime is None else runtime.precision for name, runtime in said.items()}


def depending_files(files: Mapping[str, Measured]) -> str:
    """A sentence about the files whose answers depend on the batch; empty without any."""
    audits = {name: one.audit for name, one in files.items() if one.audit is not None}
    return escaped(batch_words([(name, plain(one.candidate)) for name, one in audits.items()]))


def pairs(details: CardDetails) -> dict[str, tuple[Deferred, str]]:
    """Each file that leaves items to another model -> what is said of it, and the Python that loads both."""
    return {name: (one, _loading(name, details, pair=True)) for name, one in details.deferrals.items()}


def _loading(name: str, details: CardDetails, *, pair: bool) -> str:
    """The Python for a file, alone or with what is behind it, in a folder that has the artifact; or for a model."""
    if name not in details.files or details.files[name].audit is None:  # the original may have the name of its row
        return f'"{name}"'
    place = "folder" if format_of(name) is None else f'f"{{folder}}/{name}"'
    if not pair:
        return place
    deferred = details.deferrals[name]
    return f"DeferringModel({place}, {_loading(deferred.behind, details, pair=deferred.pair)})"


def files_table(files: Mapping[str, Measured]) -> Table:
    """A row for each file, and the columns of which something is known."""
    batch_sizes = sorted({size for one in files.values() for size in one.latencies})
    times = (f"ms, batch {size}" for size in batch_sizes)
    header = ("", "accuracy", "mismatches", "mismatch rate", "limits", "MB", *times)
    rows = [(name, *_file_cells(one, batch_sizes)) for name, one in files.items()]
    known = [column for column in zip(header, *rows, strict=True) if any(column[1:])]
    cells = zip(*(column[1:] for column in known), strict=True)
    return Table("Files", [column[0] for column in known], list(cells))


def wide_files(files: Mapping[str, Measured]) -> str:
    """A sentence about the files with a wide spread of their times; empty without any."""
    timed = {name: [time for time in one.latencies.values() if time.is_wide] for name, one in files.items()}
    return wide_spread({name: wide[0] for name, wide in timed.items() if wide})


def _file_cells(measured: Measured, batch_sizes: Sequence[int]) -> tuple[str, ...]:
    audit, size = measured.audit, measured.size_bytes
    differs = rate = limits = ""
    if audit is not None:
        numbers = audit.metrics
        differs = f"{count(numbers['cie'])} of {count(audit.n)}"
        rate = f"{percent(numbers['mismatch_rate'])} ({interval(numbers['mismatch_rate_interval'])})"
        limits = judged_together(audit.limits) if audit.limits else ""
    times = [measured.latencies.get(batch_size) for batch_size in batch_sizes]
    return (
        "" if math.isnan(measured.accuracy) else percent(measured.accuracy),
        *(differs, rate, limits),
        "" if size is None else megabytes(size),
        *("" if time is None else quartiles(time) for time in times),
    )
