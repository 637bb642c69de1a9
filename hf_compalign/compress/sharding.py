"""Weights that several processes share: whole under DDP, in shards (DTensor) under FSDP version 2, else refused."""

from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers import TrainingArguments

# accelerate finds the layers of some models by itself, but not those of BERT.
WAY_OUT = (
    "Use DDP, or FSDP version 2: TrainingArguments(fsdp=True, fsdp_config={'version': 2, "
    "'transformer_layer_cls_to_wrap': ['BertLayer']}) with the class of your model's layers."
)


def refuse_unsupported(args: TrainingArguments, model: nn.Module) -> None:
    """Refuse the ways of training in which a weight cannot be changed in place."""
    if args.deepspeed_plugin is not None:
        raise ValueError(
            "Compression while training does not work under DeepSpeed: with ZeRO-3 no process has the whole weights, "
            "and ZeRO-1 and ZeRO-2 train copies of them, which bring pruned weights back. " + WAY_OUT
        )
    if any(isinstance(module, FullyShardedDataParallel) for module in model.modules()):
        raise ValueError(
            "Compression while training does not work under FSDP version 1, which flattens many weights into one. "
            + WAY_OUT
        )


def is_sharded(tensor: Tensor) -> bool:
    """Whether each process has a part of the tensor only."""
    return isinstance(tensor, DTensor)


def in_shards(model: nn.Module) -> bool:
    """Whether any of the model's weights is sharded."""
    return any(is_sharded(parameter) for parameter in model.parameters())


def whole(tensor: Tensor) -> Tensor:
    """The values of a tensor, gathered from all processes if it is sharded: then every process must call this.

    >>> whole(torch.tensor([1.0, 2.0], requires_grad=True))
    tensor([1., 2.])
    """
    values = tensor.detach()
    return values.full_tensor() if isinstance(values, DTensor) else values


def laid_out_like(tensor: Tensor, weight: Tensor) -> Tensor:
    """A whole tensor, equal on all processes, in the layout of a weight of its shape: sharded if that is."""
    if not isinstance(weight, DTensor):
        return tensor
    # Every process has the whole tensor, so that each takes its own part and none sends any.
    return distribute_tensor(tensor, weight.device_mesh, weight.placements, src_data_rank=None)


def write_(weight: Tensor, values: Tensor) -> None:
    """Set a weight to the values of a whole tensor, equal on all processes."""
    with torch.no_grad():
        weight.copy_(laid_out_like(values, weight))


def anywhere(tensors: Iterable[Tensor]) -> list[bool]:
    """Of each tensor, whether any element is True; of a sharded one, on any process, and every one must call this.

    >>> anywhere([torch.tensor([False, True]), torch.tensor([False])])
    [True, False]
    """
    tensors = list(tensors)
    if not tensors:
        return []
    found = torch.stack([(tensor.to_local() if isinstance(tensor, DTensor) else tensor).any() for tensor in tensors])
    if any(is_sharded(tensor) for tensor in tensors):
        dist.all_reduce(found, op=dist.ReduceOp.MAX)
    flags: list[bool] = found.tolist()
    return flags


def same_everywhere_(tensors: Iterable[Tensor]) -> None:
    """Overwrite the whole tensors of every process with those of the first; sharded ones stay as they are.

    What processes compute from the same values may differ in the last bits, and in the order of ties.
    """
    if not dist.is_available() or not dist.is_initialized() or dist.get_world_size() == 1:
        return
    for tensor in tensors:
        if not is_sharded(tensor):
            values = tensor.detach().contiguous()
            dist.broadcast(values, src=0)
            tensor.detach().copy_(values)
