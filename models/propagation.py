"""The estimator `value_propagation` of DESIGN 3.3, the released form of arXiv 2606.01635: values from the last K blocks alone.

With h_t the input of a linear layer at position t, δ_t the gradient of the summed response loss Σ w_u ℓ_u at its output, and D the
direction on its weight (G = ∇L_val for adaptation, V = F ⊙ (W − W_ref) for stability), token u has, at its predictor t = u − 1:

* direct (Eq. 8, 10, 11): Σ δ_tᵀ D h_t over the linear layers of the last K blocks;
* causal (Eq. 9): Σ_{t<k≤t+W} A[k, t] δ_kᵀ D_v h_t through the value projection, A averaged over heads, added over the K blocks.

δ_t already holds what later losses draw from position t, so the causal term counts them again: the two do not add up to an inner
product, and the law of both axes (DESIGN 3.2) does not hold here. Weights only: biases, norms, embeddings and the head have no part.

Cost: one forward pass, one backward pass to the activations of the last K blocks, D h for their layers. Directions are made once; no
gradient of a weight or of a single token is formed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.attention_band import causal_sums
from models.batches import TokenBatch, collate
from models.blocks import LastBlocks, Layer, last_blocks
from models.losses import counted, entropies, token_losses
from models.lowrank import Direction
from models.probe import ScaledDirections, scale_directions, total_norm
from models.response_pass import response_pass
from models.scoring import SequenceValues, Values
from models.settings import PropagationSettings


@dataclass(frozen=True)
class PropagationResult:
    """Values of one batch at the positions of the tokens they belong to; NaN for tokens that do not count and where no token stands.

    Attributes:
        direct_BT: per direction, [B, T], float32 (float64 for a float64 model): w_u is in δ.
        causal_BT: per direction, likewise; 0 for the last token of a sequence.
        loss_BT: [B, T], nats.
        entropy_BT: [B, T], nats.
    """

    direct_BT: dict[str, Tensor]
    causal_BT: dict[str, Tensor]
    loss_BT: Tensor
    entropy_BT: Tensor


def propagate(model: nn.Module, batch: TokenBatch, directions: ScaledDirections, blocks: LastBlocks, window: int) -> PropagationResult:
    """Value every response token of a batch against several directions.

    Args:
        model: a causal language model of transformers, in eval mode, frozen, on the attention kernel `sdpa` or `eager`.
        batch: sequences on the model's device, response tokens weighted.
        directions: of weights of `blocks`, all value projections among them; none at all gives the signals for one forward pass.
        blocks: the last K blocks.
        window: W.

    Returns:
        values and signals.

    Raises:
        ValueError: the model is not frozen, or its attention gives neither weights nor queries and keys.

    Source: arXiv 2606.01635 Eq. 8–11. Reference test: tests/models/test_propagation.py::test_values_equal_the_slow_loops
    """
    shape = batch.weights_BT.shape
    width = max(1, min(window, shape[1] - 1))
    blocks = blocks.within(name for direction in directions.tensors.values() for name in direction)
    meeting = _Meeting(directions.tensors, shape, batch.weights_BT.device)
    log_probs_NV = response_pass(model, batch, blocks, meeting if directions.tensors else None, meeting.bands, width)
    rows_N, positions_N = counted(batch)

    def scatter(values_N: Tensor) -> Tensor:
        values_BT = torch.full(shape, torch.nan, dtype=log_probs_NV.dtype, device=log_probs_NV.device)
        values_BT[rows_N, positions_N] = values_N.to(log_probs_NV.dtype)
        return values_BT

    def of_tokens(sums: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: scatter(sums_BT[rows_N, positions_N - 1] * directions.factors[name]) for name, sums_BT in sums.items()}

    losses_N = token_losses(log_probs_NV, batch.input_ids_BT[rows_N, positions_N])
    return PropagationResult(of_tokens(meeting.direct), of_tokens(meeting.causal), scatter(losses_N), scatter(entropies(log_probs_NV)))


class _Meeting:
    """Adds up δᵀ D h at the predictors' positions while δ passes the layers.

    Attributes:
        bands: per block the band of its attention weights; filled in the forward pass.
        direct: per direction, [B, T].
        causal: per direction, [B, T].
    """

    def __init__(self, directions: Mapping[str, Direction], shape: torch.Size, device: torch.device) -> None:
        self._directions = directions
        self.bands: dict[int, Tensor] = {}
        # float64, as the terms of many layers nearly cancel and the sums are small
        self.direct = {name: torch.zeros(shape, dtype=torch.float64, device=device) for name in directions}
        self.causal = {name: torch.zeros(shape, dtype=torch.float64, device=device) for name in directions}

    def __call__(self, layer: Layer, inputs_BTI: Tensor, delta_BTO: Tensor) -> None:
        for name, direction in self._directions.items():
            if layer.name not in direction:
                continue
            moved_BTO = layer.apply(direction[layer.name], inputs_BTI)
            wide = torch.promote_types(moved_BTO.dtype, torch.float32)
            self.direct[name] += (delta_BTO * moved_BTO).sum(-1, dtype=wide)
            if layer.values is not None:
                values = (delta_BTO[..., layer.values].to(wide), moved_BTO[..., layer.values].to(wide))
                self.causal[name] += causal_sums(self.bands[layer.block].to(wide), *values)


class PropagationScorer:
    """Scores batches of sequences as `models.scoring.Scorer` does, with this estimator.

    A direction that is zero everywhere (stability at θ = θ_ref) costs nothing: its values are zeros.
    """

    def __init__(self, model: nn.Module, directions: Mapping[str, Direction], settings: PropagationSettings) -> None:
        """Scale the directions once.

        Args:
            model: frozen, in eval mode, on its device.
            directions: name to direction, over the scope of `models.blocks.block_scope`.
            settings: K and W.

        Raises:
            ValueError: a direction covers other parameters, or lacks a value projection.
        """
        self._model = model
        self._device = next(model.parameters()).device
        self._settings = settings
        self._blocks = last_blocks(model, settings.last_blocks)
        for name, direction in directions.items():
            self._check(name, direction)
        self._zero = [name for name, d in directions.items() if total_norm(d.values()) == 0]
        self._directions = scale_directions(model, {n: d for n, d in directions.items() if n not in self._zero})

    def _check(self, name: str, direction: Direction) -> None:
        needed = {layer.name for layer in self._blocks.layers if layer.values is not None}
        if not needed <= set(direction) <= set(self._blocks.names):
            odd = sorted((set(direction) - set(self._blocks.names)) | (needed - set(direction)))
            raise ValueError(
                f"direction {name!r} does not fit the last {self._settings.last_blocks} blocks (for example {odd[0]}): it was made for another "
                "estimator or number of blocks; remake it (--refresh-scoring)"
            )

    def score(self, token_ids: Sequence[Sequence[int]], response_positions: Sequence[Sequence[int]]) -> list[SequenceValues]:
        """Score one batch.

        Args:
            token_ids: ids of each sequence.
            response_positions: ascending positions of the response tokens of each sequence.

        Returns:
            the values of each sequence, in order. A token at position 0 has no predictor: `direct` and `causal` are NaN.
            `prompt_context` is NaN: prompt tokens have no value of their own here, and the axes' common sum does not exist.
        """
        batch = collate(token_ids, response_positions).to(self._device)
        result = propagate(self._model, batch, self._directions, self._blocks, self._settings.window)
        loss_BT, entropy_BT = result.loss_BT.cpu(), result.entropy_BT.cpu()
        direct_BT, causal_BT = (
            {name: values_BT.cpu() for name, values_BT in axis.items()} for axis in (result.direct_BT, result.causal_BT)
        )
        return [
            self._cut(PropagationResult(direct_BT, causal_BT, loss_BT, entropy_BT), row, torch.as_tensor(positions, dtype=torch.long))
            for row, positions in enumerate(response_positions)
        ]

    def _cut(self, result: PropagationResult, row: int, positions: Tensor) -> SequenceValues:
        exists: NDArray[np.bool_] = (positions > 0).numpy()
        num_not_finite = 0

        def keep(values_BT: Tensor) -> Values:
            nonlocal num_not_finite
            values: Values = values_BT[row, positions].float().numpy().copy()
            finite = np.isfinite(values)
            num_not_finite += int((exists & ~finite).sum())
            values[~finite] = np.nan
            return values

        zeros = np.where(exists, 0.0, np.nan).astype(np.float32)
        direct = {name: keep(values_BT) for name, values_BT in result.direct_BT.items()} | {name: zeros.copy() for name in self._zero}
        causal = {name: keep(values_BT) for name, values_BT in result.causal_BT.items()} | {name: zeros.copy() for name in self._zero}
        loss, entropy = keep(result.loss_BT), keep(result.entropy_BT)
        return SequenceValues(direct, causal, dict.fromkeys(direct, float("nan")), loss, entropy, num_not_finite)
