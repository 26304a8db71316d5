"""Losses of preference optimization on pairs of responses: Eq. 14, plain DPO, and the margin of kept tokens alone (DESIGN 3.5).

Written for a pair: ℓ_u = −log p_θ(z_u | z_<u), r_u = log p_θ(z_u | z_<u) − log p_ref(z_u | z_<u), m_u the weight of token u (1 or 0, or a soft
weight of the mask), n⁺ and n⁻ the numbers of response tokens that have a loss, with `length_normalization`; without it n = 1.

    s = β (Σ r⁺ / n⁺ − Σ r⁻ / n⁻)                         over all response tokens, whatever the mask keeps
    token_weighted:  sg[ω] · (Σ m⁺ ℓ⁺ / n⁺ − Σ m⁻ ℓ⁻ / n⁻),   ω = β ((1 − ε) σ(−s) − ε σ(s)) = β (σ(−s) − ε)
    masked_margin:   −(1 − ε) log σ(s_m) − ε log σ(−s_m),      s_m = β (Σ m⁺ r⁺ / n⁺ − Σ m⁻ r⁻ / n⁻)
    dpo:             as masked_margin, where the mask keeps every response token

ε is `label_smoothing`. Where everything is kept, all three have the same gradient. sg[ω] is a number, no gradient passes through it: the
value of the `token_weighted` loss means nothing by itself, its gradient does.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from models.batches import TokenBatch
from models.losses import IGNORED_LABEL, counted, label_log_probs, log_probabilities, model_inputs, token_losses
from models.training_settings import PreferenceSettings


@dataclass(frozen=True)
class Pairs:
    """What the losses need of a batch of pairs; rows 0 to P - 1 are chosen, rows P to 2P - 1 the rejected ones of the same examples.

    Attributes:
        labels_BT: int64, [B, T]; the token itself where the mask keeps it, IGNORED_LABEL elsewhere.
        response_labels_BT: int64, [B, T]; the same of all response tokens that have a loss.
        ref_log_probs_BT: float32, [B, T]; their log-probability under the reference model, nats; 0 elsewhere.
        weights_BT: float32, [B, T]; soft weights of the kept tokens; None = 1 each.
        num_pairs: P, or 0 where the rows are filler.
    """

    labels_BT: Tensor
    response_labels_BT: Tensor
    ref_log_probs_BT: Tensor
    weights_BT: Tensor | None
    num_pairs: int

    @classmethod
    def of(cls, batch: Mapping[str, Any]) -> "Pairs":
        """Take them out of a trainer's micro-batch of tensors."""
        return cls(batch["labels"], batch["response_labels"], batch["ref_log_probs"], batch.get("weights"), int(batch["num_pairs"]))


@dataclass(frozen=True)
class PairLosses:
    """Losses of some pairs, and what is told of them. All but the losses are without gradient.

    Attributes:
        losses_P: [P], nats; what is to be averaged over the pairs of the global batch.
        margins_P: [P]; s, of all response tokens.
        log_probs_2P: [2, P], nats; sums over all response tokens of the chosen and of the rejected responses.
        num_kept_2P: int64, [2, P]; tokens of each response that the mask keeps and that have a loss.
        num_response_2P: int64, [2, P]; tokens of each response that have a loss.
    """

    losses_P: Tensor
    margins_P: Tensor
    log_probs_2P: Tensor
    num_kept_2P: Tensor
    num_response_2P: Tensor


def pair_losses(logits_BTV: Tensor, pairs: Pairs, settings: PreferenceSettings) -> PairLosses:
    """Compute the loss of each pair.

    Log-probabilities of tokens that the mask leaves out enter s as numbers: nothing of them is kept for the backward pass. A pair of
    which nothing is kept has no gradient; its loss is 0 (`token_weighted`) or log 2 (`masked_margin`).

    Args:
        logits_BTV: [B, T, V]; position t predicts the token at t + 1.
        pairs: the batch.
        settings: β, the form of the loss and its options.

    Returns:
        the losses; none for rows of filler, whose sum is a 0 with a gradient of 0.

    Raises:
        ValueError: `dpo` with a mask that leaves response tokens out.

    Source: DESIGN 3.5, Eq. 14; reference test: tests/models/test_preference.py::test_the_gradient_of_eq_14_is_that_of_the_slow_loop
    """
    is_kept_BT, is_response_BT = (labels != IGNORED_LABEL for labels in (pairs.labels_BT, pairs.response_labels_BT))
    if settings.loss == "dpo":
        _require_everything(is_kept_BT, is_response_BT, pairs.weights_BT)
    kept_BT = label_log_probs(logits_BTV, pairs.labels_BT)
    with torch.no_grad():
        rest_BT = label_log_probs(logits_BTV, pairs.response_labels_BT.masked_fill(is_kept_BT, IGNORED_LABEL))
    num_response_B = is_response_BT.sum(-1)
    scale_B = 1 / num_response_B.clamp_min(1).to(kept_BT.dtype) if settings.length_normalization else torch.ones_like(kept_BT[:, 0])
    weights_BT = is_kept_BT.to(kept_BT.dtype) if pairs.weights_BT is None else pairs.weights_BT.to(kept_BT.dtype) * is_kept_BT
    all_BT = kept_BT.detach() + rest_BT
    margins_P = settings.beta * _difference(((all_BT - pairs.ref_log_probs_BT) * is_response_BT).sum(-1) * scale_B)
    if settings.loss == "token_weighted":
        omega_P = settings.beta * (torch.sigmoid(-margins_P) - settings.label_smoothing)
        losses_P = -omega_P * _difference((weights_BT * kept_BT).sum(-1) * scale_B)
    else:
        kept_margins_P = settings.beta * _difference((weights_BT * (kept_BT - pairs.ref_log_probs_BT)).sum(-1) * scale_B)
        losses_P = smoothed_dpo_losses(kept_margins_P, settings.label_smoothing)
    real = slice(0, pairs.num_pairs)
    num_kept_B = is_kept_BT[:, 1:].sum(-1)
    by_branch = (values_B.reshape(2, -1)[:, real] for values_B in (all_BT.sum(-1), num_kept_B, num_response_B))
    return PairLosses(losses_P[real], margins_P[real], *by_branch)


def smoothed_dpo_losses(margins_P: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Return −(1 − ε) log σ(s) − ε log σ(−s) of each margin: [P], nats."""
    flipped_P = nn.functional.logsigmoid(-margins_P)
    return -(1 - label_smoothing) * nn.functional.logsigmoid(margins_P) - label_smoothing * flipped_P


def _difference(values_B: Tensor) -> Tensor:
    """Chosen minus rejected: [P]."""
    values_2P = values_B.reshape(2, -1)
    return values_2P[0] - values_2P[1]


def _require_everything(is_kept_BT: Tensor, is_response_BT: Tensor, weights_BT: Tensor | None) -> None:
    num_left_out = int((is_response_BT & ~is_kept_BT).sum())
    if num_left_out or (weights_BT is not None and bool((weights_BT[is_response_BT] != 1).any())):
        raise ValueError(
            f"preference.loss is 'dpo', which learns from every response token, but the mask leaves {num_left_out} of {int(is_response_BT.sum())} "
            "tokens of this batch out, or weighs them; train with the policy `full`, or set preference.loss to token_weighted or masked_margin"
        )


@torch.no_grad()
def reference_log_probs(model: nn.Module, input_ids_BT: Tensor, attention_mask_BT: Tensor, response_labels_BT: Tensor) -> Tensor:
    """Compute the log-probabilities of response tokens by a forward pass, as they would have been stored: in eval mode, 0 elsewhere.

    Returns:
        log_probs_BT: [B, T], nats.
    """
    training = model.training
    model.eval()
    logits_BTV = model(input_ids=input_ids_BT, attention_mask=attention_mask_BT, use_cache=False).logits
    model.train(training)
    return label_log_probs(logits_BTV, response_labels_BT)


@torch.no_grad()
def response_log_probs(model: nn.Module, batch: TokenBatch) -> Tensor:
    """Sum the log-probabilities of the counted tokens of each sequence, in eval mode.

    Args:
        model: a causal language model.
        batch: sequences with their response tokens.

    Returns:
        sums_B: float64 on the CPU, [B], nats.
    """
    training = model.training
    model.eval()
    on_device = batch.to(next(model.parameters()).device)
    rows_N, positions_N = counted(on_device)
    log_probs_NV = log_probabilities(model(**model_inputs(on_device)).logits, rows_N, positions_N)
    losses_N = token_losses(log_probs_NV, on_device.input_ids_BT[rows_N, positions_N]).double().cpu()
    model.train(training)
    return torch.zeros(len(batch.input_ids_BT), dtype=torch.float64).index_add_(0, rows_N.cpu(), -losses_N)
