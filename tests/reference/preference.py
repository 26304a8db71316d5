"""Preference optimization, slow: one pair, one branch, one token at a time, without padding. Shares no code with models/preference.py."""

import math

import torch


def token_log_probs(model, ids):
    """log p of tokens 1..T-1 of one sequence; index 0 is None."""
    logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0]
    return [None] + [torch.log_softmax(logits[u - 1], -1)[ids[u]] for u in range(1, len(ids))]


def branch(model, reference, ids, positions, weights, normalize):
    """(Σ r, Σ m ℓ, Σ m r) of one response, divided by its number of tokens with a loss if asked for."""
    with torch.no_grad():
        ref = token_log_probs(reference, ids)
    log_probs = token_log_probs(model, ids)
    counted = [(u, w) for u, w in zip(positions, weights, strict=True) if u > 0]
    n = max(1, len(counted)) if normalize else 1
    ratio = sum((log_probs[u] - ref[u] for u, _ in counted), torch.zeros((), dtype=torch.float64)) / n
    loss = sum((-w * log_probs[u] for u, w in counted), torch.zeros((), dtype=torch.float64)) / n
    kept_ratio = sum((w * (log_probs[u] - ref[u]) for u, w in counted), torch.zeros((), dtype=torch.float64)) / n
    return ratio, loss, kept_ratio


def pair_loss(model, reference, pair, settings):
    """Loss of one pair, {chosen, rejected} to (ids, response positions, weights of these): float64 scalar; and its margin."""
    chosen, rejected = (branch(model, reference, *pair[name], settings.length_normalization) for name in ("chosen", "rejected"))
    s = settings.beta * (chosen[0] - rejected[0])
    if settings.loss == "token_weighted":
        p = 1 / (1 + math.exp(s.item()))  # σ(−s), a number
        omega = settings.beta * ((1 - settings.label_smoothing) * p - settings.label_smoothing * (1 - p))
        return omega * (chosen[1] - rejected[1]), s.item()
    margin = settings.beta * (chosen[2] - rejected[2])
    smoothing = settings.label_smoothing
    loss = -(1 - smoothing) * torch.log(torch.sigmoid(margin)) - smoothing * torch.log(torch.sigmoid(-margin))
    return loss, s.item()


def mean_loss(model, reference, pairs, settings):
    """Mean over pairs."""
    return sum(pair_loss(model, reference, pair, settings)[0] for pair in pairs) / len(pairs)
