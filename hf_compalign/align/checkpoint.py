"""What a checkpoint says of the alignment that it was made with."""

import json
import logging
from pathlib import Path
from typing import Any

from transformers.trainer_utils import sort_checkpoints

from hf_compalign._trainer import changes

logger = logging.getLogger(__name__)


def last_complete_checkpoint(output_dir: str) -> str:
    """The newest checkpoint that was written to its end; one cut off by a kill is passed over."""
    folders = sort_checkpoints(output_dir=output_dir)
    for folder in reversed(folders):
        # The Trainer writes this file last.
        state = Path(folder) / "trainer_state.json"
        try:
            json.loads(state.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            logger.warning("Passing over %s: it was not written to its end.", folder)
            continue
        return str(folder)
    raise ValueError(
        f"No complete checkpoint found in {output_dir!r}. To begin again, train without resume_from_checkpoint."
    )


def read_alignment_state(path: Path, recipe: dict[str, Any]) -> dict[str, Any]:
    """A checkpoint's alignment, if it is the one that training goes on with."""
    if not path.exists():
        raise ValueError(
            f"The checkpoint {path.parent} was not made by an AlignedDistillationTrainer: it has no {path.name}. "
            f"To start from its weights, load the model from it and train without resume_from_checkpoint."
        )
    state: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    was = state["alignment"] | {"teacher": state["teacher"]}
    now = recipe["alignment"] | {"teacher": recipe["teacher"]}
    if changed := changes(was, now):
        raise ValueError(
            f"The checkpoint {path.parent} was made with another alignment: {changed}. Resume with the "
            "same, or load the model from it and train without resume_from_checkpoint."
        )
    return state
