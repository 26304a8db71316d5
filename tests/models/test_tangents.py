"""Rules of models/tangents.py in place, in error, and on parameters that appear outside layers."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from models.meeting import Meeting
from models.rules import attach, derive
from models.tangents import Tangents, carried_by


def test_an_activation_changed_in_place_by_an_unknown_function_is_refused():
    layer = torch.nn.Linear(4, 4).requires_grad_(False)
    mode = Tangents(1, torch.empty(1), torch.tensor([0]), torch.tensor([1]), torch.Size([1, 2]))
    with carried_by(layer, [{"weight": torch.ones(4, 4)}]), mode, pytest.raises(NotImplementedError, match="__setitem__"):
        layer(torch.ones(1, 2, 4))[0] = 0.0


def test_in_place_arithmetic_follows_the_product_and_sum_rules():
    layer = torch.nn.Linear(4, 4).requires_grad_(False)
    x = torch.randn(1, 2, 4)
    mode = Tangents(1, torch.empty(1), torch.tensor([0]), torch.tensor([1]), torch.Size([1, 2]))
    with carried_by(layer, [{"weight": torch.ones(4, 4)}]), mode:
        y = layer(x)
        z = y * 1.0
        z *= y
        z += y
        z.clamp_(min=-100.0)
    primal, change = layer(x), x.sum(-1, keepdim=True).expand(1, 2, 4)
    assert torch.allclose(z, primal * primal + primal)
    assert torch.allclose(z._tangents[0], 2 * primal * change + change, atol=1e-6)


def test_a_parameter_added_in_place_meets_delta():
    layer, bias = torch.nn.Linear(4, 4).requires_grad_(False), torch.nn.Parameter(torch.zeros(4), requires_grad=False)
    layer.register_parameter("late", bias)
    x = torch.randn(1, 2, 4, requires_grad=True)
    mode = Tangents(1, torch.empty(1), torch.tensor([0]), torch.tensor([1]), torch.Size([1, 2]), meeting=Meeting.OWN)
    with carried_by(layer, [{"late": torch.tensor([1.0, 2.0, 3.0, 4.0])}]), mode:
        y = layer(x)
        y += layer.late
    (y * torch.tensor([1.0, 10.0])[None, :, None]).sum().backward()
    assert torch.allclose(mode.context.values_KBT, torch.tensor([[[10.0, 100.0]]]))


def test_parameters_are_left_as_they_were():
    layer = torch.nn.Linear(4, 4).requires_grad_(False)
    with pytest.raises(RuntimeError, match="boom"), carried_by(layer, [{"weight": torch.ones(4, 4)}]):
        raise RuntimeError("boom")
    assert not hasattr(layer.weight, "_tangents")


@pytest.mark.parametrize("function", [torch.Tensor.erf, torch.Tensor.tanh], ids=["a function without a rule", "a pointwise one"])
def test_threads_take_turns_in_the_forward_mode_of_torch(function):
    def slowly(x):
        time.sleep(0.02)  # without turns, both threads are in the forward mode at one time
        return function(x)

    slowly.__name__ = function.__name__

    def derived(scale):
        x = torch.full((3,), scale, requires_grad=True)
        attach(x, (torch.ones(3),))
        return derive(slowly, (x,), {}, 1)[0][0]

    with ThreadPoolExecutor(2) as threads:
        tangents = list(threads.map(derived, [1.0, 2.0] * 5))
    assert all(torch.equal(one, tangents[n % 2]) for n, one in enumerate(tangents))
    assert not torch.equal(tangents[0], tangents[1])
