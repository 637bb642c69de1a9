"""Where an alignment starts: the original, fine-tuned when there is none, and a student with its labels."""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from transformers import AutoConfig, PreTrainedModel, Trainer, TrainingArguments

from hf_compalign._files import write_text_atomic
from hf_compalign.labels import names_of

logger = logging.getLogger(__name__)

RECIPE_FILE = "fine_tuning.json"


def load_for_labels(
    auto_class: Any, path: str | Path, names: Sequence[str], *, ignore_mismatched_sizes: bool = False
) -> PreTrainedModel:
    """A model whose head answers with these labels: in its own order where it knows them, else in this one.

    Args:
        auto_class: the class of transformers that loads such a model, as `AutoModelForSequenceClassification`.
        path: a local folder or a Hub id.
        names: the label names.
        ignore_mismatched_sizes: start with a new head where the model has one for other labels.
    """
    config = AutoConfig.from_pretrained(str(path))
    own = [name.casefold() for name in names_of(config.id2label)]
    if sorted(own) != sorted(name.casefold() for name in names):
        config.id2label = dict(enumerate(names))
        config.label2id = {name: index for index, name in enumerate(names)}
    return auto_class.from_pretrained(str(path), config=config, ignore_mismatched_sizes=ignore_mismatched_sizes)


def fine_tune_teacher(
    folder: str | Path,
    args: TrainingArguments,
    *,
    model_init: Callable[[], PreTrainedModel],
    recipe: Mapping[str, Any],
    num_train_epochs: float,
    learning_rate: float,
    **trainer: Any,
) -> str:
    """Fine-tune a model with the stock Trainer into a folder, unless that has been done there before.

    Args:
        folder: where the model is saved; a file with the recipe is written last.
        args: of the student; the teacher takes what is not about saving, evaluating or the length of the training.
        model_init: the model to start from; called only when it is needed.
        recipe: what else the teacher depends on, such as its data; plain JSON.
        num_train_epochs: the length of the training.
        learning_rate: the highest of the training.
        **trainer: further arguments of `Trainer`, among them train_dataset.

    Returns:
        The folder.

    Raises:
        ValueError: a teacher of another recipe is in the folder.
    """
    folder = Path(folder)
    own = {"num_train_epochs": num_train_epochs, "learning_rate": learning_rate, "seed": args.seed}
    recipe = dict(recipe) | own
    if _is_finished(folder, recipe):
        logger.info("Taking the teacher that was fine-tuned in %s.", folder)
        return str(folder)
    teacher_args = replace(
        args,
        output_dir=str(folder),
        num_train_epochs=num_train_epochs,
        learning_rate=learning_rate,
        max_steps=-1,
        save_strategy="no",
        eval_strategy="no",
        load_best_model_at_end=False,
        push_to_hub=False,
    )
    stock = Trainer(model_init(), teacher_args, **trainer)
    stock.train()
    stock.save_model()
    if stock.is_world_process_zero():
        write_text_atomic(folder / RECIPE_FILE, json.dumps(recipe, indent=2))
    # The other processes load what the first one has written.
    stock.accelerator.wait_for_everyone()
    return str(folder)


def _is_finished(folder: Path, recipe: Mapping[str, Any]) -> bool:
    path = folder / RECIPE_FILE
    if not path.exists():
        return False
    was = json.loads(path.read_text(encoding="utf-8"))
    keys = sorted(was.keys() | recipe.keys())
    changed = [f"{key}: {was.get(key)!r} -> {recipe.get(key)!r}" for key in keys if was.get(key) != recipe.get(key)]
    if changed:
        raise ValueError(
            f"The teacher in {folder} was fine-tuned in another way: {'; '.join(changed)}. Take it as it is with "
            f"teacher_name_or_path={str(folder)!r}, or choose another output_dir."
        )
    return True
