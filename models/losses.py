"""Losses of single tokens, and their masked mean."""

import torch
from torch import Tensor

from models.batches import TokenBatch

IGNORED_LABEL = -100
"""Label of a position that the loss leaves out (the convention of transformers)."""


def model_inputs(batch: TokenBatch) -> dict[str, object]:
    """Write the keyword arguments of a causal language model for a batch: no cache, and a mask only where padding comes first.

    Positions are plain counts where there is no mask: transformers would read repeated ones as packed sequences.

    Returns:
        input_ids, position_ids, use_cache, and perhaps attention_mask.
    """
    inputs = {"input_ids": batch.input_ids_BT, "position_ids": batch.position_ids_BT, "use_cache": False}
    return {**inputs, "attention_mask": batch.attention_mask_BT} if batch.padded_left else inputs


def counted(batch: TokenBatch) -> tuple[Tensor, Tensor]:
    """Rows and positions of the tokens that have a loss and a weight.

    The first token of a sequence has no loss (nothing predicts it), whatever its weight.

    Returns:
        (rows_N, positions_N): int64, [N]; position u of each counted token, its predictor stands at u - 1.
    """
    has_predictor_BT = torch.zeros_like(batch.attention_mask_BT, dtype=torch.bool)
    has_predictor_BT[:, 1:] = (batch.attention_mask_BT[:, 1:] * batch.attention_mask_BT[:, :-1]).bool()
    if batch.packed_lengths is not None:
        has_predictor_BT &= batch.position_ids_BT > 0
    rows_N, positions_N = torch.nonzero((batch.weights_BT != 0) & has_predictor_BT, as_tuple=True)
    return rows_N, positions_N


def log_probabilities(logits_BTV: Tensor, rows_N: Tensor, positions_N: Tensor) -> Tensor:
    """Log-probabilities over the vocabulary that predict the counted tokens.

    Only the rows that count are normalised: [N, V] in float32 (float64 stays float64), never [B, T, V].

    Returns:
        log_probs_NV: [N, V], nats.
    """
    logits_NV = logits_BTV[rows_N, positions_N - 1]
    return torch.log_softmax(logits_NV if logits_NV.dtype == torch.float64 else logits_NV.float(), dim=-1)


def token_losses(log_probs_NV: Tensor, target_ids_N: Tensor) -> Tensor:
    """Return ℓ_u = −log p(z_u | z_<u) of the counted tokens: [N], nats."""
    return -log_probs_NV.gather(-1, target_ids_N[:, None]).squeeze(-1)


def entropies(log_probs_NV: Tensor) -> Tensor:
    """Return the entropy of the prediction of each counted token: [N], nats."""
    return -(log_probs_NV.exp() * log_probs_NV).sum(-1)


def masked_loss_sum(logits_BTV: Tensor, labels_BT: Tensor, weights_BT: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Sum the losses of the labelled tokens, each times its weight (numerator of Eq. 13, where the weights are 1).

    Args:
        logits_BTV: [B, T, V]; position t predicts the token at t + 1.
        labels_BT: int64, [B, T]; the token itself where it is kept, IGNORED_LABEL elsewhere.
        weights_BT: float32, [B, T]; soft weights of the kept tokens; None = 1 each.

    Returns:
        (loss sum in nats, float32 scalar, 0 with a gradient of 0 where nothing is kept; number of supervised tokens, int64 scalar).
    """
    targets_BT = labels_BT[:, 1:]
    supervised_BT = targets_BT != IGNORED_LABEL
    log_probs_NV = torch.log_softmax(logits_BTV[:, :-1][supervised_BT].float(), dim=-1)
    losses_N = token_losses(log_probs_NV, targets_BT[supervised_BT])
    if weights_BT is not None:
        losses_N = losses_N * weights_BT[:, 1:][supervised_BT]
    return losses_N.sum(), supervised_BT.sum()


def label_log_probs(logits_BTV: Tensor, labels_BT: Tensor) -> Tensor:
    """Log-probability of each labelled token, in its place; 0 where there is no label, and at position 0, which nothing predicts.

    Only the rows of labelled tokens are normalised: [N, V] in float32 (float64 stays float64), never [B, T, V].

    Args:
        logits_BTV: [B, T, V]; position t predicts the token at t + 1.
        labels_BT: int64, [B, T]; IGNORED_LABEL where nothing is asked.

    Returns:
        log_probs_BT: [B, T], nats.
    """
    rows_N, positions_N = torch.nonzero(labels_BT[:, 1:] != IGNORED_LABEL, as_tuple=True)
    log_probs_N = -token_losses(log_probabilities(logits_BTV, rows_N, positions_N + 1), labels_BT[rows_N, positions_N + 1])
    log_probs_BT = torch.zeros(labels_BT.shape, dtype=log_probs_N.dtype, device=labels_BT.device)
    return log_probs_BT.index_put((rows_N, positions_N + 1), log_probs_N)


@torch.no_grad()
def mean_token_loss(model: torch.nn.Module, batches: list[TokenBatch]) -> tuple[float, int]:
    """Measure the mean loss over all counted tokens of several batches (one token mean, not a mean of means).

    Returns:
        (nats per token, number of tokens).

    Raises:
        ValueError: no token counts.
    """
    device = next(model.parameters()).device
    total, num_tokens = 0.0, 0
    training = model.training
    model.eval()
    for batch in batches:
        on_device = batch.to(device)
        rows_N, positions_N = counted(on_device)
        log_probs_NV = log_probabilities(model(**model_inputs(on_device)).logits, rows_N, positions_N)
        total += token_losses(log_probs_NV, on_device.input_ids_BT[rows_N, positions_N]).double().sum().item()
        num_tokens += len(rows_N)
    model.train(training)
    if num_tokens == 0:
        raise ValueError(f"mean_token_loss: none of {len(batches)} batches has a token that counts; give sequences with response tokens")
    return total / num_tokens, num_tokens
