"""The slow values of models/oracle.py against the position × loss matrix of tests/reference."""

import pytest
import torch

from models.batches import collate
from models.oracle import slow_values
from models.probe import probe
from models.selftest import relative_error
from tests.models.test_probe import expected_values, random_sequences
from tests.reference.families import CONFIGS, EXPERTS, make, random_direction


@pytest.mark.parametrize("family", list(CONFIGS))
def test_slow_values_equal_the_matrix(family):
    model = make(family)
    direction = random_direction(model)
    (ids,), (response,) = random_sequences([9], seed=2)
    slow = slow_values(model, ids, response, {"d": direction})["d"]
    target_T, context_T, _ = expected_values(model, ids, response, direction)
    assert torch.equal(slow.target_T.isnan(), target_T.isnan())
    assert relative_error(slow.target_T, target_T) <= 1e-6
    assert relative_error(slow.context_T, context_T) <= 1e-6
    assert not any(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("family", list(EXPERTS))
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-6), (torch.float32, 1e-4)])
def test_mixtures_of_experts_have_exact_values(family, dtype, tolerance):
    model = make(family, dtype)
    direction = random_direction(model)
    assert any(p.dim() == 3 for p in model.parameters())  # fused experts
    ids, responses = random_sequences([13, 9], seed=4)
    result = probe(model, collate(ids, responses), {"d": direction})
    for row, (one, response) in enumerate(zip(ids, responses, strict=True)):
        slow = slow_values(model, one, response, {"d": direction})["d"]
        assert relative_error(result.target_BT["d"][row, : len(one)], slow.target_T) <= tolerance
        assert relative_error(result.context_BT["d"][row, : len(one)], slow.context_T) <= tolerance


@pytest.mark.parametrize("arguments", [{"packed": True}, {"pad_left": True}, {}])
@pytest.mark.parametrize("family", ["mixtral", "llama"])
def test_checkpoints_go_with_packed_rows_and_mixtures(family, arguments):
    model = make(family)
    direction = random_direction(model)
    ids, responses = random_sequences([13, 9], seed=4)
    batch = collate(ids, responses, **arguments)
    plain, checkpointed = (probe(model, batch, {"d": direction}, activation_checkpointing=on) for on in (False, True))
    for axis in ("target_BT", "context_BT"):
        assert relative_error(getattr(checkpointed, axis)["d"], getattr(plain, axis)["d"]) <= 1e-12


def test_one_run_of_the_slow_way_serves_several_directions():
    model = make("llama")
    (ids,), (response,) = random_sequences([7])
    directions = {"a": random_direction(model, 1), "s": {"lm_head.weight": random_direction(model, 2)["lm_head.weight"]}}
    together = slow_values(model, ids, response, directions)
    for name, direction in directions.items():
        alone = slow_values(model, ids, response, {name: direction})[name]
        assert torch.allclose(together[name].target_T, alone.target_T, equal_nan=True, rtol=1e-12)
        assert torch.allclose(together[name].context_T, alone.context_T, rtol=1e-12)


def test_the_context_axis_alone_of_fused_experts_is_refused_with_what_to_do():
    model = make("mixtral")
    ids, responses = random_sequences([13])
    with pytest.raises(ValueError, match="Ask for both axes"):
        probe(model, collate(ids, responses), {"d": random_direction(model)}, axes=("context",))
