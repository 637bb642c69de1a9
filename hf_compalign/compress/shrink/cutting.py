"""Remove heads, neurons and layers from a model: by zeros, or really."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hf_compalign.compress.record import take_own_config
from hf_compalign.compress.shrink.architectures import (
    Architecture,
    SharedBias,
    architecture_of,
    layer_list,
    layers_of,
    linear_paths,
    part,
)
from hf_compalign.compress.shrink.plan import LayerPlan, ShrinkPlan
from hf_compalign.compress.shrink.widths import describe_widths


def mask_(model: nn.Module, plan: ShrinkPlan) -> None:
    """Zero, in place, the weights that read the units that go: the model then answers like the cut one.

    Raises:
        ValueError: the plan does not fit the model, or drops layers, which zeros cannot do; or the weights are
            quantized or sharded.
    """
    _check(model, plan)
    dropped = plan.dropped(len(layers_of(model)))
    if dropped:
        raise ValueError(
            f"The plan drops the layers {dropped}, and a layer cannot be masked by its weights. Use cut_, or keep them."
        )
    with torch.no_grad():
        for name, mask in removal_masks(model, plan).items():
            model.get_parameter(name)[~mask] = 0


def removal_masks(model: nn.Module, plan: ShrinkPlan) -> dict[str, Tensor]:
    """Masks [out, in] of bool for the weights that read heads and neurons, True where the plan keeps what is read.

    Only weights that lose something are named. The plan keeps all layers.
    """
    names = {module: name for name, module in model.named_modules()}
    masks = {}
    for layer, kept in zip(layers_of(model), plan.layers, strict=True):
        for linear, units, n_units in (
            (layer.attention_out, kept.heads, layer.n_heads),
            (layer.ffn_out, kept.neurons, layer.n_neurons),
        ):
            if len(units) < n_units:
                columns = torch.zeros(linear.in_features, dtype=torch.bool)
                columns[_features(units, n_units, linear.in_features)] = True
                masks[f"{names[linear]}.weight"] = columns.repeat(linear.out_features, 1).to(linear.weight.device)
    return masks


def cut_(model: nn.Module, plan: ShrinkPlan) -> None:
    """Remove, in place, what the plan does not keep: smaller linear layers, fewer layers, and a config that says so.

    Every weight that is left is that of the masked model, to the bit. The answers are the same up to rounding: a matrix
    product adds in groups, whose bounds move with the sizes. The new parameters are new objects: make an optimizer
    afterwards. `save_pretrained` writes the model; `load_compressed` opens it, and so does
    `from_pretrained` where the widths are equal in all layers and the stock class can express them.

    Raises:
        ValueError: the plan does not fit the model, or the weights are quantized or sharded. The model is then as it
            was.
    """
    _check(model, plan)
    architecture = architecture_of(model)
    take_own_config(model)
    cut_units(model, plan)
    _drop_layers(model, architecture, [one.index for one in plan.layers])
    describe_widths(model)


def _check(model: nn.Module, plan: ShrinkPlan) -> None:
    """Refuse what cannot be done before anything is done."""
    plan.check(model)
    architecture = architecture_of(model)
    for layer in layers_of(model):
        for path in linear_paths(architecture):
            found = part(layer.module, path)
            weight = found.weight if isinstance(found, nn.Linear) else found
            if not isinstance(weight, nn.Parameter) or type(weight.data) is not Tensor:
                raise ValueError(
                    f"The weight of {layer.name}.{path} is not an ordinary tensor but {type(weight.data).__name__} "
                    "(quantized, sharded, or reparametrized). Remove units before quantizing, from a model that is "
                    "whole in this process, and after torch.nn.utils.prune.remove."
                )


def cut_units(model: nn.Module, plan: ShrinkPlan) -> None:
    """Cut the layers that the plan names to the units that stay; the plan was checked."""
    architecture = architecture_of(model)
    layers = layers_of(model)
    with torch.no_grad():
        if architecture.shared_bias is not None:
            _cut_shared_bias(model, architecture.shared_bias, plan)
        for kept in plan.layers:
            layer = layers[kept.index]
            _cut_layer(layer.module, architecture, kept, n_heads=layer.n_heads, n_neurons=layer.n_neurons)


def _cut_layer(layer: nn.Module, architecture: Architecture, kept: LayerPlan, *, n_heads: int, n_neurons: int) -> None:
    for path in (*architecture.head_rows, *architecture.optional_head_rows):
        _keep_rows(layer, path, kept.heads, n_heads, stacked=architecture.stacked_heads)
    if part(layer, architecture.head_columns) is not None:
        _keep(layer, architecture.head_columns, 1, _features(kept.heads, n_heads, n_heads))
    for path in architecture.neuron_rows:
        _keep_rows(layer, path, kept.neurons, n_neurons, stacked=architecture.stacked_neurons)
    _keep_columns(part(layer, architecture.attention_out), kept.heads, n_heads)
    _keep_columns(part(layer, architecture.ffn_out), kept.neurons, n_neurons)
    attention = part(layer, architecture.attention)
    if architecture.n_heads:
        setattr(attention, architecture.n_heads, len(kept.heads))
    if architecture.all_heads:
        setattr(attention, architecture.all_heads, len(kept.heads) * getattr(attention, architecture.head_dim))


def _keep_rows(layer: nn.Module, path: str, units: Sequence[int], n_units: int, *, stacked: int) -> None:
    found = part(layer, path)
    if isinstance(found, nn.Linear):
        rows = _features(units, n_units, found.out_features, stacked=stacked)
        _keep(found, "weight", 0, rows)
        if found.bias is not None:
            _keep(found, "bias", 0, rows)
        found.out_features = len(rows)
    elif found is not None:
        _keep(layer, path, 0, _features(units, n_units, len(found), stacked=stacked))


def _keep_columns(linear: nn.Linear, units: Sequence[int], n_units: int) -> None:
    _keep(linear, "weight", 1, _features(units, n_units, linear.in_features))
    linear.in_features = linear.weight.shape[1]


def _features(units: Sequence[int], n_units: int, n_features: int, *, stacked: int = 1) -> Tensor:
    """The features of the units; each has an equal share in each of the stacked parts.

    >>> _features([1], 2, 4), _features([1], 2, 8, stacked=2)
    (tensor([2, 3]), tensor([2, 3, 6, 7]))
    """
    return torch.arange(n_features).view(stacked, n_units, -1)[:, list(units)].reshape(-1)


def _keep(module: nn.Module, path: str, dim: int, index: Tensor) -> None:
    """Put a smaller parameter in place of the one at the path; one that stays whole stays the same object."""
    parent, _, name = path.rpartition(".")
    owner = part(module, parent) if parent else module
    old = getattr(owner, name)
    if len(index) < old.shape[dim]:
        new = old.detach().index_select(dim, index.to(old.device))
        setattr(owner, name, nn.Parameter(new, requires_grad=old.requires_grad))


# ---- an attention bias that all layers share ----


def _cut_shared_bias(model: nn.Module, shared: SharedBias, plan: ShrinkPlan) -> None:
    """Keep the columns that some layer still reads; every layer takes its own from them."""
    base = getattr(model, "base_model", model)
    table = part(base, shared.table)
    if table is None:
        return
    layers: list[Any] = [layer_list(model, architecture_of(model))[kept.index] for kept in plan.layers]
    before = [getattr(layer, "bias_heads", range(table.shape[1])) for layer in layers]
    reads = [[all_heads[head] for head in kept.heads] for all_heads, kept in zip(before, plan.layers, strict=True)]
    columns = sorted(set().union(*reads))
    _keep(base, shared.table, 1, torch.tensor(columns))
    embedding = part(base, shared.table.rpartition(".")[0])
    if isinstance(embedding, nn.Embedding):
        embedding.embedding_dim = len(columns)
    for layer, read in zip(layers, reads, strict=True):
        is_hooked = hasattr(layer, "bias_heads")
        if read != columns and not is_hooked:
            layer.register_forward_pre_hook(_OwnHeads(shared), with_kwargs=True)
        if read != columns or is_hooked:
            layer.bias_heads = tuple(columns.index(column) for column in read)


class _OwnHeads:
    """A hook that hands a layer the columns of the shared bias that belong to the heads it still has."""

    def __init__(self, shared: SharedBias) -> None:
        self.shared = shared

    def __call__(self, layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        heads = list(layer.bias_heads)
        position = self.shared.position
        if self.shared.argument in kwargs:
            return args, kwargs | {self.shared.argument: kwargs[self.shared.argument][:, heads]}
        return (*args[:position], args[position][:, heads], *args[position + 1 :]), kwargs


# ---- layers and the config ----


def _drop_layers(model: nn.Module, architecture: Architecture, kept: Sequence[int]) -> None:
    layers = layer_list(model, architecture)
    depth = len(layers)
    if len(kept) == depth:
        return
    for index in reversed(range(depth)):
        if index not in kept:
            del layers[index]
    for index, layer in enumerate(layers):
        for module in layer.modules():
            if hasattr(module, "layer_idx"):
                module.layer_idx = index
    config: Any = model.config
    config.num_hidden_layers = len(kept)
    if getattr(config, "layer_types", None):
        config.layer_types = [config.layer_types[index] for index in kept]
    if hasattr(config, "stage_names"):  # the names of the layers a backbone may return: the last one by default
        config.stage_names = ["stem", *(f"stage{number}" for number in range(1, len(kept) + 1))]
        config.set_output_features_output_indices(out_features=None, out_indices=None)
