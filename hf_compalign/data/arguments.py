"""Which rows a script trains and evaluates on, as flags beside those of `TrainingArguments`."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from datasets import Dataset, load_dataset

from hf_compalign._trainer import flag
from hf_compalign._visible import is_hub_id
from hf_compalign.data.columns import find_label_column
from hf_compalign.data.rows import load_file, sample

if TYPE_CHECKING:
    from transformers import TrainingArguments


@dataclass
class DatasetArguments:
    """Which data to take: a dataset on the Hub, or files.

    Raises:
        ValueError: neither is given, or both are; or evaluation data without a training file.
    """

    dataset_name: str | None = flag(None, "A dataset on the Hub.")
    dataset_config_name: str | None = flag(None, "The configuration of that dataset.")
    train_file: str | None = flag(None, "Training data: parquet, json or, where no column holds lists, csv.")
    validation_file: str | None = flag(None, "Evaluation data: the same.")
    max_train_samples: int | None = flag(None, "Take so many training rows, at random.")
    max_eval_samples: int | None = flag(None, "Take so many evaluation rows, at random.")

    def __post_init__(self) -> None:
        if (self.dataset_name is None) == (self.train_file is None):
            raise ValueError(f"Give dataset_name or train_file. Got {self.dataset_name} and {self.train_file}.")
        if self.train_file is None and self.validation_file is not None:
            raise ValueError("validation_file goes with train_file; a dataset on the Hub has a split of its own.")

    @property
    def source(self) -> str:
        """What the training data are called."""
        return str(self.dataset_name or self.train_file)

    @property
    def described(self) -> dict[str, str | None]:
        """The evaluation data, as a model card names them."""
        if self.train_file is None:
            public = self.dataset_name if is_hub_id(str(self.dataset_name)) else None
            hub = {"dataset_id": public, "dataset_config": self.dataset_config_name}
            return {"dataset": self.source, "dataset_split": "validation"} | hub
        return {"dataset": Path(self.validation_file or self.train_file).name, "dataset_split": "validation"}

    def load(self, args: "TrainingArguments") -> dict[str, Dataset]:
        """The rows of the splits train and, where there are such data, validation.

        Raises:
            ValueError: ``args`` do not train, or predict; or there is nothing to evaluate on.
        """
        if not args.do_train or args.do_predict:
            raise ValueError(
                "Give do_train, and do_eval for the audit. To only compare two models use hf_compalign.audit."
            )
        if self.train_file is not None:
            files = {"train": self.train_file, "validation": self.validation_file}
            splits = {split: load_file(file) for split, file in files.items() if file is not None}
        else:
            found = load_dataset(self.dataset_name, self.dataset_config_name)
            splits = {split: found[split] for split in ("train", "validation") if split in found}
        if args.do_eval and "validation" not in splits:
            raise ValueError("There is nothing to evaluate on. Give validation_file, or leave do_eval out.")
        most = {"train": self.max_train_samples, "validation": self.max_eval_samples}
        return {split: sample(dataset, most[split]) for split, dataset in splits.items()}


def label_column_of(rows: Dataset, wanted: str | None) -> str:
    """The label column that the flag `label_column_name` names, or else one of the usual names.

    Raises:
        ValueError: there is none.
    """
    found = find_label_column(rows, wanted)
    if found is None:
        raise ValueError(f"Name the label column with label_column_name: one of {', '.join(rows.column_names)}.")
    return found
