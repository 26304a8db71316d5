"""Packed rows: several sequences behind one another without padding, and an attention that keeps each to itself.

transformers would tell neighbours apart by a T × T mask over the whole row. Here attention is called once per sequence instead: no mask,
no wasted product, and the causal kernels stay in use.
"""

import threading
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.modes import attention_alone_mixes
from models.tangents import Tangents

PACKED = "alphatoken_packed"
"""Name under which the attention is registered with transformers."""


class _Row(threading.local):
    """The row that this thread computes: lengths of its sequences, and the mode that must know where each begins."""

    lengths: Sequence[int] = ()
    mode: Tangents | None = None
    num_calls = 0


_ROW = _Row()


@contextmanager
def packed_attention(model: nn.Module, lengths: Sequence[int] | None, mode: Tangents) -> Generator[None]:
    """Let a model attend within the sequences of a packed row; nothing changes where `lengths` is None.

    Args:
        model: a model that runs on `scaled_dot_product_attention`.
        lengths: lengths of the sequences of the row, in order.
        mode: told the position of each attention call.

    Yields:
        nothing; the model's own attention is back afterwards.

    Raises:
        ValueError: the model's attention is of another kind.
    """
    if lengths is None:
        yield
        return
    config: Any = model.config
    own = getattr(config, "_attn_implementation", None)
    if not attention_alone_mixes(model):
        raise ValueError(
            f"a packed row needs attention by scaled_dot_product_attention alone, {type(model).__name__} runs on {own!r}; set scoring.packing to false"
        )
    from transformers.modeling_utils import AttentionInterface

    AttentionInterface.register(PACKED, _attend)  # without a mask function of that name, transformers makes no mask
    _ROW.lengths, _ROW.mode, _ROW.num_calls = lengths, mode, 0
    try:
        model.set_attn_implementation(PACKED)  # type: ignore[operator]
        yield
        if not _ROW.num_calls:
            raise ValueError(
                f"{type(model).__name__} does not let its attention be replaced, so packed rows would leak; set scoring.packing to false"
            )
    finally:
        _ROW.lengths, _ROW.mode = (), None
        model.set_attn_implementation(own)  # type: ignore[operator]


def _attend(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, scaling: float | None = None,
    dropout: float = 0.0, sliding_window: int | None = None, **others: Any,
) -> tuple[Tensor, None]:  # fmt: skip
    """Attend within each sequence of the row: query [1, heads, T, d], key and value [1, groups, T, d] → [1, T, heads, d]."""
    unknown = [name for name in ("softcap", "s_aux", "position_bias") if others.get(name) is not None]
    if attention_mask is not None or unknown:
        raise ValueError(
            f"{type(module).__name__}: packed rows do not support {unknown or ['an attention mask']}; set scoring.packing to false"
        )
    _ROW.num_calls += 1
    parts, start = [], 0
    mode = _ROW.mode
    assert mode is not None, "packed attention runs inside packed_attention"
    for length in _ROW.lengths:
        span = slice(start, start + length)
        mode.context.segment_start = start
        mask = None
        if sliding_window is not None and length > sliding_window:
            apart = torch.arange(length, device=query.device)
            apart = apart[:, None] - apart
            mask = (apart >= 0) & (apart < sliding_window)
        parts.append(
            functional.scaled_dot_product_attention(
                query[:, :, span], key[:, :, span], value[:, :, span], mask, dropout, mask is None, scale=scaling,
                enable_gqa=query.shape[1] != key.shape[1],
            )
        )  # fmt: skip
        start += length
    mode.context.segment_start = 0
    return torch.cat(parts, 2).transpose(1, 2), None
