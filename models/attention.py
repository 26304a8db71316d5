"""Softmax attention differentiated forward, in blocks of queries: no T × T matrix at any time."""

from collections.abc import Sequence

import torch
from torch import Tensor

_ROWS = 64
"""Queries of a block are a multiple of this: products whose rows start unaligned run a fifth slower."""

_MAX_ELEMENTS = 1 << 23
"""Attention weights of a block of more than `_ROWS` queries: 32 MiB in float32. Two such buffers are alive at once."""


def attention_tangents(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    output: Tensor,
    tangents: Sequence[tuple[Tensor, Tensor, Tensor]],
    mask: Tensor | None,
    is_causal: bool,
    scale: float,
) -> tuple[Tensor, ...]:
    """Differentiate softmax attention along several directions, block of queries by block of queries.

    With S the scores, P = softmax(S) and O = P v, the tangent is P v̇ + (P ∘ Ṡ) v − (Σ P ∘ Ṡ) O. In products of T × T × d that is one for P
    and four per direction (Ṡ counts twice), against the seven of attention in a training step. Memory is two blocks of weights,
    [B, heads, block, keys] each, whatever the length and the number of directions.

    Args:
        query: [B, heads, T, d].
        key: [B, groups, S, d]; groups divides heads, each group serves neighbouring heads.
        value: [B, groups, S, e].
        output: O, [B, heads, T, e].
        tangents: per direction the tangents of query, key and value.
        mask: bool (True = may attend) or additive, broadcastable to [B, heads, T, S].
        is_causal: query t sees keys up to t (then T = S).
        scale: factor of the scores.

    Returns:
        per direction the tangent of the output, [B, heads, T, e].

    Source: derivative of softmax(q kᵀ) v; reference test: tests/models/test_attention.py::test_attention_tangents
    """
    (B, heads, T, d), (groups, S), e = query.shape, key.shape[1:3], value.shape[-1]
    shared, num, many = heads // groups, len(tangents), B * groups
    keys, values = key.reshape(many, S, d), value.reshape(many, S, e)
    moved_values = torch.cat([dv.reshape(many, S, e) for _, _, dv in tangents], -1)
    # Ṡ = q̇ kᵀ + q k̇ᵀ as one product of twice the width
    rights = [torch.cat([keys, dk.reshape(many, S, d)], -1) for _, dk, _ in tangents]
    queries = (query * scale).reshape(many, shared, T, d)
    lefts = [torch.cat([(dq * scale).reshape(many, shared, T, d), queries], -1) for dq, _, _ in tangents]
    outputs = output.reshape(many, shared, T, e)
    moved_outputs = [query.new_empty(many, shared, T, e) for _ in tangents]
    block = _queries_of_a_block(T, B * heads * S)
    buffers = [query.new_empty(many * shared * min(block, T) * S) for _ in range(2)]  # fresh memory would be slower than the products
    for start in range(0, T, block):
        stop = min(start + block, T)
        seen, rows = (stop if is_causal else S), shared * (stop - start)
        scores, weights = (one[: many * rows * seen].view(many, rows, seen) for one in buffers)
        torch.bmm(_block_of(queries, start, stop), keys[:, :seen].mT, out=scores)
        _softmax(scores, weights, mask, start, stop, is_causal, (B, heads))
        along = torch.bmm(weights, moved_values[:, :seen])
        for k in range(num):
            moved = torch.bmm(_block_of(lefts[k], start, stop), rights[k][:, :seen].mT, out=scores).mul_(weights)
            through = torch.bmm(moved, values[:, :seen]).add_(along[..., k * e : (k + 1) * e])
            through.addcmul_(moved.sum(-1, keepdim=True), _block_of(outputs, start, stop), value=-1)
            moved_outputs[k][:, :, start:stop] = through.view(many, shared, stop - start, e)
    return tuple(moved.view(B, heads, T, e) for moved in moved_outputs)


def _queries_of_a_block(length: int, weights_per_query: int) -> int:
    """Choose T / 16 queries: few enough that a block of causal attention sees little of the future, enough for fast products."""
    multiple = min(max(1, length // (16 * _ROWS)), 4, max(1, _MAX_ELEMENTS // (weights_per_query * _ROWS)))
    return multiple * _ROWS


def _block_of(rows: Tensor, start: int, stop: int) -> Tensor:
    """Take queries of a block, the heads that share keys below each other: [B · groups, shared · block, d]."""
    return rows[:, :, start:stop].flatten(1, 2)


def _softmax(scores: Tensor, weights: Tensor, mask: Tensor | None, start: int, stop: int, is_causal: bool, outer: tuple[int, int]) -> None:
    """Write the attention weights of a block of queries, [B · groups, rows, keys]; the softmax runs in float32 at least.

    A query that may see nothing (left padding) gets finite weights that nobody reads.
    """
    wide = torch.float64 if scores.dtype == torch.float64 else torch.float32
    wide_scores = scores.to(wide)
    by_head, lowest = wide_scores.view(*outer, stop - start, scores.shape[-1]), torch.finfo(wide).min
    if is_causal:
        future = torch.ones(stop - start, stop - start, dtype=torch.bool, device=scores.device).triu(1)
        by_head[..., start:stop].masked_fill_(future, lowest)
    elif mask is not None:
        part = mask[..., start:stop, :] if mask.shape[-2] > 1 else mask
        part = part[..., : scores.shape[-1]]
        if part.dtype == torch.bool:
            by_head.masked_fill_(~part, lowest)
        else:
            by_head.add_(part.to(wide)).clamp_min_(lowest)
    if wide == scores.dtype:
        torch.softmax(wide_scores, -1, out=weights)
    else:
        weights.copy_(wide_scores.softmax(-1))
