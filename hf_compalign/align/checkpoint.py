"""What a checkpoint says of the alignment that it was made with."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import sort_checkpoints

from hf_compalign._files import built_from, read_json
from hf_compalign._records import built
from hf_compalign._trainer import changes
from hf_compalign.align.weighting import Weighting, load_json_state

logger = logging.getLogger(__name__)

_AGAIN = "Resume from another checkpoint, or copy this one again."


def last_complete_checkpoint(output_dir: str) -> str:
    """The newest checkpoint that was written to its end; one cut off by a kill is passed over."""
    folders = sort_checkpoints(output_dir=output_dir)
    for folder in reversed(folders):
        # The Trainer writes this file last.
        state = Path(folder) / TRAINER_STATE_NAME
        try:
            read_json(state)
        except (OSError, ValueError):
            logger.warning("Passing over %s: it was not written to its end.", folder)
            continue
        return str(folder)
    raise ValueError(
        f"No complete checkpoint found in {output_dir!r}. To begin again, train without resume_from_checkpoint."
    )


def check_is_checkpoint(folder: Path) -> None:
    """Refuse what no run can go on from, by what is missing there."""
    if not folder.is_dir():
        raise ValueError(
            f"There is no checkpoint {folder}. Give the folder of one, or True for the last one in output_dir."
        )
    from_weights = "To start from its weights, load the model from it and train without resume_from_checkpoint."
    if not (folder / TRAINER_STATE_NAME).exists():
        held = [Path(one).name for one in sort_checkpoints(output_dir=str(folder))]
        way = f"It holds {', '.join(held)}: give one of them." if held else from_weights
        raise ValueError(f"{folder} is not a checkpoint: it has no {TRAINER_STATE_NAME}. {way}")
    # FSDP and DeepSpeed write folders.
    if not any(any(folder.glob(pattern)) for pattern in ("optimizer*", "global_step*")):
        raise ValueError(
            f"The checkpoint {folder} has no optimizer.pt: it was saved with save_only_model=True, or the file was "
            f"removed. No run can go on from it. {from_weights}"
        )


def check_loaded(model: Any, missing: Sequence[str], unexpected: Sequence[str]) -> None:
    """Refuse weights under other names than the model's: they were read, and are nowhere.

    Raises:
        ValueError: the model lacks some weights, and others are left over.
    """
    if missing and unexpected:
        raise ValueError(
            f"The weights of the checkpoint were not taken: {type(model).__name__} looks for {missing[0]} and "
            f"{len(missing) - 1} more, and the file holds {unexpected[0]} and {len(unexpected) - 1} more instead. "
            "transformers saves some models under other names, and its Trainer does not turn them back "
            "(https://github.com/huggingface/transformers/issues/43701). from_pretrained does: open the checkpoint "
            "with that, train anew from it, and leave load_best_model_at_end out."
        )


def check_resumable(folder: Path, state_file: str, recipe: dict[str, Any]) -> None:
    """Refuse a folder that is no checkpoint of a run with this alignment."""
    check_is_checkpoint(folder)
    read_alignment_state(folder / state_file, recipe)


@dataclass(frozen=True)
class _AlignmentState:
    """What a checkpoint holds: the options, the teacher's fingerprint, and the state of the weighting."""

    alignment: Mapping[str, Any]
    teacher: str
    weighting: Mapping[str, Any]


def read_alignment_state(path: Path, recipe: dict[str, Any]) -> _AlignmentState:
    """A checkpoint's alignment, if it is the one that training goes on with."""
    if not path.exists():
        raise ValueError(
            f"The checkpoint {path.parent} was not made by an AlignedDistillationTrainer: it has no {path.name}. "
            f"To start from its weights, load the model from it and train without resume_from_checkpoint."
        )
    state = built_from(path, partial(built, _AlignmentState), read_json(path), again=_AGAIN)
    was = {**state.alignment, "teacher": state.teacher}
    now = recipe["alignment"] | {"teacher": recipe["teacher"]}
    if changed := changes(was, now):
        raise ValueError(
            f"The checkpoint {path.parent} was made with another alignment: {changed}. Resume with the "
            "same, or load the model from it and train without resume_from_checkpoint."
        )
    return state


def restore_weighting(weighting: Weighting, path: Path, recipe: dict[str, Any]) -> None:
    """Put a checkpoint's state back into the weighting of a run with the same alignment."""
    stored = read_alignment_state(path, recipe).weighting
    built_from(path, partial(load_json_state, weighting), stored, again=_AGAIN)
