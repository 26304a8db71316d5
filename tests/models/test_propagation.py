"""Laws of models/propagation.py: the values are those of slow loops, and depend on neither kernel, batch mates nor padding."""

import numpy as np
import pytest
import torch

from models.batches import collate
from models.blocks import last_blocks
from models.lowrank import LowRank
from models.probe import probe, scale_directions
from models.propagation import PropagationScorer, propagate
from models.settings import PropagationSettings
from tests.reference.families import random_direction
from tests.reference.value_propagation import build, slow_values

torch.set_num_threads(1)

FAMILIES = ["llama", "qwen3_tied", "gpt2", "gpt_neox", "phi3", "gemma2", "gemma3_sliding", "mistral_sliding"]
WITH_SDPA = [family for family in FAMILIES if family != "gemma2"]
IDS = [torch.randint(1, 61, (n,), generator=torch.Generator().manual_seed(n)).tolist() for n in (11, 4, 7, 1, 6)]
RESPONSES = [[4, 5, 7, 8, 10], [0, 1, 2, 3], [5, 6], [0], []]
"""After a prompt with gaps, without a prompt, at the end, a lone token without a loss, and none."""


EAGER = 1e-5
"""Tolerance in float64 where eager attention takes part: it computes its softmax in float32, as many norms do."""


def settings(last_blocks=2, window=4):
    return PropagationSettings(last_blocks=last_blocks, window=window)


def direction_of(model, number=2, seed=1):
    whole = random_direction(model, seed)
    return {name: whole[name] for name in last_blocks(model, number).names}


def assert_near(got, expected, tolerance):
    """Compare the values of a sequence: max |Δ| / max |v|; NaN at the same places."""
    got, expected = np.asarray(got, dtype=float), np.asarray(expected, dtype=float)
    np.testing.assert_array_equal(np.isnan(got), np.isnan(expected))
    if np.isfinite(expected).any():
        np.testing.assert_allclose(got, expected, rtol=0, atol=tolerance * np.nanmax(np.abs(expected)) + 1e-300)


def propagated(model, ids, responses, direction, how, *, pad_left=False):
    """(direct, causal) of each sequence in the model's own precision."""
    batch = collate(ids, responses, pad_left=pad_left)
    scaled = scale_directions(model, {"d": direction})
    result = propagate(model, batch, scaled, last_blocks(model, how.last_blocks), how.window)
    first = [batch.input_ids_BT.shape[1] - len(one) if pad_left else 0 for one in ids]
    return [
        tuple(axis["d"][row, [first[row] + u for u in response]].tolist() for axis in (result.direct_BT, result.causal_BT))
        for row, response in enumerate(responses)
    ]


@pytest.mark.parametrize(("number", "window"), [(2, 4), (1, 32)])
@pytest.mark.parametrize("family", FAMILIES)
def test_values_equal_the_slow_loops(family, number, window):
    model = build(family)
    direction = direction_of(model, number)
    found = propagated(model, IDS, RESPONSES, direction, settings(number, window))
    for ids, response, (direct, causal) in zip(IDS, RESPONSES, found, strict=True):
        expected_direct, expected_causal = slow_values(family, model, ids, response, direction, number, window)
        assert_near(direct, expected_direct, EAGER)
        assert_near(causal, expected_causal, EAGER)
    assert max(map(abs, found[0][1])) > 0


@pytest.mark.parametrize("family", WITH_SDPA)
def test_values_under_sdpa_are_those_under_eager(family):
    sdpa, eager = build(family, attention="sdpa"), build(family, attention="eager")
    direction = direction_of(sdpa)
    both = [propagated(model, IDS, RESPONSES, direction, settings()) for model in (sdpa, eager)]
    for (direct, causal), (other_direct, other_causal) in zip(*both, strict=True):
        assert_near(direct, other_direct, EAGER)
        assert_near(causal, other_causal, EAGER)


@pytest.mark.parametrize("family", ["llama", "qwen3_tied", "gpt2", "gemma2", "mistral_sliding"])
def test_values_do_not_depend_on_batch_mates_and_order(family):
    model = build(family)
    direction = direction_of(model)
    together = propagated(model, IDS, RESPONSES, direction, settings())
    alone = [propagated(model, [ids], [response], direction, settings())[0] for ids, response in zip(IDS, RESPONSES, strict=True)]
    backwards = propagated(model, IDS[::-1], RESPONSES[::-1], direction, settings())[::-1]
    for values, *others in zip(together, alone, backwards, strict=True):
        for other in others:
            assert_near(other[0], values[0], EAGER)
            assert_near(other[1], values[1], EAGER)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "mistral_sliding"])
def test_values_do_not_depend_on_the_side_of_padding(family, attention):
    model = build(family, torch.float32, attention)  # eager attention gives NaN to padding in float64
    direction = direction_of(model)
    right = propagated(model, IDS, RESPONSES, direction, settings())
    left = propagated(model, IDS, RESPONSES, direction, settings(), pad_left=True)
    for values, other in zip(right, left, strict=True):
        assert_near(other[0], values[0], 1e-4)
        assert_near(other[1], values[1], 1e-4)


def test_a_window_as_long_as_the_sequence_reaches_all_and_one_of_one_reaches_the_next():
    model = build("llama")
    direction = direction_of(model)
    ids, response = IDS[0], list(range(len(IDS[0])))
    causal = {w: propagated(model, [ids], [response], direction, settings(window=w))[0][1] for w in (1, 2, len(ids) - 1, len(ids), 500)}
    assert causal[len(ids) - 1][1:] == causal[len(ids)][1:] == causal[500][1:]
    for window in (1, 2, 500):
        assert_near(causal[window], slow_values("llama", model, ids, response, direction, 2, window)[1], EAGER)
    assert causal[1][-2] == pytest.approx(causal[500][-2], rel=1e-9)  # there is one later position only
    assert causal[1][1] != causal[2][1] != causal[500][1]


def test_last_token_has_no_causal_value_and_a_token_at_position_0_has_none_at_all():
    model = build("llama")
    direct, causal = propagated(model, IDS[1:2], RESPONSES[1:2], direction_of(model), settings())[0]
    assert np.isnan([direct[0], causal[0]]).all()
    assert causal[-1] == 0
    assert np.isfinite(direct[1:]).all()
    assert direct[-1] != 0


def test_direct_values_of_all_blocks_sum_to_the_inner_product_where_every_token_counts():
    """Σ_t δ_tᵀ D h_t over all positions is ⟨D, ∇L⟩: the one total of this estimator that an independent gradient can check."""
    model = build("llama")
    ids = IDS[0]
    everything = list(range(1, len(ids)))
    direction = direction_of(model)
    exact = probe(model, collate([ids], [everything]), {"d": direction})
    direct, _ = propagated(model, [ids], [everything], direction, settings())[0]
    assert sum(direct) == pytest.approx(exact.target_BT["d"].nansum().item(), rel=1e-6)


def test_signals_are_those_of_the_probe_also_without_directions():
    model = build("llama", torch.float32)
    exact = probe(model, collate(IDS, RESPONSES), {})
    for directions in ({}, {"adapt": direction_of(model)}):
        for row, values in enumerate(PropagationScorer(model, directions, settings()).score(IDS, RESPONSES)):
            np.testing.assert_allclose(values.loss, exact.loss_BT[row, RESPONSES[row]], rtol=1e-5)
            np.testing.assert_allclose(values.entropy, exact.entropy_BT[row, RESPONSES[row]], rtol=1e-5)


def test_scorer_stores_the_values_per_direction_and_no_context_of_the_prompt():
    model = build("llama", torch.float32)
    directions = {"adapt": direction_of(model, seed=1), "stab": direction_of(model, seed=2)}
    zero = {name: torch.zeros_like(t) for name, t in directions["stab"].items()}
    scored = PropagationScorer(model, directions, settings()).score(IDS, RESPONSES)
    with_zero = PropagationScorer(model, {**directions, "stab": zero}, settings()).score(IDS, RESPONSES)
    for name in directions:
        for values, (direct, causal) in zip(scored, propagated(model, IDS, RESPONSES, directions[name], settings()), strict=True):
            assert_near(values.direct[name], direct, 1e-6)
            assert_near(values.causal[name], causal, 1e-6)
            assert np.isnan(values.prompt_context[name])
            assert values.num_not_finite == 0
    for values, response in zip(with_zero, RESPONSES, strict=True):
        nothing = np.array([np.nan if u == 0 else 0.0 for u in response], dtype=np.float32)
        np.testing.assert_array_equal(values.direct["stab"], nothing)
        np.testing.assert_array_equal(values.causal["stab"], nothing)


def test_values_that_are_not_finite_are_missing_and_counted():
    model = build("llama", torch.float32)
    broken = {name: torch.full_like(t, torch.inf) for name, t in direction_of(model).items()}
    values = PropagationScorer(model, {"adapt": broken}, settings()).score(IDS[1:2], RESPONSES[1:2])[0]
    assert np.isnan(values.direct["adapt"]).all()
    assert values.num_not_finite == int(np.isnan(values.direct["adapt"][1:]).sum() + np.isnan(values.causal["adapt"][1:]).sum())


def test_half_precision_ranks_tokens_alike():
    direction = direction_of(build("llama", torch.float32))
    tiny = {name: t * 1e-12 for name, t in direction.items()}  # would underflow unscaled
    ids = [torch.randint(1, 61, (60,), generator=torch.Generator().manual_seed(5)).tolist()]
    response = [list(range(10, 60))]
    wide = propagated(build("llama", torch.float32), ids, response, tiny, settings())[0]
    half = propagated(build("llama", torch.bfloat16), ids, response, {n: t.bfloat16() for n, t in tiny.items()}, settings())[0]
    for one, other in zip(wide, half, strict=True):
        assert np.corrcoef(one, other)[0, 1] > 0.99


def test_layers_out_of_scope_contribute_nothing_and_are_not_looked_at():
    model = build("llama")
    direction = direction_of(model)
    zeroed = {name: t * (".mlp." not in name) for name, t in direction.items()}
    scope = {name: t for name, t in direction.items() if ".mlp." not in name}
    both = [propagated(model, IDS, RESPONSES, d, settings())[0] for d in (scope, zeroed)]
    assert_near(both[0][0], both[1][0], 1e-9)
    assert_near(both[0][1], both[1][1], 1e-9)
    model.model.layers[1].mlp.up_proj.forward = lambda x: x[:, :0]  # as an expert that gets some positions only
    model.model.layers[1].mlp.forward = lambda x: (model.model.layers[1].mlp.up_proj(x), x)[1]
    assert np.isfinite(propagated(model, IDS, RESPONSES, scope, settings())[0]).all()
    with pytest.raises(ValueError, match="took part"):
        propagated(model, IDS, RESPONSES, direction, settings())


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_low_rank_directions_give_the_values_of_their_products(family):
    model = build(family)
    factors = {
        name: LowRank(*(torch.randn(n, 2, generator=torch.Generator().manual_seed(n), dtype=torch.float64) for n in t.shape))
        for name, t in direction_of(model).items()
    }
    dense = {name: t.dense() for name, t in factors.items()}
    both = [propagated(model, IDS, RESPONSES, d, settings()) for d in (factors, dense)]
    for (direct, causal), (expected_direct, expected_causal) in zip(*both, strict=True):
        assert_near(direct, expected_direct, 1e-9)
        assert_near(causal, expected_causal, 1e-9)


def test_directions_of_another_scope_and_unfrozen_models_are_refused():
    model = build("llama")
    with pytest.raises(ValueError, match=r"direction 'adapt' does not fit the last 1 blocks \(for example model.layers.0"):
        PropagationScorer(model, {"adapt": direction_of(model)}, settings(1))
    lacking = {n: t for n, t in direction_of(model).items() if "v_proj" not in n}
    with pytest.raises(ValueError, match="v_proj"):
        PropagationScorer(model, {"adapt": lacking}, settings())
    with pytest.raises(ValueError, match="requires_grad"):
        propagated(build("llama").requires_grad_(True), IDS, RESPONSES, direction_of(model), settings())


def test_a_kernel_that_keeps_everything_to_itself_is_refused():
    from transformers import AttentionInterface

    def silent(module, query, key, value, attention_mask, **_):
        groups = query.shape[1] // key.shape[1]
        key, value = (x.repeat_interleave(groups, 1) for x in (key, value))
        future = torch.ones(query.shape[-2], query.shape[-2], dtype=torch.bool).triu(1)
        weights = ((query @ key.mT) * module.scaling).masked_fill(future, -torch.inf).softmax(-1)
        return (weights @ value).transpose(1, 2), None

    AttentionInterface.register("silent", silent)
    model = build("llama")
    model.set_attn_implementation("silent")
    with pytest.raises(ValueError, match="the attention kernel 'silent' gives neither its weights nor its queries and keys"):
        propagated(model, IDS, RESPONSES, direction_of(model), settings())
