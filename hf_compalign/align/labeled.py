"""A Trainer whose batches hold labels as the model's ids."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch.utils.data import DataLoader
from transformers import Trainer

from hf_compalign.models import Collator, labeled_collator


class LabeledTrainer(Trainer):
    """A `Trainer` that reads the labels of its datasets by name, row by row, as `hf_compalign.predict` does."""

    label_names: list[str]
    train_dataset: Any
    eval_dataset: Any
    data_collator: Any

    def get_train_dataloader(self) -> DataLoader[Any]:
        """The Trainer's loader of the training data, with the model's ids for labels."""
        with self._reading(self.train_dataset):
            return super().get_train_dataloader()

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader[Any]:
        """The Trainer's loader of evaluation data, with the model's ids for labels."""
        given: Any = self.eval_dataset if eval_dataset is None else eval_dataset
        with self._reading(self.eval_dataset[given] if isinstance(given, str) else given):
            return super().get_eval_dataloader(eval_dataset)

    def get_test_dataloader(self, test_dataset: Any) -> DataLoader[Any]:
        """The Trainer's loader of test data, with the model's ids for labels."""
        with self._reading(test_dataset):
            return super().get_test_dataloader(test_dataset)

    def _collator_for(self, dataset: Any) -> Collator:
        return labeled_collator(self.data_collator, dataset, self.model, column=self.label_names[0])

    @contextmanager
    def _reading(self, dataset: Any) -> Iterator[None]:
        own = self.data_collator
        self.data_collator = self._collator_for(dataset)
        try:
            yield
        finally:
            self.data_collator = own
