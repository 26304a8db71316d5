"""Laws of models/scoring.py: what is stored of a sequence is the probe's, cut at the response positions; what is missing is NaN and counted."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from models.batches import collate
from models.probe import probe
from models.scoring import Scorer
from tests.reference.families import make, random_direction

torch.set_num_threads(1)

IDS = [
    torch.randint(1, 61, (n,), generator=torch.Generator().manual_seed(n)).tolist() for n in (9, 4, 6, 1, 5)
]  # fmt: skip
RESPONSES = [[4, 5, 7, 8], [0, 1, 2, 3], [5], [0], []]
"""After a prompt with a gap, without a prompt, one token, a lone token without a loss, and none."""


@pytest.fixture(scope="module")
def model():
    return make("llama", clean=True)


@pytest.fixture(scope="module")
def directions(model):
    return {"adapt": random_direction(model, seed=1), "stab": random_direction(model, seed=2)}


@pytest.fixture(scope="module")
def scored(model, directions):
    return Scorer(model, directions).score(IDS, RESPONSES)


def test_values_stand_at_the_response_positions_of_their_own_sequence(model, directions, scored):
    result = probe(model, collate(IDS, RESPONSES), directions)
    for row, (values, positions) in enumerate(zip(scored, RESPONSES, strict=True)):
        stored = [*values.direct.items(), *values.causal.items(), ("loss", values.loss), ("entropy", values.entropy)]
        expected = [
            *result.target_BT.items(), *result.context_BT.items(), ("loss", result.loss_BT), ("entropy", result.entropy_BT),
        ]  # fmt: skip
        for (name, got), (same, values_BT) in zip(stored, expected, strict=True):
            assert name == same
            assert got.dtype == np.float32
            np.testing.assert_array_equal(got, values_BT[row, positions].float().numpy())


def test_a_token_at_position_0_has_no_loss_but_a_causal_value(scored):
    for row in (1, 3):
        values = scored[row]
        for missing in (*values.direct.values(), values.loss, values.entropy):
            assert np.isnan(missing).tolist() == [position == 0 for position in RESPONSES[row]]
        assert all(np.isfinite(causal).all() for causal in values.causal.values())
        assert values.num_not_finite == 0  # it does not exist; that is no fault


def test_the_last_token_has_a_causal_value_of_exactly_zero(scored):
    for values, positions in zip(scored, RESPONSES, strict=True):
        assert all(causal[-1] == 0 for causal in values.causal.values() if positions)


def test_the_sum_of_direct_values_is_that_of_causal_ones_and_of_the_prompt(scored):
    for values, positions in zip(scored, RESPONSES, strict=True):
        for name in ("adapt", "stab"):
            direct, causal = np.nansum(values.direct[name].astype(float)), values.causal[name].astype(float).sum()
            scale = np.abs(np.nan_to_num(values.direct[name])).max(initial=0) + np.abs(values.causal[name]).max(initial=0)
            assert direct == pytest.approx(causal + values.prompt_context[name], abs=1e-5 * float(scale))
            assert positions or (direct, values.prompt_context[name]) == (0, 0)
    assert abs(scored[0].prompt_context["adapt"]) > 1e-3  # there is a prompt, and it carries value
    assert scored[1].prompt_context["adapt"] == 0  # there is none


def test_values_do_not_depend_on_batch_mates_and_order(model, directions, scored):
    scorer = Scorer(model, directions)
    alone = [scorer.score([ids], [response])[0] for ids, response in zip(IDS, RESPONSES, strict=True)]
    backwards = scorer.score(IDS[::-1], RESPONSES[::-1])[::-1]
    for values, *others in zip(scored, alone, backwards, strict=True):
        for other in others:
            for name in ("adapt", "stab"):
                np.testing.assert_allclose(other.direct[name], values.direct[name], rtol=1e-5, atol=1e-6)
                np.testing.assert_allclose(other.causal[name], values.causal[name], rtol=1e-5, atol=1e-6)
                assert other.prompt_context[name] == pytest.approx(values.prompt_context[name], rel=1e-6, abs=1e-9)
            np.testing.assert_allclose(other.loss, values.loss, rtol=1e-6)


def test_a_direction_of_zeros_has_zeros_where_values_exist(model, directions, scored):
    zero = {name: torch.zeros_like(tensor) for name, tensor in directions["stab"].items()}
    for values, other, positions in zip(
        Scorer(model, {"adapt": directions["adapt"], "stab": zero}).score(IDS, RESPONSES), scored, RESPONSES, strict=True
    ):
        expected = [np.nan if position == 0 else 0.0 for position in positions]
        np.testing.assert_array_equal(values.direct["stab"], np.array(expected, dtype=np.float32))
        np.testing.assert_array_equal(values.causal["stab"], np.zeros(len(positions), dtype=np.float32))
        assert values.prompt_context == pytest.approx({**other.prompt_context, "stab": 0.0}, rel=1e-12)
        assert values.num_not_finite == 0
        np.testing.assert_allclose(values.direct["adapt"], other.direct["adapt"], rtol=1e-6)  # the other is as it was


def test_zeros_are_what_a_pass_along_zeros_would_give(model, directions):
    zero = {name: torch.zeros_like(tensor) for name, tensor in directions["stab"].items()}
    result = probe(model, collate(IDS, RESPONSES), {"stab": zero})
    shortcut = Scorer(model, {"stab": zero}).score(IDS, RESPONSES)
    for row, (values, positions) in enumerate(zip(shortcut, RESPONSES, strict=True)):
        np.testing.assert_array_equal(values.direct["stab"], result.target_BT["stab"][row, positions].numpy())
        np.testing.assert_array_equal(values.causal["stab"], result.context_BT["stab"][row, positions].numpy())


def test_without_directions_there_are_the_signals_alone(model, scored):
    for values, other in zip(Scorer(model, {}).score(IDS, RESPONSES), scored, strict=True):
        assert (values.direct, values.causal, values.prompt_context) == ({}, {}, {})
        np.testing.assert_allclose(values.loss, other.loss, rtol=1e-6)
        np.testing.assert_allclose(values.entropy, other.entropy, rtol=1e-6)


def test_values_that_are_not_finite_are_missing_and_counted_and_spoil_no_other(model, directions, scored):
    broken = {name: tensor.clone() for name, tensor in directions["adapt"].items()}
    broken[next(iter(broken))].view(-1)[0] = torch.inf
    for values, other, positions in zip(
        Scorer(model, {"adapt": broken, "stab": directions["stab"]}).score(IDS, RESPONSES), scored, RESPONSES, strict=True
    ):
        assert np.isnan(values.direct["adapt"]).all()
        finite = np.isfinite(values.causal["adapt"]).sum()
        assert values.num_not_finite == sum(position > 0 for position in positions) + len(positions) - finite
        np.testing.assert_allclose(values.direct["stab"], other.direct["stab"], rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(np.isnan(values.loss), np.isnan(other.loss))
        assert not any(np.isinf(array).any() for array in (*values.direct.values(), *values.causal.values(), values.loss, values.entropy))


def test_a_model_that_overflows_is_counted_in_the_signals(directions):
    model = make("llama")
    model.lm_head.weight.data[3] = torch.inf
    values = Scorer(model, {}).score([IDS[0]], [RESPONSES[0]])[0]
    assert np.isnan(values.loss).all()
    assert np.isnan(values.entropy).all()
    assert values.num_not_finite == 2 * len(RESPONSES[0])


def test_a_direction_of_another_model_is_refused(model, directions):
    wrong = {**directions["adapt"], "model.norm.weight": torch.ones(3)}
    with pytest.raises(ValueError, match=r"'model.norm.weight' of shape \[3\]; the model has \[32\]"):
        Scorer(model, {"adapt": wrong})


def test_values_too_large_for_float32_are_missing_and_counted_not_infinite(model, directions, scored):
    huge = {name: tensor * 1e60 for name, tensor in directions["adapt"].items()}
    for values, other, positions in zip(Scorer(model, {"adapt": huge}).score(IDS, RESPONSES), scored, RESPONSES, strict=True):
        zero = other.causal["adapt"] == 0
        assert np.isnan(values.direct["adapt"]).all()
        np.testing.assert_array_equal(np.isnan(values.causal["adapt"]), ~zero)
        assert values.num_not_finite == sum(position > 0 for position in positions) + (~zero).sum()
        assert values.prompt_context["adapt"] == pytest.approx(1e60 * other.prompt_context["adapt"], rel=1e-9)  # kept in double


def test_a_model_that_hides_a_derivative_is_refused(directions):
    """The two axes come from different mechanisms, forward and backward: a lost tangent breaks their common sum."""

    class Hidden(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return torch.from_numpy(x.detach().numpy() * 3)  # where no tangent follows

        @staticmethod
        def backward(ctx, grad):
            return grad * 3

    hiding = make("llama", clean=True)
    hiding.model.norm.register_forward_hook(lambda module, args, output: Hidden.apply(output))
    with pytest.raises(ValueError, match="hides its derivative"):
        Scorer(hiding, directions).score(IDS, RESPONSES)


def test_an_activation_function_in_place_is_followed(directions, scored):
    model = make("llama", clean=True)
    for module in model.modules():
        if hasattr(module, "act_fn"):
            module.act_fn = torch.nn.SiLU(inplace=True)
    for one, expected in zip(Scorer(model, directions).score(IDS, RESPONSES), scored, strict=True):
        np.testing.assert_allclose(one.direct["adapt"], expected.direct["adapt"], rtol=1e-9)


def test_a_real_family_that_hides_a_derivative_is_refused():
    """BLOOM's own GELU is a custom autograd function; at its initial weights the two axes differ by 3e-4 only."""
    from transformers import AutoModelForCausalLM, BloomConfig

    torch.manual_seed(0)
    bloom = AutoModelForCausalLM.from_config(BloomConfig(vocab_size=61, hidden_size=32, n_layer=2, n_head=4))
    bloom = bloom.eval().requires_grad_(False)
    ids = [torch.randint(1, 61, (n,)).tolist() for n in (40, 30)]
    with pytest.raises(ValueError, match="hides its derivative"):
        Scorer(bloom, {"adapt": random_direction(bloom)}).score(ids, [list(range(10, 40)), list(range(8, 30))])


def test_a_rejected_response_has_the_values_of_weight_minus_one(model, directions, scored):
    batch = collate(IDS, RESPONSES)
    against = probe(model, replace(batch, weights_BT=-batch.weights_BT), directions)
    for row, (values, positions) in enumerate(zip(scored, RESPONSES, strict=True)):
        rejected = values.weighted(-1)
        for name in directions:
            # target_BT has no weight; the context axis was computed with it
            np.testing.assert_allclose(rejected.direct[name], -against.target_BT[name][row, positions].float().numpy(), rtol=1e-6)
            np.testing.assert_allclose(rejected.causal[name], against.context_BT[name][row, positions].float().numpy(), rtol=1e-6)
            context = against.context_BT[name][row].double()
            assert rejected.prompt_context[name] == pytest.approx((context.sum() - context[positions].sum()).item(), rel=1e-9, abs=1e-12)
            assert not np.signbit(rejected.causal[name][rejected.causal[name] == 0]).any()
        assert rejected.loss is values.loss
        assert rejected.signals == values.signals


def test_a_rejected_response_has_propagated_values_of_weight_minus_one(model):
    from models.blocks import block_scope
    from models.propagation import PropagationScorer, propagate
    from models.settings import PropagationSettings

    scope = block_scope(model, 2, ())
    directions = {"adapt": {n: t for n, t in random_direction(model, seed=3).items() if n in scope}}
    scorer = PropagationScorer(model, directions, PropagationSettings(last_blocks=2, window=3))
    batch = collate(IDS[:3], RESPONSES[:3])
    against = propagate(model, replace(batch, weights_BT=-batch.weights_BT), scorer._directions, scorer._blocks, 3)
    for row, values in enumerate(scorer.score(IDS[:3], RESPONSES[:3])):
        rejected = values.weighted(-1)
        np.testing.assert_allclose(rejected.direct["adapt"], against.direct_BT["adapt"][row, RESPONSES[row]].float().numpy(), rtol=1e-6)
        np.testing.assert_allclose(rejected.causal["adapt"], against.causal_BT["adapt"][row, RESPONSES[row]].float().numpy(), rtol=1e-6)
