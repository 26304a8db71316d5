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


def slow_values(
    model: nn.Module, token_ids: Sequence[int], response_positions: Sequence[int], directions: Mapping[str, Direction]
) -> dict[str, SlowValues]:
    """Value one short sequence by 2 T backward passes, whatever the number of directions.

    Args:
        model: a frozen causal language model with a key-value cache.
        token_ids: ids of the sequence, two at least.
        response_positions: positions of its response tokens.
        directions: name to direction.

    Returns:
        per direction the values, computed in the model's dtype and summed in float64.

    Source: definitions of DESIGN 3.2; reference test: tests/models/test_oracle.py::test_slow_values_equal_the_matrix
    """
    device = next(model.parameters()).device
    ids_1T = torch.tensor([list(token_ids)], device=device)
    counted = [u for u in response_positions if u > 0]
    in_scope = {key for direction in directions.values() for key in direction}
    own = {key: p.detach().requires_grad_(True) for key, p in model.named_parameters() if key in in_scope}
    length = len(token_ids)
    values = {n: SlowValues(torch.full((length,), torch.nan).double(), torch.zeros(length).double()) for n in directions}
    with torch.enable_grad(), plain_experts(model):
        for u in counted:
            logits_TV = functional_call(model, own, (), {"input_ids": ids_1T[:, :u], "use_cache": False}).logits[0]
            for name, along in _along(_loss(logits_TV[-1], ids_1T[0, u]), own, directions).items():
                values[name].target_T[u] = along
        for p in range(length - 1):
            if later := [v for v in counted if v > p]:
                for name, along in _along(_loss_after(model, own, ids_1T, p, later), own, directions).items():
                    values[name].context_T[p] = along
    return values


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


def _along(loss: Tensor, own: Mapping[str, Tensor], directions: Mapping[str, Direction]) -> dict[str, float]:
    """Compute ⟨D, ∇ loss⟩ for every direction."""
    gradients = dict(zip(own, torch.autograd.grad(loss, list(own.values()), allow_unused=True), strict=True))
    totals = dict.fromkeys(directions, 0.0)
    for name, direction in directions.items():
        for key, along in direction.items():
            if (gradient := gradients[key]) is not None:
                dense = along.dense() if isinstance(along, LowRank) else along
                totals[name] += float((gradient.double() * dense.to(gradient.device).double()).sum())
    return totals
