"""Items: predictions one per position, the only form that the loss terms and the measures know."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hf_compalign.labels import IGNORED

OF_MODELS = "labels"  # what models call their labels


@dataclass(frozen=True)
class Items:
    """Predictions one per position, the only form that the loss terms and the measures know.

    Attributes:
        logits: [..., C], float32 or wider; of a regression [..., 1], the value.
        labels: [...], the right class of each item, or `IGNORED`; of a regression the right value, or nan.
        mask: [...] of bool, which positions are items at all (padding is not).
    """

    logits: Tensor
    labels: Tensor
    mask: Tensor

    @property
    def labeled(self) -> Tensor:
        """The items whose label is known, [...] of bool."""
        return self.mask & are_known(self.labels)


def are_known(labels: Tensor) -> Tensor:
    """Which labels are known, [...] of bool: classes other than `IGNORED`, and values that are not nan.

    >>> are_known(torch.tensor([1, -100])).tolist(), are_known(torch.tensor([-100.0, float("nan")])).tolist()
    ([True, False], [True, False])
    """
    return ~labels.isnan() if labels.is_floating_point() else labels != IGNORED


def under_name(batch: Mapping[str, Any], names: Sequence[str]) -> Mapping[str, Any]:
    """The batch with its labels under the one name that is wanted, where a collator calls them as models do.

    The default collators make `labels` of a column `label` or `label_ids`.

    >>> under_name({"labels": [1]}, ["label"]), under_name({"labels": [1], "label": [2]}, ["label"])
    ({'label': [1]}, {'labels': [1], 'label': [2]})
    """
    if len(names) != 1 or batch.get(names[0]) is not None or batch.get(OF_MODELS) is None:
        return batch
    return {names[0] if name == OF_MODELS else name: value for name, value in batch.items() if name != names[0]}


def labels_in(batch: Mapping[str, Any], names: Sequence[str]) -> Tensor | None:
    """The labels of a batch, [B, ...]; those of several columns side by side, [B, n]; None if one is missing.

    >>> labels_in({"start_positions": torch.tensor([1]), "end_positions": torch.tensor([4])}, ["start_positions"])
    tensor([1])
    """
    found = [batch.get(name) for name in names]
    columns = [one for one in found if one is not None]
    if len(columns) < max(len(found), 1):
        return None
    return columns[0] if len(columns) == 1 else torch.stack([one.reshape(len(one)) for one in columns], dim=1)
