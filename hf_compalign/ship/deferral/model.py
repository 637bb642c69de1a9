"""A small file and the original as one model: the original is asked only where the small file is not sure."""

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from hf_compalign._checks import check_share
from hf_compalign.labels import label_order, names_of
from hf_compalign.measure.audit import ModelInfo
from hf_compalign.models import Runtime, device_of, forward_logits, input_names, runtime_of
from hf_compalign.opening import load_model, model_fingerprint, name_of
from hf_compalign.ship.deferral.finding import deferral_beside
from hf_compalign.ship.deferral.record import Deferral
from hf_compalign.ship.deferral.traffic import Traffic
from hf_compalign.tasks import LABELERS, task_of

logger = logging.getLogger(__name__)


class DeferringModel(nn.Module):
    """A candidate that answers where it is sure, and a reference that answers the rest, called like a model.

    `predict`, `audit`, `footprint` and pipelines of transformers take it, and there is no training. The logits are the
    candidate's or the reference's, in the order of the reference's labels. Both read the same inputs: a candidate with
    another tokenizer or image processor would need other ones. Both are put into evaluation mode.

    Both have one class for each text or image, or several labels. Then a row is as sure as the least sure of its
    labels, and one of the two answers all of them.

    Args:
        candidate: the small model, or the path of one.
        reference: the original, or the path of one; or another `DeferringModel`, to ask a second file before the
            original.
        deferral: which answers count, from `fit_deferral`, or the path of its ``deferral.json``; by default the one
            that lies beside the candidate's file or in its folder, as in those of `save_artifact`.
        check_rate: the share of the candidate's answers, drawn at random, that the reference is asked too. They stay
            the candidate's, and ``traffic`` counts how many differ, of several labels label by label.
        seed: of that draw.

    Attributes:
        traffic: what became of all rows so far. Set it to ``Traffic()`` to count anew. That of a reference that defers
            itself has those that it was asked: deferred and checked ones.
        config: the reference's config.
        input_names: the inputs that either takes.
        main_input_name: "input_ids" or "pixel_values".
        path: where the candidate came from, with the tokenizer or image processor; else where the reference did.

    Raises:
        ValueError: the deferral was fitted for another candidate or task, or there is none; the two have other tasks or
            other labels; the check rate is not in [0, 1]; or `load_model` refuses one of them.
    """

    def __init__(
        self,
        candidate: PreTrainedModel | str | Path,
        reference: PreTrainedModel | str | Path,
        deferral: Deferral | str | Path | None = None,
        *,
        check_rate: float = 0.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_share("check_rate", check_rate, ends=True)
        given = None if deferral is None else Deferral.of(deferral)
        self.candidate, self.reference = load_model(candidate), load_model(reference)
        self.deferral = given or deferral_beside(self.candidate)
        self._task, other = (task_of(one, LABELERS) for one in (self.reference, self.candidate))
        if self._task != other:
            raise ValueError(f"Both models must have the same task. Got {other} and {self._task}.")
        self.config = self.reference.config
        self._order = label_order(*(names_of(one.config.id2label) for one in (self.reference, self.candidate)))
        self._check_fitted()
        self.architectures = (f"{type(self).__name__}{self._task.head}",)
        self.main_input_name = self._task.model_input
        self.input_names = tuple(dict.fromkeys([*input_names(self.candidate), *input_names(self.reference)]))
        self.path = name_of(self.candidate) or name_of(self.reference)
        self.traffic = Traffic()
        self._check_rate = float(check_rate)
        self._random = np.random.default_rng(seed)
        self.eval()

    def forward(self, **inputs: Tensor) -> dict[str, Tensor]:
        """The logits, float32 [rows, labels]; no gradients.

        The reference is asked once, for the rows that it answers or checks, and not at all if there are none.

        Args:
            **inputs: tensors or arrays, with a row for each text or image.

        Raises:
            ValueError: the main input is missing, an input is unknown, or has no row for each text or image.
        """
        rows = self._rows(inputs)
        logits = forward_logits(self.candidate, rows)
        if self._order is not None:
            logits = logits[:, list(self._order)]
        items = self._items(logits, rows)
        sure = self._are_sure(items)
        checked = sure & torch.from_numpy(self._random.random(len(sure)) < self._check_rate)
        asked, changed = ~sure | checked, 0
        if asked.any():
            theirs = forward_logits(self.reference, {name: values[asked] for name, values in rows.items()})
            theirs, deferred = theirs.to(logits.device), ~sure[asked]
            differ = self._items(theirs, rows).argmax(-1) != items[asked].argmax(-1)
            changed = int(differ[~deferred].sum())
            logits[~sure] = theirs[deferred]
        labels = int(checked.sum()) * self.config.num_labels if self._task.yes_or_no else 0
        self.traffic += Traffic(int(sure.sum()), int((~sure).sum()), int(checked.sum()), changed, labels)
        return {"logits": logits}

    def to(self, device: Any) -> "DeferringModel":  # type: ignore[override]  # a module takes more
        """Run both on that device from now on, or raise a ValueError if the runtime of one cannot.

        The two may also be on different devices: place each before.
        """
        self.candidate.to(device)
        self.reference.to(device)
        return self

    @property
    def device(self) -> torch.device:
        """Where the candidate is."""
        return device_of(self.candidate)

    @property
    def computed_by(self) -> Runtime:
        """What computes the candidate, and behind it the reference."""
        first, second = runtime_of(self.candidate), runtime_of(self.reference)
        return replace(
            first,
            engine=f"{first.engine} in {first.precision}, and for deferred items {second.engine}",
            precision=second.precision,
            batch_dependent=first.batch_dependent or second.batch_dependent,
        )

    @property
    def fingerprint(self) -> str:
        """16 hex digits of both models and of which answers count."""
        return self.deferral.pair_fingerprint(model_fingerprint(self.candidate), model_fingerprint(self.reference))

    def _items(self, logits: Tensor, rows: Mapping[str, Tensor]) -> Tensor:
        """What is chosen from: the classes [B, C] of each row, or no and yes for each of its labels [B, L, 2]."""
        return self._task.items(logits, None, rows, self.config).logits

    def _are_sure(self, items: Tensor) -> Tensor:
        """Which rows the candidate answers itself, bool [B]."""
        flat = items.reshape(-1, items.shape[-1]).cpu().numpy()
        each = len(flat) // len(items)
        sure = self.deferral.answers(flat, np.arange(len(items)).repeat(each))
        return torch.from_numpy(sure[::each].copy())

    def _check_fitted(self) -> None:
        kinds = {True: "several labels", False: "one class for each example"}
        several = self._task.yes_or_no
        if several != (self.deferral.examples is not None):
            raise ValueError(
                f"The deferral was fitted for models with {kinds[not several]}, and these have {kinds[several]}. Fit "
                "it anew on what these predict."
            )
        for name, fitted in (("candidate", self.deferral.candidate), ("reference", self.deferral.behind)):
            model = getattr(self, name)
            found = model_fingerprint(model)
            self._check_computed(name, fitted, runtime_of(model))
            if fitted.model_fingerprint in ("", found):
                continue
            got = (
                f"This {name} is {name_of(model) or type(model).__name__} ({found}), and the deferral was fitted for "
                f"{fitted.model or 'another'} ({fitted.model_fingerprint})."
            )
            if name == "candidate":
                raise ValueError(
                    f"{got} Its threshold says nothing about another model. Fit it anew, or give that one; the "
                    "candidate comes first."
                )
            logger.warning("%s The guarantee is about that one's answers.", got)

    def _check_computed(self, name: str, fitted: ModelInfo, runtime: Runtime) -> None:
        if fitted.runtime is not None and fitted.runtime.precision != runtime.precision:
            logger.warning(
                "This %s computes in %s, and the deferral was fitted on answers in %s: fit it anew, or set that.",
                name,
                runtime.precision,
                fitted.runtime.precision,
            )

    def _rows(self, inputs: Mapping[str, Any]) -> dict[str, Tensor]:
        unknown = [name for name in inputs if name not in self.input_names]
        if unknown or self.main_input_name not in inputs:
            raise ValueError(
                f"The two models take {', '.join(self.input_names)}, and need {self.main_input_name}. Got "
                f"{', '.join(inputs) or 'nothing'}."
            )
        rows = {name: torch.as_tensor(values) for name, values in inputs.items()}
        n = len(rows[self.main_input_name])
        uneven = [name for name, values in rows.items() if values.shape[:1] != (n,)]
        if uneven:
            raise ValueError(
                f"Every input must have a row for each of the {n} items. Got {uneven[0]} of shape "
                f"{list(rows[uneven[0]].shape)}. Repeat it for each item, or leave it out."
            )
        return rows
