"""What an audit is given: models that are opened and asked, or predictions that hold their answers already."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from datasets import Dataset
from transformers import PreTrainedModel

from hf_compalign.labels import label_order, names_of
from hf_compalign.measure.audit.options import AuditOptions
from hf_compalign.measure.predictions import Predictions, predict
from hf_compalign.models import default_device
from hf_compalign.opening import Model, load_model, processor_of
from hf_compalign.tasks import task_of

_BATCH_SIZE = 32


@dataclass(frozen=True)
class Opened:
    """A model, where it came from, and what reads its rows.

    Attributes:
        given: the model as it was named.
        network: the model.
        processor: its tokenizer or image processor; None where it is to be looked for beside the module.
        dataset: what it is asked.
        options: how.
    """

    given: Model
    network: PreTrainedModel
    processor: Any
    dataset: Dataset
    options: AuditOptions

    @property
    def path(self) -> str | Path | None:
        """Where the weights lie; None for a module."""
        return self.given if isinstance(self.given, str | Path) else None

    def answers(self) -> Predictions:
        """What it answers; a model that was opened for this runs on a GPU if there is one."""
        return predict(
            self.network,
            self.dataset,
            processing_class=self.processor,
            columns=self.options.columns,
            batch_size=self.options.batch_size or _BATCH_SIZE,
            device=None if self.path is None else default_device(self.network),
        )


Side: TypeAlias = Predictions | Opened


def opened_sides(given: Mapping[str, Any], dataset: Dataset | None, options: AuditOptions) -> dict[str, Side]:
    """All models opened, before one of them is run in vain.

    Raises:
        ValueError: there is a model and no dataset, no model is there, or two of them have other labels.
    """
    sides: dict[str, Side] = {}
    for name, one in given.items():
        if isinstance(one, Predictions) or (isinstance(one, str | Path) and Path(one).suffix == ".npz"):
            sides[name] = one if isinstance(one, Predictions) else Predictions.load(one)
        elif dataset is None:
            call = ", ".join(_word_for(given[side]) for side in ("reference", "candidate"))
            raise ValueError(
                f"The {name} is a model, and there is no dataset to ask it. Give one, such as audit({call}, "
                "dataset=test); or give Predictions alone."
            )
        else:
            sides[name] = _opened(one, dataset, options)
    first, *others = map(_label_names, sides.values())
    for names in others:
        label_order(first, names)
    return sides


def answers_of(given: Any, dataset: Dataset, options: AuditOptions) -> Predictions:
    """The answers of one model, or given ones as they are."""
    (side,) = opened_sides({"reference": given}, dataset, options).values()
    return side if isinstance(side, Predictions) else side.answers()


def _word_for(one: Any) -> str:
    return repr(str(one)) if isinstance(one, str | Path) else "predictions" if isinstance(one, Predictions) else "model"


def _opened(given: Model, dataset: Dataset, options: AuditOptions) -> Opened:
    network, processor = load_model(given), options.processing_class
    if processor is None and isinstance(given, str | Path):
        processor = processor_of(given, task_of(network))
    return Opened(given, network, processor, dataset, options)


def _label_names(side: Side) -> tuple[str, ...]:
    return side.label_names if isinstance(side, Predictions) else names_of(side.network.config.id2label)
