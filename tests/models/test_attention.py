"""The tangent of attention in models/attention.py against torch's forward mode on a plain formula."""

import pytest
import torch
from torch.func import jvp

from models import attention
from models.attention import attention_tangents


def plain_attention(query, key, value, mask, is_causal, scale):
    scores = query @ key.mT * scale
    if is_causal:
        scores = scores.masked_fill(torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1), -torch.inf)
    elif mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
    return scores.softmax(-1) @ value


@pytest.mark.parametrize("kind", ["causal", "full", "bool", "additive"])
@pytest.mark.parametrize("rows", [4, 64])
def test_attention_tangents(kind, rows, monkeypatch):
    monkeypatch.setattr(attention, "_ROWS", rows)
    torch.manual_seed(0)
    shape = (2, 3, 37, 5)
    primals = [torch.randn(shape, dtype=torch.float64) for _ in range(3)]
    directions = [tuple(torch.randn(shape, dtype=torch.float64) for _ in range(3)) for _ in range(2)]
    allowed = torch.rand(2, 1, 37, 37) < 0.6
    allowed |= torch.eye(37, dtype=torch.bool)
    mask = {"bool": allowed, "additive": torch.where(allowed, 0.3, -torch.inf).double()}.get(kind)
    output = plain_attention(*primals, mask, kind == "causal", 0.7)
    got = attention_tangents(*primals, output, directions, mask, kind == "causal", 0.7)
    for one, direction in zip(got, directions, strict=True):
        expected = jvp(lambda q, k, v: plain_attention(q, k, v, mask, kind == "causal", 0.7), tuple(primals), direction)[1]
        assert (one - expected).abs().max() <= 1e-12 * expected.abs().max()
