"""Softmax attention differentiated forward, in blocks of queries: no T × T matrix at any time."""

from collections.abc import Sequence

import torch
from torch import Tensor

_ATTENTION_BLOCK_ELEMENTS = 1 << 21
"""Attention weights of one block of queries: 8 MiB in float32. Larger blocks leave the cache (2 cores, 512 tokens: 1.3 times slower at 2^23, twice at 2^24)."""


def attention_tangents(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    tangents: Sequence[tuple[Tensor, Tensor, Tensor]],
    mask: Tensor | None,
    is_causal: bool,
    scale: float,
) -> tuple[Tensor, ...]:
    """Differentiate softmax attention along several directions, block of queries by block of queries.

    Memory is that of one block: [B, heads, block, keys], whatever the length. A query that may see nothing (left padding) gets
    finite values that nobody reads.

    Args:
        query: [B, heads, T, d]; key and value: [B, heads, S, d].
        key: see query.
        value: see query.
        tangents: per direction the tangents of query, key and value.
        mask: bool (True = may attend) or additive, broadcastable to [B, heads, T, S].
        is_causal: query t sees keys up to t (then T = S).
        scale: factor of the scores.

    Returns:
        per direction the tangent of the output, [B, heads, T, d].

    Source: derivative of softmax(q kᵀ) v; reference test: tests/models/test_attention.py::test_attention_tangents
    """
    length, num_keys = query.shape[-2], key.shape[-2]
    block = max(16, _ATTENTION_BLOCK_ELEMENTS // (query.shape[0] * query.shape[1] * num_keys))
    outputs = [torch.empty_like(query[..., : value.shape[-1]]) for _ in tangents]
    query = query * scale
    # dq kᵀ + q dkᵀ as one product of twice the width
    doubled = [(torch.cat([dq * scale, query], -1), torch.cat([key, dk], -1), dv) for dq, dk, dv in tangents]
    for start in range(0, length, block):
        stop = min(start + block, length)
        seen = stop if is_causal else num_keys
        weights = _weights(query[..., start:stop, :], key[..., :seen, :], mask, start, is_causal)
        primal = weights @ value[..., :seen, :]
        for output, (both_queries, both_keys, dv) in zip(outputs, doubled, strict=True):
            moved = both_queries[..., start:stop, :] @ both_keys[..., :seen, :].mT
            moved *= weights
            # softmax's derivative is P ∘ (Ṡ − Σ P Ṡ); the second part times v is that sum times the output
            drop = moved.sum(-1, keepdim=True) * primal
            output[..., start:stop, :] = weights @ dv[..., :seen, :] + moved @ value[..., :seen, :] - drop
    return tuple(outputs)


def _weights(query: Tensor, key: Tensor, mask: Tensor | None, start: int, is_causal: bool) -> Tensor:
    """Compute the attention weights of a block of queries; the softmax runs in float32 at least."""
    wide = torch.float64 if query.dtype == torch.float64 else torch.float32
    scores = (query @ key.mT).to(wide)
    stop, lowest = start + query.shape[-2], torch.finfo(wide).min
    if is_causal:
        future = torch.ones(stop - start, stop - start, dtype=torch.bool, device=query.device).triu(1)
        scores[..., start:stop].masked_fill_(future, lowest)
    elif mask is not None:
        part = mask[..., start:stop, :] if mask.shape[-2] > 1 else mask
        part = part[..., : key.shape[-2]]
        scores = scores.masked_fill_(~part, lowest) if part.dtype == torch.bool else scores.add_(part.to(wide)).clamp_min_(lowest)
    return scores.softmax(-1).to(query.dtype)
