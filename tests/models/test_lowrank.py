"""Laws of models/lowrank.py: factors near the best of their rank, and values along them equal to those along their product."""

import pytest
import torch

from models.batches import collate
from models.lowrank import LowRank, factorise
from models.probe import probe, total_norm
from tests.models.test_probe import random_sequences, relative_error
from tests.reference.families import EXPERTS, make, random_direction


def decaying(rows, columns, seed=0):
    """A matrix whose singular values fall like 1 / k."""
    generator = torch.Generator().manual_seed(seed)
    left, right = (torch.linalg.qr(torch.randn(n, min(rows, columns), generator=generator, dtype=torch.float64)).Q for n in (rows, columns))
    return left / torch.arange(1, min(rows, columns) + 1) @ right.mT


@pytest.mark.parametrize("shape", [(60, 40), (40, 60), (200, 7)])
@pytest.mark.parametrize("rank", [1, 3])
def test_factors_come_near_the_best_of_their_rank(shape, rank):
    matrix = decaying(*shape)
    factors = factorise({"w": matrix}, rank)["w"]
    assert isinstance(factors, LowRank)
    assert factors.shape == matrix.shape
    best = torch.linalg.svdvals(matrix)[rank:].norm()
    assert (factors.dense() - matrix).norm() <= 1.05 * best
    assert torch.allclose(factors.mT.dense(), factors.dense().mT, rtol=1e-12)


def test_a_matrix_of_low_rank_is_kept_exactly_and_with_as_few_columns_as_its_energy_needs():
    matrix = decaying(60, 40)[:, :2] @ decaying(50, 2).mT
    factors = factorise({"w": matrix}, 8, energy=1 - 1e-12)["w"]
    assert factors.left_OR.shape == (60, 2)
    assert (factors.dense() - matrix).abs().max() <= 1e-10 * matrix.abs().max()


def test_tiny_and_huge_entries_survive_float32():
    for size in (1e-30, 1e25):
        matrix = decaying(60, 40).float() * size
        factors = factorise({"w": matrix}, 8)["w"]
        assert (factors.dense() / size - matrix / size).norm() <= 0.35 * (matrix / size).norm()


def test_what_would_not_get_cheaper_stays_dense():
    direction = {"gain": torch.ones(8), "experts": torch.ones(2, 60, 40), "small": decaying(8, 8), "zero": torch.zeros(60, 40)}
    assert all(kept is direction[name] for name, kept in factorise(direction, 2).items())


@pytest.mark.parametrize(("rank", "energy"), [(0, 1.0), (1, 0.0), (1, 1.1)])
def test_bounds_are_told(rank, energy):
    with pytest.raises(ValueError, match=f"rank {rank} .*energy {energy}"):
        factorise({}, rank, energy)


def test_norms_of_factors_are_those_of_their_product():
    factors = factorise({"w": decaying(60, 40)}, 3)
    assert total_norm(factors.values()) == pytest.approx(factors["w"].dense().norm().item(), rel=1e-9)


@pytest.mark.parametrize("family", ["llama", "llama_tied", "gpt2", "gemma2", "mixtral"])
@pytest.mark.parametrize("axes", [("target", "context"), ("context",), ("target",)])
def test_values_along_factors_equal_those_along_their_product(family, axes):
    if family in EXPERTS and axes == ("context",):
        pytest.skip("fused experts have both axes or none")
    model = make(family, clean=True)
    low = factorise(random_direction(model), 3)
    assert any(isinstance(t, LowRank) for t in low.values())
    dense = {name: t.dense() if isinstance(t, LowRank) else t for name, t in low.items()}
    batch = collate(*random_sequences([12, 5, 9], seed=5))
    got, expected = (probe(model, batch, {"d": d}, axes=axes) for d in (low, dense))
    for axis in axes:
        assert relative_error(getattr(got, f"{axis}_BT")["d"], getattr(expected, f"{axis}_BT")["d"]) <= 1e-9
