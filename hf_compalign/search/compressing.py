"""The fastest or smallest file of a model that keeps a limit, found on some rows and proved on others."""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from datasets import Dataset
from transformers import PreTrainedModel

from hf_compalign._folders import check_free
from hf_compalign._formats import plural
from hf_compalign.measure.audit import answers_of
from hf_compalign.measure.predictions import Predictions
from hf_compalign.search.climbing import Climber
from hf_compalign.search.options import SearchOptions
from hf_compalign.search.proving import compared, judged_in_turn
from hf_compalign.search.record import Compression, Search
from hf_compalign.search.setting import Setting, setting_of
from hf_compalign.search.shipping import ship
from hf_compalign.search.working import work_folder, working_in
from hf_compalign.search.workshop import Workshop
from hf_compalign.ship import refuse_foreign_files
from hf_compalign.ship.repair import Part, split

Report = Callable[[str], None]


def compress_model(  # noqa: PLR0913 - a model, its rows, where to, and what to keep
    model: PreTrainedModel | str | Path,
    dataset: Dataset,
    output: str | Path,
    *,
    limits: Mapping[str, float],
    calibration: Dataset | None = None,
    train: Dataset | None = None,
    options: SearchOptions | None = None,
    progress: Callable[[str], None] | None = None,
) -> Compression:
    """Find the fastest (or smallest) file of a model that keeps the limits, prove it, and write it as it ships.

    The rows are dealt in two. On the first part files are tried, from the cheap to the dear: in bfloat16 and INT8; of
    the model with heads and neurons cut and corrected by least squares; with layers of INT8 back in float; with
    ``train`` also cut models that are trained to answer like the original; and each with the original behind it, as a
    file, for what it is not sure of (`fit_deferral`). What others beat in any case is not tried. The files that promise
    to keep the limits, and that no other beats, are judged on the second part, the safest first, up to the first that
    does not keep them; the last that does is chosen. A file beyond a limit is chosen with a probability of at most 5 %
    (https://huggingface.co/papers/2110.01052), for rows drawn as these were.

    The folder gets what `save_artifact` writes, and ``compression.json`` with all that was tried. Until then the search
    works in ``<output>.search`` beside it. One that was killed goes on from there; one that finds nothing leaves it.

    Args:
        model: the original, of a task that `audit` takes.
        dataset: rows that the model was not trained on, as `predict` takes them. More rows show smaller rates.
        output: a folder that is empty or not there yet; with ``options.overwrite`` also one that holds something, of
            which files of an earlier artifact go.
        limits: the largest acceptable ``mismatch_rate``, ``nfr``, ``flip_rate`` or ``pfr``, each judged by its 95 %
            upper bound.
        calibration: rows for the ranges of INT8 and for cuts; by default some of ``train``, or else up to a fifth of
            the dataset, which then neither chooses nor proves.
        train: rows to train cut models on, without which none is. Of both, rows that ask what a row of the dataset
            asks are left out.
        options: the rest.
        progress: called with each line of what is done.

    Raises:
        ImportError: neither OpenVINO nor ONNX Runtime is installed.
        ValueError: no limits, or ones that so few rows cannot show; a model or rows that do not fit; most rows to
            calibrate or train on are among those of the dataset; a folder that holds something; or a search in it by
            another process, or of another recipe.
    """
    options, report, output = options or SearchOptions(), progress or (lambda line: None), Path(output)
    folder = work_folder(output)
    overwrite = options.overwrite or folder.is_dir()
    check_free(output, overwrite=overwrite)
    refuse_foreign_files(output)
    setting = setting_of(model, dataset, limits=limits, calibration=calibration, train=train, options=options)
    with working_in(folder, setting.recipe()):
        searched, judged = _parts(setting, folder)
        rows = [plural(len(part), "row") for part in (searched.rows, judged.rows, setting.calibration)]
        for note in setting.notes:
            report(note)
        report(f"Choosing on {rows[0]}, proving on {rows[1]}, calibrating on {rows[2]}")
        shop = Workshop(setting, folder, searched)
        found = _climbed(shop, judged, report)
        proofs, chosen = judged_in_turn(found, shop, judged, report)
        n_proving = judged.best.n_examples or judged.best.n
        result = Compression(setting.where, setting.limits, found, proofs, None, n_proving)
        if chosen is not None:
            result = replace(result, proved=compared(found, chosen, shop, judged))
            result = ship(result, chosen, shop, judged=judged, output=output, overwrite=overwrite)
    if result.passed:
        shutil.rmtree(folder)
    return result


def _parts(setting: Setting, folder: Path) -> tuple[Part, Part]:
    """The rows to choose on and those to prove on, with the original's answers, which are asked once."""
    path = folder / "answers" / "original.npz"
    if not path.is_file():
        answers_of(setting.network, setting.rows, setting.asking).save(path)
    return split(
        setting.rows,
        Predictions.load(path),
        share=setting.options.search_share,
        task=setting.task,
        limits=setting.limits,
        options=setting.asking,
    )


def _climbed(shop: Workshop, judged: Part, report: Report) -> Search:
    """All that was tried, saved after each step."""
    options, path = shop.setting.options, shop.folder / "search.json"
    found = Search.load(path) if path.is_file() else Search(options.objective, options.batch_size)
    climber = Climber(shop, judged, found, report=report, save=lambda so_far: so_far.save(path))
    return climber.climb(shop.setting.steps)
