"""Low-rank directions: D ≈ L Rᵀ per matrix, so that D h costs two thin products instead of a full one."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

_OVERSAMPLING = 8
_POWER_ITERATIONS = 2
"""Of the randomised SVD (Halko, Martinsson, Tropp 2011, algorithm 4.4): with both, the error is within a few percent of the best."""


@dataclass(frozen=True)
class LowRank:
    """A matrix of low rank, kept as its factors.

    Attributes:
        left_OR: [O, R].
        right_IR: [I, R]; the matrix is left_OR @ right_IR.mT, [O, I].
    """

    left_OR: Tensor
    right_IR: Tensor

    @property
    def shape(self) -> torch.Size:
        """Shape of the matrix, [O, I]."""
        return torch.Size((self.left_OR.shape[0], self.right_IR.shape[0]))

    @property
    def mT(self) -> "LowRank":  # ruff: ignore[invalid-function-name] - as of a tensor
        """The transposed matrix, sharing the factors."""
        return LowRank(self.right_IR, self.left_OR)

    def dense(self) -> Tensor:
        """Multiply the factors: [O, I]."""
        return self.left_OR @ self.right_IR.mT

    def rows(self, ids: Tensor) -> Tensor:
        """Look rows up, as an embedding does: [*ids.shape, I]."""
        return self.left_OR[ids] @ self.right_IR.mT


DirectionTensor = Tensor | LowRank
"""What a direction holds for one parameter."""

Direction = Mapping[str, DirectionTensor]
"""Parameter name (as in `model.named_parameters()`) to a tensor of its shape or its low-rank form; absent parameters are out of scope."""


def factorise(direction: Mapping[str, Tensor], rank: int, energy: float = 1.0, seed: int = 0) -> dict[str, DirectionTensor]:
    """Write every matrix of a direction as a product of thin factors, by randomised SVD.

    A tensor that is no matrix (a norm gain, a bias, fused experts), or whose factors would not halve the work, stays as it is.

    Args:
        direction: dense tensors.
        rank: columns of the factors at most.
        energy: share of the squared norm after which further columns are left out, in (0, 1].
        seed: seed of the random projection; the result is a function of direction, rank, energy and seed.

    Returns:
        per parameter, its factors or the tensor itself; float32 or the direction's own dtype if wider, on the direction's device.

    Raises:
        ValueError: rank or energy out of bounds.

    Source: DESIGN 3.1; reference test: tests/models/test_lowrank.py::test_factors_come_near_the_best_of_their_rank
    """
    if rank < 1 or not 0 < energy <= 1:
        raise ValueError(f"low rank: rank {rank} (at least 1), energy {energy} (in (0, 1])")
    return {name: _factors(tensor, rank, energy, seed) for name, tensor in direction.items()}


def _factors(tensor_OI: Tensor, rank: int, energy: float, seed: int) -> DirectionTensor:
    if tensor_OI.dim() != 2 or 2 * rank * sum(tensor_OI.shape) >= tensor_OI.numel() or not bool(tensor_OI.any()):
        return tensor_OI
    matrix_OI = tensor_OI if tensor_OI.dtype == torch.float64 else tensor_OI.float()
    generator = torch.Generator(matrix_OI.device).manual_seed(seed)
    width = min(rank + _OVERSAMPLING, *matrix_OI.shape)
    # scaled, as squares of a Fisher's entries leave float32
    size = matrix_OI.abs().max()
    scaled_OI = matrix_OI / size
    range_OW = scaled_OI @ torch.randn(matrix_OI.shape[1], width, generator=generator, device=matrix_OI.device, dtype=matrix_OI.dtype)
    for _ in range(_POWER_ITERATIONS):
        range_OW = scaled_OI @ torch.linalg.qr(scaled_OI.mT @ torch.linalg.qr(range_OW).Q).Q
    basis_OW = torch.linalg.qr(range_OW).Q
    left_WW, sizes_W, right_WI = torch.linalg.svd(basis_OW.mT @ scaled_OI, full_matrices=False)
    shares_W = sizes_W.square().cumsum(0) / scaled_OI.square().sum()
    num = min(rank, 1 + int((shares_W < energy).sum()))
    root_R = sizes_W[:num].sqrt()
    return LowRank(basis_OW @ left_WW[:, :num] * root_R * size, (right_WI[:num].mT * root_R).contiguous())


_LEFT, _RIGHT = "|left", "|right"
"""Suffixes of factors in a file; no parameter's name has them."""


def flatten(direction: Direction) -> dict[str, Tensor]:
    """Write a direction as plain tensors, for a file: factors under the parameter's name with a suffix."""
    flat: dict[str, Tensor] = {}
    for name, tensor in direction.items():
        if isinstance(tensor, LowRank):
            flat |= {name + _LEFT: tensor.left_OR, name + _RIGHT: tensor.right_IR}
        else:
            flat[name] = tensor
    return flat


def unflatten(flat: Mapping[str, Tensor]) -> dict[str, DirectionTensor]:
    """Read what `flatten` wrote, and dense directions as they are."""
    direction: dict[str, DirectionTensor] = {}
    for name, tensor in flat.items():
        if name.endswith(_LEFT):
            direction[name.removesuffix(_LEFT)] = LowRank(tensor, flat[name.removesuffix(_LEFT) + _RIGHT])
        elif not name.endswith(_RIGHT):
            direction[name] = tensor
    return direction
