"""Softmax attention differentiated forward, in blocks of queries: no T × T matrix at any time."""

from collections.abc import Sequence

import torch
from torch import Tensor

_ATTENTION_BLOCK_ELEMENTS = 1 << 21
"""Attention weights of one block of queries: 8 MiB in float32. Larger blocks leave the cache (2 cores: 1.6 times slower at 2^24)."""


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
    wide = torch.float64 if query.dtype == torch.float64 else torch.float32
    for start in range(0, length, block):
        stop = min(start + block, length)
        seen = stop if is_causal else num_keys
        scores = (query[..., start:stop, :] @ key[..., :seen, :].mT).to(wide) * scale
        if is_causal:
            future = torch.ones(stop - start, seen, dtype=torch.bool, device=query.device).triu(start + 1)
            scores.masked_fill_(future, torch.finfo(wide).min)
        elif mask is not None:
            part = mask[..., start:stop, :seen] if mask.shape[-2] > 1 else mask[..., :seen]
            scores = scores.masked_fill_(~part, torch.finfo(wide).min) if part.dtype == torch.bool else scores + part.to(wide)
        weights = scores.softmax(-1)
        half = weights.to(query.dtype)
        for output, (dq, dk, dv) in zip(outputs, tangents, strict=True):
            moved = dq[..., start:stop, :] @ key[..., :seen, :].mT
            moved += query[..., start:stop, :] @ dk[..., :seen, :].mT
            moved = moved.to(wide).mul_(scale).mul_(weights)
            moved -= weights * moved.sum(-1, keepdim=True)
            output[..., start:stop, :] = half @ dv[..., :seen, :] + moved.to(query.dtype) @ value[..., :seen, :]
    return tuple(outputs)
