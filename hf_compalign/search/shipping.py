"""Write the artifact of what was chosen."""

from dataclasses import replace
from pathlib import Path

from hf_compalign._files import CHOSEN_NAME
from hf_compalign.search.chosen import BEHIND
from hf_compalign.search.record import Compression, Tried
from hf_compalign.search.workshop import Workshop
from hf_compalign.ship import ArtifactDetails, artifact_files, save_artifact
from hf_compalign.ship.repair import Part


def ship(
    found: Compression, chosen: Tried, shop: Workshop, *, judged: Part, output: Path, overwrite: bool
) -> Compression:
    """Write the artifact, with the record of the search.

    Its weights keep the limits too: those of the chosen file, or the original's where that file defers.
    """
    path, form = shop.path(chosen.step), chosen.step.file_format
    files: dict[str, dict[str, Path]] = {"onnx": {}, "openvino": {}}
    files[form][path.stem] = path
    name = f"{form}/{path.name}"
    if chosen.deferral is not None and found.search.fallback is not None:
        behind = found.search.fallback.step
        files[behind.file_format][f"{shop.path(behind).stem}{BEHIND}"] = shop.path(behind)
    save_artifact(
        shop.setting.network if chosen.deferral else shop.weights(chosen.step),
        output,
        reference=shop.setting.network,
        dataset=judged.rows,
        onnx=files["onnx"],
        openvino=files["openvino"],
        deferrals={name: chosen.deferral} if chosen.deferral else {},
        details=ArtifactDetails(
            about=name,
            processing_class=shop.setting.processor,
            columns=shop.setting.options.columns,
            limits=judged.limits,
            timed_batch_sizes=sorted({1, shop.setting.options.batch_size}),
        ),
        overwrite=overwrite,
        dropped=artifact_files(output),
    )
    found = replace(found, folder=str(output))
    found.save(output / CHOSEN_NAME)
    return found
