"""Laws of tasks/lowrank.py: a low-rank direction is saved with how well it agrees, and not at all where it does not."""

import pytest
import torch

from models.directions import load_tensors, save_tensors
from models.lowrank import LowRank, factorise, unflatten
from models.settings import LowRankSettings
from tasks.lowrank import check_agreement, low_rank_key, make
from tests.models.test_selftest import sequences
from tests.reference.families import make as make_model
from tests.reference.families import random_direction


@pytest.fixture
def model():
    return make_model("llama", torch.float32)


def test_factors_are_saved_with_their_agreement(model, tmp_path):
    low = factorise(random_direction(model), 2)
    dense = {name: (t.dense() if isinstance(t, LowRank) else t).contiguous() for name, t in low.items()}
    save_tensors(dense, tmp_path / "dense.safetensors")
    settings = LowRankSettings(rank=2)
    content, details = make(tmp_path / "dense.safetensors", tmp_path / "low.safetensors", settings, lambda: model, sequences([12, 9]))
    assert details["spearman_target"] == pytest.approx(1.0, abs=1e-3)
    assert details["spearman_context"] == pytest.approx(1.0, abs=1e-3)
    assert details["kept_energy"] == pytest.approx(1.0, abs=1e-4)
    read = unflatten(load_tensors(tmp_path / "low.safetensors"))
    assert read.keys() == dense.keys()
    assert any(isinstance(t, LowRank) for t in read.values())
    again = make(tmp_path / "dense.safetensors", tmp_path / "again.safetensors", settings, lambda: model, sequences([12, 9]))
    assert again == (content, details)


def test_a_form_that_changes_the_order_of_values_is_refused_and_not_saved(model, tmp_path):
    save_tensors(random_direction(model), tmp_path / "dense.safetensors")
    with pytest.raises(ValueError, match=r"rank 1 change the order of the values too much .*spearman_target 0\.\d+.*Raise the rank"):
        make(tmp_path / "dense.safetensors", tmp_path / "low.safetensors", LowRankSettings(rank=1), lambda: model, sequences([12, 9]))
    assert not (tmp_path / "low.safetensors").exists()


def test_a_direction_of_zeros_needs_no_model(model, tmp_path):
    save_tensors({name: torch.zeros_like(p) for name, p in model.named_parameters()}, tmp_path / "dense.safetensors")
    _, details = make(tmp_path / "dense.safetensors", tmp_path / "low.safetensors", LowRankSettings(), lambda: pytest.fail("loaded"), [])
    assert details["kept_energy"] == 1


def test_the_identity_is_that_of_the_factors_and_the_limit_is_held_whenever_they_are_used():
    one, strict = LowRankSettings(rank=4), LowRankSettings(rank=4, min_spearman=1.0)
    assert low_rank_key(one, "d") == low_rank_key(strict, "d")
    assert len({low_rank_key(s, d) for s in (one, LowRankSettings(rank=5), LowRankSettings(rank=4, energy=0.9)) for d in ("d", "e")}) == 6
    details = {"rank": 4, "num_sequences": 2, "spearman_target": 0.9995, "spearman_context": 0.9999}
    check_agreement(details, one)
    with pytest.raises(ValueError, match=r"min_spearman is 1\.0"):
        check_agreement(details, strict)
