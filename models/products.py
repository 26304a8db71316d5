"""Products of layers with their directions, dense or low-rank: D x, W ẋ + D x, and δ · D x."""

import torch
from torch import Tensor
from torch.nn import functional

from models.lowrank import LowRank
from models.rules import attach, tangents_of


def rows(of_weight: Tensor | LowRank, ids: Tensor, padding: int | None) -> Tensor:
    """Look the direction's rows up. The padding row is never trained: nothing passes through it, whatever the direction holds there."""
    rows = of_weight.rows(ids) if isinstance(of_weight, LowRank) else functional.embedding(ids, of_weight)
    return rows if padding is None else rows * (ids != padding)[..., None]


def transposed(weight: Tensor) -> Tensor:
    """Transpose a weight with its tangents: torch.addmm(b, x, W) is a linear layer of Wᵀ."""
    flipped, tangents = weight.mT, tangents_of(weight)
    if tangents is not None:
        attach(flipped, tuple(None if t is None else t.mT for t in tangents))
    return flipped


def moved_by(x: Tensor, of_weight: Tensor | LowRank | None, of_bias: Tensor | LowRank | None, output: Tensor) -> Tensor | None:
    """Compute D x (+ the bias's direction): the paper's D h."""
    assert not isinstance(of_bias, LowRank), "a bias is no matrix"
    if isinstance(of_weight, LowRank):
        return functional.linear(functional.linear(x, of_weight.right_IR.mT), of_weight.left_OR, of_bias)
    if of_weight is not None:
        return functional.linear(x, of_weight, of_bias)
    return None if of_bias is None else of_bias.expand_as(output)


def added(one: Tensor | None, other: Tensor | None) -> Tensor | None:
    """Add two terms, the second into the memory of the first; None stands for zero."""
    if one is None or other is None:
        return other if one is None else one
    return one.add_(other)


def both_moved(
    x: Tensor,
    x_tangent: Tensor | None,
    weight: Tensor,
    of_weight: Tensor | LowRank | None,
    of_bias: Tensor | LowRank | None,
    output: Tensor,
) -> Tensor | None:
    """Compute W ẋ + D x, the second product added inside the first's memory."""
    if x_tangent is None or of_weight is None:
        return added(None if x_tangent is None else functional.linear(x_tangent, weight), moved_by(x, of_weight, of_bias, output))
    assert not isinstance(of_bias, LowRank), "a bias is no matrix"
    total = functional.linear(x_tangent, weight, of_bias)
    if isinstance(of_weight, LowRank):
        x, of_weight = functional.linear(x, of_weight.right_IR.mT), of_weight.left_OR
    total.view(-1, total.shape[-1]).addmm_(x.reshape(-1, x.shape[-1]), of_weight.mT)
    return total


def paired(delta: Tensor, x: Tensor, of_weight: Tensor | LowRank | None, of_bias: Tensor | LowRank | None, wide: torch.dtype) -> Tensor:
    """Compute δ · (D x + bias's direction) over the last axis, D met by δ first where that is narrower."""
    total = torch.zeros(delta.shape[:-1], dtype=wide, device=delta.device)
    if isinstance(of_weight, LowRank):
        total += ((delta @ of_weight.left_OR) * (x @ of_weight.right_IR)).sum(-1, dtype=wide)
    elif of_weight is not None:
        narrow = delta.shape[-1] >= x.shape[-1]
        total += ((delta @ of_weight) * x if narrow else delta * functional.linear(x, of_weight)).sum(-1, dtype=wide)
    if of_bias is not None:
        assert isinstance(of_bias, Tensor), "a bias is no matrix"
        total += (delta @ of_bias).to(wide)
    return total


def per_position(name: str, product: Tensor, total_BT: Tensor) -> Tensor:
    """Sum δ · df[D] over everything but batch and position.

    Outputs may be [B, T, O], [B·T, O], [B, T, heads, O] or [B, heads, T, O].

    Returns:
        [B, T].

    Raises:
        ValueError: the function does not act position by position.
    """
    (B, T), shape = total_BT.shape, tuple(product.shape)
    if shape[:2] == (B, T) and not (len(shape) == 4 and shape[2] == T):
        return product.flatten(2).sum(-1, dtype=total_BT.dtype)
    if len(shape) == 2 and shape[0] == B * T:
        return product.sum(-1, dtype=total_BT.dtype).view(B, T)
    if len(shape) == 4 and shape[0] == B and shape[2] == T and shape[1] != T:
        return product.sum((1, 3), dtype=total_BT.dtype)
    raise ValueError(
        f"a parameter applied by {name!r} does not show which position it acts at: its output has shape {list(shape)}, the batch is [{B}, {T}]. "
        "Ask for both axes of a model that runs on scaled_dot_product_attention, or leave that parameter out of scope with scoring.scope_exclude (fused experts: '*experts*')"
    )
