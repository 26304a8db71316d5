"""Softmax attention differentiated forward, in blocks of queries: no T × T matrix at any time."""

from collections.abc import Sequence

import torch
from torch import Tensor

_ATTENTION_BLOCK_ELEMENTS = 1 << 20
"""Attention weights of one block of queries: 4 MiB in float32. Larger blocks leave the cache."""


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

    The weights of a block are computed once for all directions and stay in the cache. Memory is that of one block: [B, heads, block,
    keys] for the weights and once more per direction, whatever the length. A query that may see nothing (left padding) gets finite
    values that nobody reads.

    Args:
        query: [B, heads, T, d].
        key: [B, groups, S, d]; groups divides heads, each group serves neighbouring heads.
        value: [B, groups, S, e].
        tangents: per direction the tangents of query, key and value.
        mask: bool (True = may attend) or additive, broadcastable to [B, heads, T, S].
        is_causal: query t sees keys up to t (then T = S).
        scale: factor of the scores.

    Returns:
        per direction the tangent of the output, [B, heads, T, e].

    Source: derivative of softmax(q kᵀ) v; reference test: tests/models/test_attention.py::test_attention_tangents
    """
    (B, heads, T, d), (groups, S), e = query.shape, key.shape[1:3], value.shape[-1]
    shared, num = heads // groups, len(tangents)
    keys, values = key.reshape(B * groups, S, d), value.reshape(B * groups, S, e)
    moved_keys = [dk.reshape(B * groups, S, d) for _, dk, _ in tangents]
    moved_values = torch.cat([*(dv.reshape(B * groups, S, e) for _, _, dv in tangents), values], -1)
    folded = (B, groups, shared, T, d)
    queries, moved_queries = query.reshape(folded), [dq.reshape(folded) for dq, _, _ in tangents]
    outputs = query.new_empty(num, B, groups, shared, T, e)
    block = max(16, _ATTENTION_BLOCK_ELEMENTS // (B * heads * S))
    for start in range(0, T, block):
        stop = min(start + block, T)
        seen, rows = (stop if is_causal else S), shared * (stop - start)
        own = queries[..., start:stop, :].reshape(B * groups, rows, d)
        weights = _weights(own * scale, keys[:, :seen], mask, start, stop, is_causal, (B, heads))
        along = weights @ moved_values[:, :seen]
        for k in range(num):
            moved = torch.bmm(moved_queries[k][..., start:stop, :].reshape(B * groups, rows, d), keys[:, :seen].mT)
            moved.baddbmm_(own, moved_keys[k][:, :seen].mT)
            moved *= weights
            # softmax's derivative is P ∘ (Ṡ − Σ P Ṡ); the second part times v is that sum times the output
            through = torch.addcmul(moved @ values[:, :seen], moved.sum(-1, keepdim=True), along[..., num * e :], value=-1)
            moved_output = torch.add(along[..., k * e : (k + 1) * e], through, alpha=scale)
            outputs[k, ..., start:stop, :] = moved_output.view(B, groups, shared, stop - start, e)
    return tuple(outputs.view(num, B, heads, T, e))


def _weights(queries: Tensor, keys: Tensor, mask: Tensor | None, start: int, stop: int, is_causal: bool, outer: tuple[int, int]) -> Tensor:
    """Compute the attention weights of a block of scaled queries, [B · groups, rows, keys]; the softmax runs in float32 at least."""
    wide = torch.float64 if queries.dtype == torch.float64 else torch.float32
    scores = (queries @ keys.mT).to(wide)
    by_head, lowest = scores.view(*outer, stop - start, keys.shape[1]), torch.finfo(wide).min
    if is_causal:
        future = torch.ones(stop - start, stop - start, dtype=torch.bool, device=queries.device).triu(1)
        by_head[..., start:stop].masked_fill_(future, lowest)
    elif mask is not None:
        part = mask[..., start:stop, :] if mask.shape[-2] > 1 else mask
        part = part[..., : keys.shape[1]]
        if part.dtype == torch.bool:
            by_head.masked_fill_(~part, lowest)
        else:
            by_head.add_(part.to(wide)).clamp_min_(lowest)
    return scores.softmax(-1).to(queries.dtype)
