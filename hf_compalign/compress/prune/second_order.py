"""Second-order pruning: weights are chosen, and the remaining ones corrected, so that a layer's output changes least.

Weights are chosen as in Optimal Brain Surgeon, a block of columns at a time, and each removal is made up for by the
weights to its right (SparseGPT, https://huggingface.co/papers/2301.00774); then all remaining weights of a row are
fitted together, layer by layer as in `reconstruct_`.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from hf_compalign.compress.calibration import Batch
from hf_compalign.compress.prune.masks import PATTERNS, compute_masks, kept_of
from hf_compalign.compress.reconstruction import fitted, linear, solve_in_order_
from hf_compalign.compress.select import by_output
from hf_compalign.compress.sharding import whole

# Columns whose weights are chosen together.
BLOCK = 128


def prune_second_order_(
    model: nn.Module, weights: Mapping[str, Tensor], sparsity: float, *, pattern: str, batches: Sequence[Batch]
) -> dict[str, Tensor]:
    """Prune the weights of linear layers and correct those that remain, in place.

    Every block of 128 columns gets the sparsity, by the pattern "layer", "row" or "N:M". Weights that are 0 go first,
    and blocks that have more of them leave less to the others.

    Returns:
        The masks of bool, whole, by the weights' names.

    Raises:
        ValueError: a layer does not run, or its inputs are NaN or infinite. The model is as it was.
    """

    def solve(name: str, target: Tensor, hessian: Tensor) -> tuple[Tensor, Tensor]:
        gone = by_output(linear(model, name), whole(weights[name]) == 0)
        mask, rough = _swept(target, hessian, gone, sparsity=sparsity, pattern=pattern)
        return mask, fitted(target, rough, mask, hessian)

    return solve_in_order_(model, weights, batches, solve, title="Pruning")


def _swept(weight: Tensor, hessian: Tensor, gone: Tensor, *, sparsity: float, pattern: str) -> tuple[Tensor, Tensor]:
    """The mask [out, in], and the weights after each column's error went to the columns on its right.

    The inverse Hessian of the columns from j on is what remains of it when those before are eliminated: row j of its
    upper Cholesky factor U has all that is needed. Removing w_j costs (w_j / U_jj)^2 and changes the others by
    -(w_j / U_jj) U_j. The weights that are ``gone`` are removed first.
    """
    n_columns = weight.shape[1]
    # The columns that are ranked together, and how many of those are swept as one block.
    ranked = BLOCK if pattern in PATTERNS else kept_of(pattern)[1]
    block = max(1, BLOCK // ranked) * ranked
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(hessian))
    factor = torch.linalg.cholesky(inverse, upper=True)
    weight, mask = weight.clone(), torch.ones_like(weight, dtype=torch.bool)
    for begin in range(0, n_columns, block):
        end = min(begin + block, n_columns)
        own = factor[begin:end, begin:end]
        values, errors = weight[:, begin:end], torch.zeros_like(weight[:, begin:end])
        share = _share(sparsity, pattern, gone, mask[:, :begin], end)
        for j in range(end - begin):
            if j % ranked == 0:
                columns = slice(begin + j, begin + j + ranked)
                costs = (values[:, j : j + ranked] / own.diagonal()[j : j + ranked]) ** 2
                costs = costs.masked_fill(gone[:, columns], -1.0)
                mask[:, columns] = compute_masks({"": costs}, share, pattern=pattern)[""]
            errors[:, j] = values[:, j] * ~mask[:, begin + j] / own[j, j]
            values[:, j:] -= torch.outer(errors[:, j], own[j, j:])
        weight[:, end:] -= errors @ factor[begin:end, end:]
    return mask, weight * mask


def _share(sparsity: float, pattern: str, gone: Tensor, before: Tensor, end: int) -> float:
    """The sparsity of a block of columns up to ``end``, after those whose masks are ``before``.

    All blocks together have the sparsity whatever each of them rounds, and nothing that is ``gone`` comes back.
    """
    if pattern not in PATTERNS:
        return sparsity
    # What is ranked together is the whole block, or a row of it.
    (n_rows, n_columns), begin = gone.shape, before.shape[1]
    height = n_rows if pattern == "layer" else 1

    def n_gone(columns: Tensor) -> int:
        return int(columns.sum() if pattern == "layer" else columns.sum(1).max())

    most = round(sparsity * height * n_columns) - n_gone(gone[:, end:])
    n_pruned = min(round(sparsity * height * end), most) - int((~before).sum()) * height // n_rows
    return max(n_pruned, n_gone(gone[:, begin:end])) / (height * (end - begin))
