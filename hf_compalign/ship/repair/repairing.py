"""Repair an INT8 export whose answers differ too often: keep only the layers in float that it takes."""

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from datasets import Dataset
from torch import nn
from transformers import PreTrainedModel

from hf_compalign._files import AUDIT_NAME, FRONTIER_NAME, PLOT_NAME
from hf_compalign._folders import staged_folder
from hf_compalign._formats import count, first_of, plural
from hf_compalign.compress import load_compressed
from hf_compalign.compress.export import Export, check_neighbors, check_not_exported
from hf_compalign.measure.audit import Audit, AuditOptions, checked_limits
from hf_compalign.measure.predictions import Predictions
from hf_compalign.opening import Model, load_model, processor_of
from hf_compalign.report.plots import plot_frontier
from hf_compalign.ship.formats import check_format
from hf_compalign.ship.frontier import Frontier, Point
from hf_compalign.ship.reference import reference_answers
from hf_compalign.ship.repair.files import Int8Files
from hf_compalign.ship.repair.judging import chosen_of, fixed_sequence, verdict_of
from hf_compalign.ship.repair.makers import MAKERS
from hf_compalign.ship.repair.options import RepairOptions
from hf_compalign.ship.repair.parts import split
from hf_compalign.ship.repair.search import describe_point, smallest_float_set
from hf_compalign.tasks import MEASURED, task_of

Report = Callable[[str], None]


@dataclass(frozen=True)
class Repair:
    """What `repair_int8` wrote; ``print`` shows the verdict.

    Attributes:
        export: the chosen file. Its ``max_logit_difference`` is from the file in float, on some of the data.
        audit: of the file against the reference, on the ``n_judged`` items that the search has not seen.
        frontier: everything that was measured.
        complete: whether the search came to its end: no single layer can go back to INT8, or no set of layers helps.
    """

    export: Export
    audit: Audit
    frontier: Frontier
    complete: bool

    @property
    def passed(self) -> bool:
        """Whether the file keeps every limit on the items that the search has not seen."""
        return self.audit.passed

    @property
    def n_searched(self) -> int:
        """How many items the search measured all files on."""
        return self.frontier.n_searched

    @property
    def n_judged(self) -> int:
        """How many other items the verdict is on."""
        return self.frontier.n_judged

    def __str__(self) -> str:
        return self.frontier.verdict


def repair_int8(  # noqa: PLR0913 - what to export and where, and what to hold it against
    model: PreTrainedModel | str | Path,
    folder: str | Path,
    *,
    limits: Mapping[str, float],
    dataset: Dataset,
    file_format: str = "onnx",
    reference: Predictions | PreTrainedModel | str | Path | None = None,
    options: RepairOptions | None = None,
    progress: Callable[[str], None] | None = None,
) -> Repair:
    """Export a model to INT8, with as few layers in float as it takes to keep the limits.

    A file chosen by its answers on some rows looks better on them than on others. So the search sees one part of the
    dataset, and another part judges what it found.

    - Search: `smallest_float_set`, for which a file is good enough if the other part would show that it keeps the
      limits, at the rates that it has on this part and one standard deviation more.
    - Verdict: the files that were good enough are judged on the other part, by `audit`, from the most layers in float
      to the fewest, up to the first that does not keep the limits; the last that does is chosen. As this order is fixed
      beforehand, the number of files needs no correction: it is the fixed-sequence test of Learn then Test
      (https://huggingface.co/papers/2110.01052). A file beyond the limits is chosen with a probability of at most 5 %,
      for rows drawn as these were.

    More rows make the chosen file smaller: both bounds come closer to the rates.

    The folder gets the file (``model_int8.onnx``, or ``openvino_model.xml`` and ``.bin``) with its config and
    processor, its `Audit` on the rows that judge as ``audit.json``, and all measurements as ``frontier.json`` and,
    where matplotlib is installed, ``frontier.png``. If no file keeps the limits, the folder gets the one that is judged
    first, and ``passed`` is False.

    Args:
        model: of a task that `audit` takes, as for `export_onnx` and `export_openvino`.
        folder: a folder that is empty or not there yet.
        limits: the largest acceptable ``mismatch_rate``, ``nfr``, ``flip_rate`` or ``pfr``; `audit` judges each by its
            95 % upper bound.
        dataset: what all files answer, as `predict` takes it; ``options.search_share`` of it is searched on.
        file_format: "onnx", or "openvino", for which NNCF calibrates each file of the search anew.
        reference: the model whose answers count, or its predictions on the dataset; by default the model.
        options: the rest.
        progress: called with each line of what is done.

    Raises:
        ImportError: the extra of the format is not installed.
        ValueError: there is no limit or no such format, so few items cannot show that a limit is kept, or `export_onnx`
            or `export_openvino` refuses. The folder is then as it was.
    """
    options, progress = options or RepairOptions(), progress or (lambda line: None)
    check_format(file_format, precision=options.precision, portable=options.portable)
    limits = _checked(limits)
    with staged_folder(folder, overwrite=options.overwrite) as stage, tempfile.TemporaryDirectory(dir=stage) as work:
        network = _opened(model)
        check_neighbors(folder, MAKERS[file_format].name, network)
        task = task_of(network, MEASURED)
        if options.processing_class is None:
            options = replace(options, processing_class=processor_of(model, task))
        asking = AuditOptions(options.columns, options.processing_class, options.batch_size)
        answers = reference_answers(network if reference is None else reference, dataset, task=task, options=asking)
        share = options.search_share
        searched, judged = split(dataset, answers, share=share, task=task, limits=limits, options=asking)
        maker = MAKERS[file_format](network, Path(work), options)
        files = Int8Files(maker, Path(work), searched=searched, judged=judged, options=options)
        progress(_layers_line(maker.export))
        progress(f"Searched on {plural(searched.best.n, 'item')}, judged on {count(judged.best.n)} others")
        found = smallest_float_set(
            files.layers,
            files.measure,
            files.probe,
            max_measurements=options.max_measurements,
            known=options.sensitivities,
            report=progress,
        )
        sequence = tuple(fixed_sequence(found.candidates, partial(_judged, files, progress)))
        chosen = chosen_of(sequence)
        verdict = verdict_of(found, sequence, n_layers=len(files.layers), share=share)
        frontier = files.timed(Frontier(found.points, sequence, chosen.kept, verdict, found.sensitivities), network)
        export = files.publish(chosen, stage, Path(folder))
        repair = Repair(export, files.audits[chosen.kept], frontier, found.complete)
        _save(stage, repair, limits, progress)
    return repair


def _judged(files: Int8Files, progress: Report, point: Point) -> Point:
    found = files.judge(point)
    progress(f"judged  {len(point.kept)} in float: {describe_point(found)}")
    return found


def _opened(model: Model) -> PreTrainedModel:
    if isinstance(model, nn.Module):
        return load_model(model)
    check_not_exported(model)
    return load_compressed(model)


def _checked(limits: Mapping[str, float]) -> dict[str, float]:
    if not limits:
        raise ValueError("A repair needs a limit to keep, such as limits={'mismatch_rate': 0.01}. Got none.")
    return checked_limits(limits)


def _layers_line(export: Export) -> str:
    fixed = export.float_layers
    in_any_case = f"; in float in any case: {first_of(fixed)}" if fixed else ""
    return f"{len(export.quantized_layers)} layers can be INT8 ({export.quantize}){in_any_case}"


def _save(stage: Path, repair: Repair, limits: Mapping[str, float], progress: Report) -> None:
    """Save what was measured beside the file."""
    frontier = repair.frontier
    repair.audit.save(stage / AUDIT_NAME)
    frontier.save(stage / FRONTIER_NAME)
    try:
        figure = plot_frontier(
            frontier.worth_a_look,
            chosen=frontier.chosen,
            limit=limits.get("mismatch_rate"),
            torch_latency=frontier.baselines.get("torch"),
        )
    except ImportError as error:
        progress(f"No {PLOT_NAME}: {error}")
    else:
        figure.savefig(stage / PLOT_NAME, dpi=150)
