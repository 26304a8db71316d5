"""Laws of models/attention_band.py: a band is what it is cut from, in blocks of any size, and its sums are those of a double loop."""

import pytest
import torch

from models import attention_band as module
from models.attention_band import attention_band, band_of, causal_sums

torch.set_num_threads(1)


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def masks(length):
    seen = torch.ones(length, length, dtype=torch.bool).tril()
    sliding = seen & torch.ones(length, length, dtype=torch.bool).triu(-2)
    padded = seen[None, None].repeat(2, 1, 1, 1)
    padded[1, :, :, :3] = False  # left padding: queries 0 to 2 see nothing
    return {
        "causal": (None, True),
        "sliding": (sliding[None, None], False),
        "padded": (padded, False),
        "additive": (torch.zeros(length, length, dtype=torch.float64).masked_fill(~seen, -torch.inf)[None, None], False),
    }


@pytest.mark.parametrize("kind", ["causal", "sliding", "padded", "additive"])
@pytest.mark.parametrize("elements", [1, 1 << 21])
def test_band_is_that_of_the_whole_matrix(kind, elements, monkeypatch):
    monkeypatch.setattr(module, "_BLOCK_ELEMENTS", elements)
    length, window = 37, 5
    query, key = random(2, 4, length, 3), random(2, 2, length, 3, seed=1)
    mask, is_causal = masks(length)[kind]
    whole = torch.nn.functional.scaled_dot_product_attention(
        query, key, torch.eye(length, dtype=torch.float64).expand(2, 2, -1, -1), mask, is_causal=is_causal, scale=0.7, enable_gqa=True
    ).mean(1)  # values that are unit vectors give the weights back
    band = attention_band(query, key, mask, is_causal, 0.7, window)
    first = 3 if kind == "padded" else 0
    for k in range(first, length):
        for j in range(window):
            expected = whole[:, k, k - 1 - j] if k - 1 - j >= 0 else torch.zeros(2, dtype=torch.float64)
            torch.testing.assert_close(band[:, k, j], expected, rtol=1e-9, atol=1e-12)
    assert torch.isfinite(band).all()


@pytest.mark.parametrize(("length", "window"), [(1, 1), (2, 1), (9, 3), (33, 32), (70, 40), (100, 7)])
def test_causal_sums_are_those_of_a_double_loop(length, window):
    weights, delta, moved = random(2, length, length).softmax(-1), random(2, length, 6, seed=1), random(2, length, 6, seed=2)
    sums = causal_sums(band_of(weights, window), delta, moved)
    expected = torch.zeros(2, length, dtype=torch.float64)
    for t in range(length):
        for k in range(t + 1, min(t + window, length - 1) + 1):
            expected[:, t] += weights[:, k, t] * (delta[:, k] * moved[:, t]).sum(-1)
    torch.testing.assert_close(sums, expected)
    assert (sums[:, -1] == 0).all()
