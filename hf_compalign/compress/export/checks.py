"""What cannot be exported, or not into that folder, is refused before anything is written."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from hf_compalign._files import built_from, read_json
from hf_compalign._records import built
from hf_compalign.compress.export.graph import MODES, NO_FILE, graph_layers
from hf_compalign.compress.sharding import in_shards
from hf_compalign.models import FileModel, exported_files, input_names
from hf_compalign.tasks import EXPORTED, task_of

# What some models read of a row besides texts, masks and whole images: places on a page, and patches.
_MORE_INPUTS = ("bbox", "pixel_attention_mask", "spatial_shapes")


def check_options(
    quantize: str | None,
    calibration: Any,
    *,
    exclude: Sequence[str] | None,
    portable: bool = False,
    modes: Sequence[str] = MODES,
) -> None:
    """Refuse options that contradict each other, or would be ignored."""
    if quantize is not None and quantize not in modes:
        raise ValueError(f"quantize must be None (float32), {' or '.join(map(repr, modes))}. Got {quantize!r}.")
    if quantize == "static" and calibration is None:
        raise ValueError(
            "quantize='static' fixes the ranges of the activations beforehand. Give calibration=, a DataLoader of some "
            "hundred rows" + ("; or use quantize='dynamic', which needs no data." if "dynamic" in modes else ".")
        )
    if quantize != "static" and calibration is not None:
        raise ValueError(f"calibration= would be ignored with quantize={quantize!r}. Leave it out, or say 'static'.")
    if isinstance(exclude, str):
        raise ValueError(f"exclude must be a list of patterns. Got {exclude!r}. Did you mean [{exclude!r}]?")
    if quantize is None and exclude:
        raise ValueError("exclude= would be ignored without quantize=: every layer is in float. Leave it out.")
    if quantize is None and portable:
        raise ValueError(
            "portable=True would be ignored without quantize=: a file in float answers alike on every CPU. Leave it "
            "out, or say quantize='dynamic'."
        )


def check_model(model: Any) -> None:
    """Refuse a model that is not one of transformers, has another head, or has its weights elsewhere."""
    if isinstance(model, FileModel):
        raise ValueError(_exported_already(model.path))
    if not isinstance(model, PreTrainedModel):
        raise ValueError(
            f"The model must be one of transformers. Got {type(model).__name__}. Merge adapters into the model first "
            "(merge_and_unload), and take it out of wrappers."
        )
    task_of(model, EXPORTED)
    more = [name for name in _MORE_INPUTS if name in input_names(model)]
    if more:
        raise ValueError(
            f"{type(model).__name__} also reads {' and '.join(more)}, which an exported file does not take: it would "
            f"answer without. {NO_FILE}"
        )
    if in_shards(model) or any(parameter.is_meta for parameter in model.parameters()):
        raise ValueError(
            "The model's weights are not all in this process: they are in shards (FSDP) or on the meta device. Save "
            "the model, load it in one process, and export it there."
        )


def check_not_exported(where: str | Path) -> None:
    """Refuse the path of an exported file, or of a folder with nothing but exported files."""
    files = exported_files(Path(where))
    if files:
        raise ValueError(_exported_already(files[0]))


def _exported_already(path: Path) -> str:
    kind = "ONNX" if path.suffix == ".onnx" else "OpenVINO"
    return f"{path} is an {kind} file already. Give the PyTorch model that it was exported from."


@dataclass(frozen=True)
class _Labels:
    """What a config.json says of the labels."""

    id2label: Mapping[int, str] | None = None


def check_neighbors(folder: str | Path, name: str, model: Any) -> None:
    """Refuse a folder with a file of a model with other labels: the new config would be read with it."""
    others = [file.name for file in exported_files(Path(folder), weights=False) if file.name != name]
    config = Path(folder) / "config.json"
    if others and config.is_file():
        again = "Copy the config.json of the exported model there, or give another folder."
        labels = built_from(config, partial(built, _Labels), read_json(config), again=again).id2label
        if labels is not None and labels != model.config.id2label:
            raise ValueError(
                f"The folder {folder} holds {', '.join(others)} of a model with other labels "
                f"({', '.join(map(str, labels.values()))}), and its config would be replaced. Give another folder."
            )


def check_something_left(source: Path, layers: tuple[str, ...], kept: tuple[str, ...], mode: str) -> None:
    """Refuse an INT8 file in which every layer stays in float."""
    if len(kept) < len(layers):
        return
    more = len(graph_layers(source, "static")) - len(layers)
    static = f" quantize='static' would take {more} layers more, the convolutions." if more else ""
    raise ValueError(
        f"Nothing is left to quantize: all {len(layers)} layers that quantize={mode!r} could take stay in float, by "
        f"exclude= or because they make the logits.{static} For float32, leave quantize= out."
    )
