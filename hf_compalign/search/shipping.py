"""Write the artifact of what was chosen."""

from dataclasses import replace
from pathlib import Path

from hf_compalign._exported import format_of
from hf_compalign.search.record import Compression, Tried
from hf_compalign.search.workshop import Workshop
from hf_compalign.ship import ArtifactDetails, save_artifact
from hf_compalign.ship.repair import Part

RECORD, PLOT = "compression.json", "frontier.png"


def ship(
    found: Compression, chosen: Tried, shop: Workshop, *, searched: Part, judged: Part, output: Path, overwrite: bool
) -> Compression:
    """Write the artifact, with the record of the search and its plot.

    Its weights keep the limits too: those of the chosen file, or the original's where that file defers.
    """
    behind = None if chosen.deferral is None else found.search.fallback
    paths = {"": shop.path(chosen.step, searched)}
    if behind is not None:
        paths["_original"] = shop.path(behind.step, searched)
    files: dict[str, dict[str, Path]] = {"onnx": {}, "openvino": {}}
    for ending, path in paths.items():
        form = format_of(path)
        files[form.folder if form else "onnx"][f"{path.stem}{ending}"] = path
    first = paths[""]
    name = f"{chosen.step.file_format}/{first.name}"
    save_artifact(
        shop.setting.network if chosen.deferral else shop.weights(chosen.step),
        output,
        reference=shop.setting.network,
        dataset=judged.rows,
        onnx=files["onnx"],
        openvino=files["openvino"],
        deferrals={name: chosen.deferral} if chosen.deferral else {},
        details=ArtifactDetails(
            processing_class=shop.setting.processor,
            columns=shop.setting.options.columns,
            limits=judged.limits,
            timed_batch_sizes=sorted({1, shop.setting.options.batch_size}),
        ),
        overwrite=overwrite,
    )
    found = replace(found, folder=str(output))
    found.save(output / RECORD)
    return found
