"""Signals of single predictions (DESIGN 3.4): what the logits of a pass tell beside the loss."""

from collections.abc import Sequence
from typing import get_args

import torch
from torch import Tensor

from models.losses import entropies
from models.settings import Signal

SIGNALS: tuple[Signal, ...] = get_args(Signal)
"""Signals on request; loss and entropy always come."""


def signals_of(log_probs_NV: Tensor, target_ids_N: Tensor, input_norms_N: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
    """Compute signals of predictions.

    Args:
        log_probs_NV: [N, V], nats, the predictions of the counted tokens.
        target_ids_N: int64, [N], the tokens themselves.
        input_norms_N: [N], Euclidean norm of the head's input; only `grad_norm` reads it.
        names: which of `entropy` and `SIGNALS`.

    Returns:
        per name, [N]. `entropy`: −Σ p log p, nats. `margin`: log-probability of the token less that of the likeliest other, nats,
        negative where the model prefers another. `el2n`: ‖p − onehot‖₂, in [0, √2). `grad_norm`: el2n times the norm of the head's
        input, the norm of ∇ℓ with respect to the head's weight (nats per unit of weight) of a model without a cap on its logits.

    Source: Paul, Ganguli, Dziugaite 2021 (el2n); reference test: tests/models/test_signals.py::test_signals_equal_their_definitions
    """
    computed: dict[str, Tensor] = {}
    own_N1 = target_ids_N[:, None]
    if "entropy" in names:
        computed["entropy"] = entropies(log_probs_NV)
    if "margin" in names:
        others_N = log_probs_NV.scatter(-1, own_N1, -torch.inf).amax(-1)
        computed["margin"] = log_probs_NV.gather(-1, own_N1).squeeze(-1) - others_N
    if {"el2n", "grad_norm"} & set(names):
        probs_NV = log_probs_NV.exp()
        own_N = probs_NV.gather(-1, own_N1).squeeze(-1)
        el2n_N = (probs_NV.square().sum(-1) - own_N.square() + (1 - own_N).square()).clamp_min(0).sqrt()
        computed["el2n"] = el2n_N
        computed["grad_norm"] = el2n_N * input_norms_N
    return {name: computed[name] for name in names}
