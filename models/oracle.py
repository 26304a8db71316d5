"""Exact values the slow way, for any model: one backward pass per token and one per position. What models/probe.py is checked against.

It shares nothing with the probe: parameters get ordinary gradients, and a position's use of the parameters is told apart by running the
model with a cache, position p alone with parameters that require gradients.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from models.lowrank import Direction, LowRank
from models.modes import plain_experts


@dataclass(frozen=True)
class SlowValues:
    """Values of one sequence along one direction.

    Attributes:
        target_T: [T]: ⟨D, ∇ℓ_u⟩ at the response tokens after position 0, NaN elsewhere; float64.
        context_T: [T]: Σ_{v>p} w_v J[v, p] at every position p; float64.
    """

    target_T: Tensor
    context_T: Tensor


def slow_values(model: nn.Module, token_ids: Sequence[int], response_positions: Sequence[int], direction: Direction) -> SlowValues:
    """Value one short sequence by 2 T backward passes.

    Args:
        model: a frozen causal language model with a key-value cache.
        token_ids: ids of the sequence, two at least.
        response_positions: positions of its response tokens.
        direction: the direction.

    Returns:
        the values, computed in the model's dtype and summed in float64.

    Source: definitions of DESIGN 3.2; reference test: tests/models/test_oracle.py::test_slow_values_equal_the_matrix
    """
    device = next(model.parameters()).device
    ids_1T = torch.tensor([list(token_ids)], device=device)
    counted = [u for u in response_positions if u > 0]
    own = {name: p.detach().requires_grad_(True) for name, p in model.named_parameters() if name in direction}
    target_T = torch.full((len(token_ids),), torch.nan, dtype=torch.float64)
    context_T = torch.zeros(len(token_ids), dtype=torch.float64)
    with torch.enable_grad(), plain_experts(model):
        for u in counted:
            logits_TV = functional_call(model, own, (), {"input_ids": ids_1T[:, :u], "use_cache": False}).logits[0]
            target_T[u] = _along(_loss(logits_TV[-1], ids_1T[0, u]), own, direction)
        for p in range(len(token_ids) - 1):
            if later := [v for v in counted if v > p]:
                context_T[p] = _along(_loss_after(model, own, ids_1T, p, later), own, direction)
    return SlowValues(target_T, context_T)


def _loss_after(model: nn.Module, own: Mapping[str, Tensor], ids_1T: Tensor, p: int, later: Sequence[int]) -> Tensor:
    """Sum the losses of later tokens in a run in which position p alone used the parameters `own`."""
    cache: Any = None
    if p:
        with torch.no_grad():
            cache = model(input_ids=ids_1T[:, :p], use_cache=True).past_key_values
    there = functional_call(model, dict(own), (), {"input_ids": ids_1T[:, p : p + 1], "past_key_values": cache, "use_cache": True})
    after = model(input_ids=ids_1T[:, p + 1 :], past_key_values=there.past_key_values, use_cache=True)
    logits_TV = torch.cat([there.logits[0], after.logits[0]])  # of positions p, p + 1, …
    total: Tensor = sum((_loss(logits_TV[v - p - 1], ids_1T[0, v]) for v in later), logits_TV.new_zeros(()))
    return total


def _loss(logits_V: Tensor, token_id: Tensor) -> Tensor:
    logits_V = logits_V if logits_V.dtype == torch.float64 else logits_V.float()
    return -torch.log_softmax(logits_V, -1)[token_id]


def _along(loss: Tensor, own: Mapping[str, Tensor], direction: Direction) -> float:
    """Compute ⟨D, ∇ loss⟩."""
    gradients = torch.autograd.grad(loss, list(own.values()), allow_unused=True)
    total = 0.0
    for name, gradient in zip(own, gradients, strict=True):
        if gradient is not None:
            along = direction[name]
            dense = along.dense() if isinstance(along, LowRank) else along
            total += float((gradient.double() * dense.to(gradient.device).double()).sum())
    return total
