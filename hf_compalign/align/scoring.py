"""One number for how good a model is, by an evaluation that leaves no trace."""

from typing import NamedTuple

from transformers import Trainer

from hf_compalign.align.search import MISMATCHES, SHIFT
from hf_compalign.models import evaluating, random_state_kept


class Score(NamedTuple):
    """A metric of an evaluation, the lower the better."""

    metric: str
    value: float


def eval_score(trainer: Trainer) -> Score | None:
    """The mismatch rate of a Trainer's model as it is, or a regression's shift, or the loss where there is no teacher.

    Of several eval datasets it is the mean. None without any, or where neither number is to be had. Nothing is logged,
    callbacks see no evaluation, and the random numbers of a training stay what they were.
    """
    given = trainer.eval_dataset
    if given is None:
        return None
    with random_state_kept(), evaluating(trainer.model):
        found = []
        for name in given if isinstance(given, dict) else [None]:
            loader = trainer.get_eval_dataloader(name)
            found.append(trainer.evaluation_loop(loader, "Evaluation", prediction_loss_only=True).metrics)
    for metric in (MISMATCHES, SHIFT, "loss"):
        values = [metrics[f"eval_{metric}"] for metrics in found if f"eval_{metric}" in metrics]
        if len(values) == len(found):
            return Score(metric, sum(values) / len(values))
    return None
