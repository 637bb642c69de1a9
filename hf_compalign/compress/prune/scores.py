"""How much a weight matters: a tensor of the weight's shape, the least important lowest."""

from torch import Tensor


def magnitude(weight: Tensor) -> Tensor:
    """|w|, >= 0. https://huggingface.co/papers/1506.02626

    Args:
        weight: any shape.

    >>> import torch
    >>> magnitude(torch.tensor([-2.0, 1.0])).tolist()
    [2.0, 1.0]
    """
    return weight.detach().abs()


def wanda(weight: Tensor, input_norm: Tensor) -> Tensor:
    """|w_ij| ||x_j||, >= 0, of a weight [out, in] and the L2 norms [in] of its inputs over the calibration tokens.

    The norms are in float32. https://huggingface.co/papers/2306.11695

    >>> import torch
    >>> wanda(torch.tensor([[-2.0, 1.0]]), torch.tensor([1.0, 3.0])).tolist()
    [[2.0, 3.0]]
    """
    return weight.detach().abs() * input_norm


def taylor(weight: Tensor, gradient: Tensor) -> Tensor:
    """|w * dL/dw|, >= 0: the first-order change of the loss without the weight, for one batch. Batches are added up.

    Both are of one shape, whichever. https://huggingface.co/papers/1906.10771

    >>> import torch
    >>> taylor(torch.tensor([-2.0, 1.0]), torch.tensor([0.5, 0.25])).tolist()
    [1.0, 0.25]
    """
    return (weight.detach() * gradient).abs()


def movement(weight: Tensor, gradient: Tensor) -> Tensor:
    """-w * dL/dw, of either sign: positive where an optimizer step moves the weight away from 0. Steps are added up.

    Both are of one shape, whichever. https://huggingface.co/papers/2005.07683

    >>> import torch
    >>> movement(torch.tensor([-2.0, 1.0]), torch.tensor([0.5, 0.25])).tolist()
    [1.0, -0.25]
    """
    return -weight.detach() * gradient
