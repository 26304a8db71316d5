"""The checks of models/selftest.py: sound models pass, unsound ones are told, measures equal their definitions."""

import pytest
import torch

from models.lowrank import factorise
from models.probe import scale_directions
from models.selftest import (
    WrongValuesError,
    batched_against_single,
    exact_against_slow,
    low_rank_against_dense,
    relative_error,
    slice_of,
    spearman,
    top_half_agreement,
    verify,
)
from tests.models.test_probe import random_sequences
from tests.reference.families import CONFIGS, EXPERTS, make, random_direction


def sequences(lengths):
    ids, responses = random_sequences(lengths, seed=5)
    return list(zip(ids, responses, strict=True))


@pytest.mark.parametrize("family", [*CONFIGS, *EXPERTS])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_sound_models_pass_with_room_to_spare(family, dtype):
    if family in EXPERTS and dtype is torch.bfloat16:
        pytest.skip("the router of a mixture may choose another expert where its inputs are rounded otherwise")
    model = make(family, dtype)
    checks = exact_against_slow(model, {"a": random_direction(model, 1)}, *sequences([20])[0])
    assert [c.name[:14] for c in checks] == ["a, target axis", "a, context axi"]
    assert all(c.passed and c.value <= c.limit / 2 for c in checks)


def test_a_value_that_is_off_is_told_with_its_axis_and_what_to_do():
    model = make("llama")
    direction = random_direction(model)
    ids, response = sequences([20])[0]
    verify(model, {"a": direction}, [(ids, response)])
    model.model.norm.register_forward_hook(lambda module, args, output: output + 0.1 * output.mean(1, keepdim=True))
    with pytest.raises(WrongValuesError, match=r"a, target axis: .* expected at most 1e-05.*between positions outside attention"):
        verify(model, {"a": direction}, [(ids, response)])


def test_a_function_that_surely_moves_information_between_positions_is_refused_at_once():
    model = make("llama")
    ids, response = sequences([20])[0]
    model.model.norm.register_forward_hook(lambda module, args, output: output.cumsum(1))
    with pytest.raises(NotImplementedError, match="between positions by 'cumsum'"):
        verify(model, {"a": random_direction(model)}, [(ids, response)])


def test_batched_against_single_and_low_rank_against_dense():
    model = make("llama", torch.float32)
    dense = {"a": random_direction(model, 1), "s": random_direction(model, 2)}
    sample = sequences([12, 5, 9, 30])
    assert all(c.passed for c in batched_against_single(model, scale_directions(model, dense), sample))
    one = {name: factorise(d, 1) for name, d in dense.items()}
    checks = low_rank_against_dense(model, dense, one, sample, 0.999)
    assert len(checks) == 8
    assert not any(c.passed for c in checks)  # random directions have no low rank
    product = {name: {k: t if isinstance(t, torch.Tensor) else t.dense() for k, t in d.items()} for name, d in one.items()}
    same = low_rank_against_dense(model, product, one, sample, 0.999)
    assert all(c.passed and c.value == pytest.approx(1.0, abs=1e-3) for c in same)


def test_a_slice_is_a_sequence_around_the_first_response_token_with_a_loss():
    ids = list(range(100, 140))
    assert slice_of(ids, [30, 31, 39]) == (ids[22:38], [8, 9])
    assert slice_of(ids, [0, 1]) == (ids[:16], [0, 1])
    assert slice_of(ids[:3], [2]) == (ids[:3], [2])
    assert slice_of(ids, [39]) == (ids[24:], [15])


def test_measures_equal_their_definitions():
    a = torch.tensor([1.0, 2.0, 2.0, 9.0])
    assert spearman(a, -a) == pytest.approx(-1.0)
    assert spearman(a, torch.tensor([10.0, 20.0, 20.0, 21.0])) == pytest.approx(1.0)
    # ranks 1, 2.5, 2.5, 4 against 1, 2, 3, 4: 4.5 / sqrt(4.5 * 5)
    assert spearman(a, torch.tensor([0.0, 1.0, 2.0, 3.0])) == pytest.approx(4.5 / (4.5 * 5) ** 0.5)
    assert spearman(a, torch.zeros(4)) == 0
    assert spearman(torch.ones(4), torch.zeros(4)) == 1
    assert spearman(a[:0], a[:0]) != spearman(a[:0], a[:0])  # NaN: nothing to compare
    assert top_half_agreement(torch.tensor([4.0, 3.0, 2.0, 1.0]), torch.tensor([4.0, 1.0, 2.0, 3.0])) == pytest.approx(0.5)


def test_values_that_are_missing_in_the_engine_alone_are_an_error_and_nothing_to_compare_is_no_pass():
    nan, one = torch.tensor([torch.nan, 1.0]), torch.tensor([1.0, 1.0])
    assert relative_error(nan, one) == float("inf")
    assert relative_error(one, nan) == 0
    assert relative_error(one, nan * torch.nan) != 0
    overflowing = make("llama", torch.float16)
    overflowing.model.layers[0].mlp.down_proj.weight.data *= 1e5
    checks = exact_against_slow(overflowing, {"a": random_direction(make("llama", torch.float32))}, *sequences([20])[0])
    assert not any(check.passed for check in checks)


def test_a_packed_row_whose_neighbours_see_each_other_is_told():
    sound = make("llama")
    verify(sound, {"a": random_direction(sound)}, sequences([20, 12]), packing=True)

    class Leaking(torch.nn.Module):
        def forward(self, x):
            return x + 0.1 * torch.nn.functional.pad(x, (0, 0, 16, 0))[:, :-16]  # over more tokens than a slice has

    sound.model.norm = torch.nn.Sequential(sound.model.norm, Leaking())
    with pytest.raises(WrongValuesError, match="neighbours see each other; set scoring"):
        verify(sound, {"a": random_direction(sound)}, sequences([40, 40]), packing=True)
