"""Where an alignment starts: the original, fine-tuned first when there is none, and the student's weights."""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from transformers import AutoConfig, PreTrainedModel, TrainingArguments

from hf_compalign._files import built_from, read_json, write_text_atomic
from hf_compalign._records import built
from hf_compalign._trainer import changes, flag
from hf_compalign.align.arguments import AlignmentArguments
from hf_compalign.align.learning_rate import suggest_learning_rate
from hf_compalign.align.trainer import AlignedDistillationTrainer
from hf_compalign.data import Windows
from hf_compalign.labels import names_of, places
from hf_compalign.models import read_in_windows, windows_in

logger = logging.getLogger(__name__)

RECIPE_FILE = "fine_tuning.json"


@dataclass
class ModelArguments:
    """Which models take part, and how fast they learn, as flags of a script.

    Raises:
        ValueError: neither a teacher nor what to fine-tune one from is given, or both are.
    """

    model_name_or_path: str | None = flag(
        None, "Pretrained checkpoint to fine-tune the teacher from, when there is none yet."
    )
    teacher_name_or_path: str | None = flag(
        None, "The original: a fine-tuned model, whose answers the student is to keep."
    )
    student_name_or_path: str | None = flag(None, "What the student starts from; the teacher's weights if left out.")
    ignore_mismatched_sizes: bool = flag(False, "Start with a new head where a checkpoint has one for other labels.")
    teacher_num_train_epochs: float = flag(3.0, "Epochs of fine-tuning the teacher; num_train_epochs is the student's.")
    teacher_learning_rate: float = flag(5e-5, "Learning rate of that; learning_rate is the student's.")
    suggest_learning_rate: bool = flag(
        False, "Try learning rates on the evaluation data first, and train the student with the one that keeps most."
    )

    def __post_init__(self) -> None:
        if (self.model_name_or_path is None) == (self.teacher_name_or_path is None):
            raise ValueError(
                "Give either model_name_or_path, to fine-tune the teacher from it first, or teacher_name_or_path, the "
                "fine-tuned original. What the student starts from, if not from the teacher, is student_name_or_path."
            )

    @property
    def origin(self) -> str:
        """The checkpoint that all others come from; the tokenizer or image processor is there too."""
        return str(self.teacher_name_or_path or self.model_name_or_path)

    def windows(self, length: int, stride: int | None) -> Windows | None:
        """How long texts are read: as the teacher's config says, or in these windows if it is fine-tuned first.

        Args:
            length: tokens of a window, special ones included.
            stride: tokens that two windows share; None cuts what is longer off.

        Raises:
            ValueError: the teacher reads them otherwise.
        """
        asked = None if stride is None else Windows(length, stride)
        if self.teacher_name_or_path is None:
            return asked
        own = windows_in(AutoConfig.from_pretrained(self.teacher_name_or_path))
        if asked is not None and own != asked:
            raise ValueError(
                f"The teacher reads long texts as its config says: {own or 'it cuts them'}. Got {asked}. Leave "
                "doc_stride out, or let the teacher be fine-tuned here, from model_name_or_path."
            )
        return own


def load_for_labels(
    auto_class: Any,
    path: str | Path,
    names: Sequence[str],
    *,
    ignore_mismatched_sizes: bool = False,
    problem_type: str | None = None,
    windows: Windows | None = None,
) -> PreTrainedModel:
    """A model whose head answers with these labels: in its own order where it knows them, else in this one.

    Args:
        auto_class: the class of transformers that loads such a model, as `AutoModelForSequenceClassification`.
        path: a local folder or a Hub id.
        names: the label names.
        ignore_mismatched_sizes: start with a new head where the model has one for other labels.
        problem_type: as ``config.problem_type`` has it, such as "multi_label_classification"; None leaves it as it is.
        windows: in which it reads long texts; None leaves that as it is.
    """
    config = AutoConfig.from_pretrained(str(path))
    own = names_of(config.id2label)
    if len(own) != len(names) or None in places(names, own):
        config.id2label = dict(enumerate(names))
        config.label2id = {name: index for index, name in enumerate(names)}
    if problem_type is not None:
        config.problem_type = problem_type
    model = auto_class.from_pretrained(str(path), config=config, ignore_mismatched_sizes=ignore_mismatched_sizes)
    return model if windows is None else read_in_windows(model, **asdict(windows))


def fine_tune_teacher(
    models: ModelArguments,
    args: TrainingArguments,
    *,
    auto_class: Any,
    names: Sequence[str],
    recipe: Mapping[str, Any],
    problem_type: str | None = None,
    windows: Windows | None = None,
    **trainer: Any,
) -> str:
    """Fine-tune model_name_or_path with the labels alone, unless that has been done before.

    Args:
        models: what to start from, and the length and learning rate of the training.
        args: of the student; the teacher takes what is not about its length, about saving or about evaluation.
        auto_class: the class of transformers that loads such a model.
        names: the label names.
        recipe: what else the teacher depends on, such as its data; plain JSON.
        problem_type: as for `load_for_labels`.
        windows: the same.
        **trainer: further arguments of `Trainer`, among them train_dataset; with an eval_dataset, the teacher's metrics
            on it are printed, and saved beside it as eval_results.json.

    Returns:
        The folder `teacher` in the output_dir; a file in it, written last, says how it was made.

    Raises:
        ValueError: a teacher that was made in another way is there.
    """
    folder = Path(args.output_dir) / "teacher"
    recipe = {
        "model_name_or_path": models.model_name_or_path,
        "num_train_epochs": models.teacher_num_train_epochs,
        "learning_rate": models.teacher_learning_rate,
        "seed": args.seed,
        "text_windows": None if windows is None else asdict(windows),
    } | dict(recipe)
    done = _is_finished(folder, recipe)
    logger.info(
        "%s %s: %g epochs at a learning rate of %g (--teacher_num_train_epochs, --teacher_learning_rate).",
        "Taking the teacher that was fine-tuned in" if done else "Fine-tuning the teacher in",
        folder,
        models.teacher_num_train_epochs,
        models.teacher_learning_rate,
    )
    if done:
        return str(folder)
    head: dict[str, Any] = {"ignore_mismatched_sizes": models.ignore_mismatched_sizes, "problem_type": problem_type}
    model = load_for_labels(auto_class, models.origin, names, windows=windows, **head)
    # The stock Trainer, but with the right loss also under gradient accumulation and in several processes.
    # https://github.com/huggingface/transformers/issues/47688
    labels_alone = AlignmentArguments(preset="labels")
    trained = AlignedDistillationTrainer(model, _arguments(models, args, folder), alignment=labels_alone, **trainer)
    trained.train()
    trained.save_model()
    if trained.eval_dataset is not None:
        metrics = trained.evaluate()
        trained.log_metrics("eval", metrics)
        trained.save_metrics("eval", metrics, combined=False)
    if trained.is_world_process_zero():
        write_text_atomic(folder / RECIPE_FILE, json.dumps(recipe, indent=2))
    # The other processes load what the first one has written.
    trained.accelerator.wait_for_everyone()
    return str(folder)


def train_student(trainer: AlignedDistillationTrainer, models: ModelArguments) -> dict[str, float]:
    """Train as the flags say, at the suggested rate and from a checkpoint where they ask for it; return the metrics."""
    args = trainer.args
    if models.suggest_learning_rate:
        suggestion = suggest_learning_rate(trainer)
        logger.info("%s", suggestion)
        args.learning_rate = suggestion.value
    resume = args.resume_from_checkpoint
    metrics: dict[str, float] = trainer.train(resume_from_checkpoint=True if resume == "True" else resume).metrics
    return metrics


def _arguments(models: ModelArguments, args: TrainingArguments, folder: Path) -> TrainingArguments:
    """Those of the student, but for its length, saving and evaluation."""
    return replace(
        args,
        output_dir=str(folder),
        num_train_epochs=models.teacher_num_train_epochs,
        learning_rate=models.teacher_learning_rate,
        max_steps=-1,
        save_strategy="no",
        eval_strategy="no",
        load_best_model_at_end=False,
        push_to_hub=False,
    )


def _is_finished(folder: Path, recipe: Mapping[str, Any]) -> bool:
    path = folder / RECIPE_FILE
    if not path.exists():
        return False
    again = "To fine-tune the teacher again, remove it."
    was = built_from(path, partial(built, dict[str, Any]), read_json(path), again=again)
    if changed := changes(was, recipe):
        raise ValueError(
            f"The teacher in {folder} was fine-tuned in another way: {changed}. To take it as it is, give "
            f"it as teacher_name_or_path; to make another, choose another output_dir."
        )
    return True
