"""Attention weights of the nearest earlier keys, averaged over heads, and what gradients say along them.

A band has the layout band_BTW: entry [b, k, j] belongs to query k and key k − 1 − j, so its W columns are the keys just before a query;
0 where no such key exists.
"""

import torch
from torch import Tensor
from torch.nn import functional

_BLOCK_ELEMENTS = 1 << 21
"""Attention weights that exist at once where they are computed again: 8 MiB in float32."""


def attention_band(query: Tensor, key: Tensor, mask: Tensor | None, is_causal: bool, scale: float, window: int) -> Tensor:
    """Compute the band of A = softmax(q kᵀ · scale) in blocks of queries: no T × T matrix at any time.

    Args:
        query: [B, heads, T, d], as the attention kernel gets it.
        key: [B, heads or fewer (grouped queries), T, d], likewise.
        mask: bool (True = may attend) or additive, broadcastable to [B, heads, T, T].
        is_causal: query t sees keys up to t.
        scale: factor of the scores.
        window: W.

    Returns:
        band_BTW: float32 (float64 for float64 inputs), mean over heads. A query that may see nothing gets finite values.

    Source: arXiv 2606.01635 Eq. 9. Reference test: tests/models/test_attention_band.py::test_band_is_that_of_the_whole_matrix
    """
    num_rows, num_heads, length, _ = query.shape
    key = key.repeat_interleave(num_heads // key.shape[1], dim=1)
    wide = torch.float64 if query.dtype == torch.float64 else torch.float32
    band_BTW = torch.empty(num_rows, length, window, dtype=wide, device=query.device)
    block = max(16, _BLOCK_ELEMENTS // (num_rows * num_heads * length))
    for start in range(0, length, block):
        stop = min(start + block, length)
        seen = stop if is_causal else length
        scores = (query[..., start:stop, :] @ key[..., :seen, :].mT).to(wide) * scale
        weights_BQS = _masked(scores, mask, start, is_causal).softmax(-1).mean(1)
        band_BTW[:, start:stop] = band_of(weights_BQS, window, first_query=start)
    return band_BTW


def _masked(scores: Tensor, mask: Tensor | None, start: int, is_causal: bool) -> Tensor:
    """Lower the scores of keys that a query of the block may not see; the block's first query is `start`."""
    num_queries, num_keys = scores.shape[-2:]
    lowest = torch.finfo(scores.dtype).min
    if is_causal:
        future = torch.ones(num_queries, num_keys, dtype=torch.bool, device=scores.device).triu(start + 1)
        return scores.masked_fill_(future, lowest)
    if mask is None:
        return scores
    part = mask[..., start : start + num_queries, :num_keys] if mask.shape[-2] > 1 else mask[..., :num_keys]
    return scores.masked_fill_(~part, lowest) if part.dtype == torch.bool else (scores + part.to(scores.dtype)).clamp_min_(lowest)


def band_of(weights_BQS: Tensor, window: int, first_query: int = 0) -> Tensor:
    """Cut the band out of rows of attention weights.

    Args:
        weights_BQS: mean over heads, [B, queries, keys from position 0 on].
        window: W.
        first_query: position of the first query.

    Returns:
        band_BQW.
    """
    num_queries = weights_BQS.shape[1]
    queries_Q1 = torch.arange(first_query, first_query + num_queries, device=weights_BQS.device)[:, None]
    keys_QW = queries_Q1 - 1 - torch.arange(window, device=weights_BQS.device)
    found_BQW = weights_BQS.gather(-1, keys_QW.clamp_min(0).expand(len(weights_BQS), -1, -1))
    return found_BQW.masked_fill(keys_QW < 0, 0.0)


def causal_sums(band_BTW: Tensor, delta_BTO: Tensor, moved_BTO: Tensor) -> Tensor:
    """Sum A[k, t] δ_k · (D h_t) over the queries k that follow a key t within the window.

    Args:
        band_BTW: the band of A.
        delta_BTO: gradient at the outputs of the value projection, in the band's dtype.
        moved_BTO: D h of the same outputs, likewise.

    Returns:
        sums_BT: Σ_{t<k≤t+W} A[k, t] δ_kᵀ D h_t at every key t; 0 at the last position.
    """
    num_rows, length, window = band_BTW.shape
    products_BTW = band_BTW * _band_products(delta_BTO, moved_BTO, window)
    below_BTW = functional.pad(products_BTW, (0, 0, 0, window))  # queries behind the end contribute nothing
    # Key t meets query t + 1 + j in column j: diagonals of the band become rows.
    rows, columns = (length + window) * window, window + 1
    return below_BTW.as_strided((num_rows, length, window), (rows, window, columns), window).sum(-1)


def _band_products(delta_BTO: Tensor, moved_BTO: Tensor, window: int) -> Tensor:
    """Multiply δ_k with D h of the W keys before it, chunk by chunk of queries, as matrix products of twice the needed width.

    Returns:
        [B, T, W] in the layout of a band; arbitrary where there is no key.
    """
    num_rows, length, outputs = delta_BTO.shape
    chunk = max(window, 32)
    num_chunks = -(-length // chunk)
    missing = num_chunks * chunk - length
    deltas_BCQO = functional.pad(delta_BTO, (0, 0, 0, missing)).view(num_rows, num_chunks, chunk, outputs)
    windows_BCOS = functional.pad(moved_BTO, (0, 0, window, missing)).unfold(1, chunk + window - 1, chunk)[:, :num_chunks]
    products_BCQS = deltas_BCQO @ windows_BCOS
    place_QW = torch.arange(chunk, device=delta_BTO.device)[:, None] + window - 1 - torch.arange(window, device=delta_BTO.device)
    return products_BCQS.gather(-1, place_QW.expand(num_rows, num_chunks, -1, -1)).flatten(1, 2)[:, :length]
