"""What stays of a model when heads, neurons and layers are removed: plain data."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from torch import nn

from hf_compalign.compress.shrink.architectures import Layer, architecture_of, layers_of, part


@dataclass(frozen=True)
class LayerPlan:
    """What stays of one layer."""

    index: int  # the layer's place in the model as it is, from 0
    # The attention heads that stay, as they are numbered in the model as it is; kept in rising order.
    heads: tuple[int, ...]
    neurons: tuple[int, ...]  # the neurons of the feed-forward part that stay, likewise

    def __post_init__(self) -> None:
        object.__setattr__(self, "heads", tuple(sorted(map(int, self.heads))))
        object.__setattr__(self, "neurons", tuple(sorted(map(int, self.neurons))))


@dataclass(frozen=True)
class ShrinkPlan:
    """What stays of a model, layer by layer; a layer that is not named is dropped.

    >>> plan = ShrinkPlan((LayerPlan(0, heads=(1, 0), neurons=(0, 2)),))
    >>> plan.to_dict()
    {'layers': [{'index': 0, 'heads': [0, 1], 'neurons': [0, 2]}]}
    >>> ShrinkPlan.from_dict(plan.to_dict()) == plan
    True
    """

    layers: tuple[LayerPlan, ...]

    @classmethod
    def whole(cls, model: nn.Module) -> "ShrinkPlan":
        """The plan by which everything stays.

        Raises:
            ValueError: the architecture is not supported.
        """
        return cls.first_units(enumerate((layer.n_heads, layer.n_neurons) for layer in layers_of(model)))

    @classmethod
    def first_units(cls, widths: Iterable[tuple[int, tuple[int, int]]]) -> "ShrinkPlan":
        """The plan that keeps the first units of each layer named: index, (heads, neurons)."""
        return cls(
            tuple(LayerPlan(index, tuple(range(heads)), tuple(range(neurons))) for index, (heads, neurons) in widths)
        )

    def dropped(self, n_layers: int) -> list[int]:
        """The layers, of so many, that the plan drops."""
        return sorted({*range(n_layers)} - {one.index for one in self.layers})

    def to_dict(self) -> dict[str, Any]:
        """The plan as plain JSON values."""
        return {
            "layers": [
                {"index": layer.index, "heads": list(layer.heads), "neurons": list(layer.neurons)}
                for layer in self.layers
            ]
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "ShrinkPlan":
        """The plan that `to_dict` wrote.

        Raises:
            ValueError: the values are not those of a plan.
        """
        try:
            return cls(tuple(LayerPlan(int(one["index"]), one["heads"], one["neurons"]) for one in values["layers"]))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                "A plan is {'layers': [{'index': 0, 'heads': [0, ...], 'neurons': [0, ...]}, ...]}, as "
                f"ShrinkPlan.to_dict writes it. Got {str(values)[:200]}."
            ) from error

    def check(self, model: nn.Module) -> None:
        """Refuse a plan that does not fit the model, before anything is changed.

        Raises:
            ValueError: layers or units that are not there, named twice or all removed; or a removal that would change
                what the rest of the model computes.
        """
        layers = layers_of(model)
        indices = [one.index for one in self.layers]
        if not indices:
            raise ValueError(f"The plan drops all {len(layers)} layers. At least one must stay.")
        if any(later <= earlier for earlier, later in pairwise(indices)):
            raise ValueError(f"The plan's layers must be named once each, in rising order. Got {indices}.")
        if indices[0] < 0 or indices[-1] >= len(layers):
            raise ValueError(
                f"The plan does not fit the model: it names the layers {indices}, and {type(model).__name__} has "
                f"{len(layers)} (0 to {len(layers) - 1}). Make the plan from the model as it is now."
            )
        for one in self.layers:
            name = layers[one.index].name
            _check_units("heads", one.heads, layers[one.index].n_heads, name)
            _check_units("neurons", one.neurons, layers[one.index].n_neurons, name)
        self._check_exact(model, layers)

    def _check_exact(self, model: nn.Module, layers: Sequence[Layer]) -> None:
        """Refuse a removal that would change what the rest of the model computes."""
        droppable = droppable_layers(model)
        dropped = self.dropped(len(layers))
        if not {*dropped} <= {*droppable}:
            rest = f"Of its layers, {list(droppable)} can be dropped" if droppable else "Remove heads and neurons only"
            raise ValueError(
                f"The plan drops the layers {dropped} of {type(model).__name__}, which is built so that some "
                f"must stay where they are. {rest}."
            )
        mixes_heads = architecture_of(model).mixes_heads
        for one in self.layers:
            layer = layers[one.index]
            if len(one.heads) < layer.n_heads and part(layer.module, mixes_heads) is not None:
                raise ValueError(
                    f"The heads of {layer.name} see each other (talking_head in the config), so none can be removed "
                    "alone. Remove neurons and layers only."
                )


def droppable_layers(model: nn.Module) -> tuple[int, ...]:
    """The layers that a plan may drop.

    None of a backbone or a segmentation model, which read the outputs of certain layers by their number. All but the
    first where a convolution follows it (DeBERTa-v2's option), and of ModernBERT: its class leaves a norm out of
    whichever layer comes first.
    """
    architecture = architecture_of(model)
    if type(model).__name__.endswith(("Backbone", "ForSemanticSegmentation")):
        return ()
    convolution = part(getattr(model, "base_model", model), architecture.after_first)
    first = 1 if convolution is not None or architecture.not_in_first else 0
    return tuple(range(first, len(layers_of(model))))


def zero_units_plan(model: nn.Module, dropped_layers: Iterable[int] = ()) -> ShrinkPlan:
    """The plan that removes every unit whose columns are all exactly 0, and the layers to drop besides.

    Cutting by it leaves the answers as they are. One head and one neuron stay in every layer.
    """
    layers = layers_of(model)
    dropped = set(dropped_layers)
    if not dropped <= set(range(len(layers))):
        raise ValueError(f"dropped_layers must be among 0 to {len(layers) - 1}. Got {sorted(dropped)}.")
    return ShrinkPlan(
        tuple(
            LayerPlan(index, _read_units(layer.attention_out, layer.head_dim), _read_units(layer.ffn_out, 1))
            for index, layer in enumerate(layers)
            if index not in dropped
        )
    )


def _read_units(linear: nn.Linear, size: int) -> tuple[int, ...]:
    """The units, of `size` input features each, that the layer reads; the first one where it reads none."""
    reads = (linear.weight.detach() != 0).any(0).view(-1, size).any(1)
    return tuple(reads.nonzero().flatten().tolist()) or (0,)


def _check_units(kind: str, units: Sequence[int], n_units: int, layer: str) -> None:
    if not units:
        raise ValueError(
            f"The plan would empty {layer}: at least one of its {kind} must stay. To remove all of it, drop the layer."
        )
    if len(set(units)) < len(units):
        raise ValueError(f"The plan names {kind} of {layer} twice. Name each that stays once.")
    if units[0] < 0 or units[-1] >= n_units:
        raise ValueError(
            f"The plan does not fit the model: it keeps {kind} {units[0]} to {units[-1]} of {layer}, which has "
            f"{n_units} (0 to {n_units - 1}). Make the plan from the model as it is now."
        )
