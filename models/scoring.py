"""Values of whole sequences at their response positions: the probe's matrices cut into the lists that are stored."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.batches import TokenBatch, collate
from models.losses import counted
from models.lowrank import Direction
from models.probe import ProbeResult, ScaledDirections, probe, scale_directions

Values = NDArray[np.float32]


@dataclass(frozen=True)
class SequenceValues:
    """What is stored of one sequence; arrays are float32, one entry per response position, NaN where there is no value.

    Attributes:
        direct: per direction w_u ⟨D, ∇ℓ_u⟩; NaN for a response token at position 0.
        causal: per direction the context axis at the token's own position; exactly 0 for the last token.
        prompt_context: per direction the context axis summed over all other positions (float64 sum), so that
            Σ direct = Σ causal + prompt_context.
        loss: nats; NaN for a response token at position 0.
        entropy: nats; NaN for a response token at position 0.
        num_not_finite: values that exist but came out infinite or NaN; they are NaN in the arrays.
    """

    direct: dict[str, Values]
    causal: dict[str, Values]
    prompt_context: dict[str, float]
    loss: Values
    entropy: Values
    num_not_finite: int


class Scorer:
    """Scores batches of sequences with one model against fixed directions.

    A direction that is zero everywhere (stability at θ = θ_ref) costs nothing: its values are zeros.
    """

    def __init__(self, model: nn.Module, directions: Mapping[str, Direction]) -> None:
        """Scale the directions once.

        Args:
            model: frozen, in eval mode, on its device.
            directions: name to direction.
        """
        self._model = model
        first = next(model.parameters())
        self._device, self._dtype = first.device, first.dtype
        self._zero = [name for name, d in directions.items() if not any(bool(t.any()) for t in d.values())]
        self._directions: ScaledDirections = scale_directions(model, {n: d for n, d in directions.items() if n not in self._zero})

    def score(self, token_ids: Sequence[Sequence[int]], response_positions: Sequence[Sequence[int]]) -> list[SequenceValues]:
        """Score one batch.

        Args:
            token_ids: ids of each sequence.
            response_positions: ascending positions of the response tokens of each sequence.

        Returns:
            the values of each sequence, in order.
        """
        batch = collate(token_ids, response_positions).to(self._device)
        result = probe(self._model, batch, self._directions)
        check_axes(result, batch, self._dtype)
        on_cpu = ProbeResult(
            {name: t.cpu() for name, t in result.target_BT.items()},
            {name: t.cpu() for name, t in result.context_BT.items()},
            result.loss_BT.cpu(),
            result.entropy_BT.cpu(),
        )
        return [
            self._cut(on_cpu, row, len(ids), torch.as_tensor(positions, dtype=torch.long))
            for row, (ids, positions) in enumerate(zip(token_ids, response_positions, strict=True))
        ]

    def _cut(self, result: ProbeResult, row: int, length: int, positions: Tensor) -> SequenceValues:
        has_loss = (positions > 0).numpy()
        direct, causal, prompt_context = {}, {}, {}
        num_not_finite = 0

        def keep(values_BT: Tensor, exists: NDArray[np.bool_]) -> Values:
            nonlocal num_not_finite
            values = values_BT[row, positions].float().numpy().copy()
            finite = np.isfinite(values)
            num_not_finite += int((exists & ~finite).sum())
            values[~finite] = np.nan
            return values

        everywhere = np.ones_like(has_loss)
        for name in result.target_BT:
            direct[name] = keep(result.target_BT[name], has_loss)
            causal[name] = keep(result.context_BT[name], everywhere)
            context_T = result.context_BT[name][row, :length].double()
            prompt_context[name] = (context_T.sum() - context_T[positions].sum()).item()
        for name in self._zero:
            direct[name] = np.where(has_loss, 0.0, np.nan).astype(np.float32)
            causal[name] = np.zeros(len(positions), dtype=np.float32)
            prompt_context[name] = 0.0
        loss, entropy = keep(result.loss_BT, has_loss), keep(result.entropy_BT, has_loss)
        return SequenceValues(direct, causal, prompt_context, loss, entropy, num_not_finite)


_AXES_TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-4, torch.bfloat16: 0.05, torch.float16: 0.01}
"""Largest difference of the two axes' sums over a batch, relative to the sum of sizes. Measured in float32: 5e-7 at most on eight sound
families and a real model, 3e-4 to 0.1 on BLOOM, which hides a derivative; in bfloat16 0.005 at most on the sound ones."""


def check_axes(result: ProbeResult, batch: TokenBatch, dtype: torch.dtype = torch.float32) -> None:
    """Hold the law Σ_u w_u target(u) = Σ_p context(p) on every batch: it fails when an operation of the model loses a derivative.

    Args:
        result: values of a batch.
        batch: the batch.
        dtype: numbers the pass computed in.

    Raises:
        ValueError: the two axes disagree.
    """
    exists_BT = torch.zeros_like(batch.weights_BT, dtype=torch.bool)
    exists_BT[counted(batch)] = True
    for name, target_BT in result.target_BT.items():
        terms_BT = torch.where(exists_BT, target_BT.double() * batch.weights_BT, 0.0)
        context_BT = result.context_BT[name].double()
        if not (torch.isfinite(terms_BT).all() and torch.isfinite(context_BT).all()):
            continue  # values that are not finite are counted and stored as NULL
        gap = (terms_BT.sum(-1) - context_BT.sum(-1)).abs().sum()
        size = torch.maximum(terms_BT.abs().sum(), context_BT.abs().sum())
        if gap > _AXES_TOLERANCE[dtype] * size:
            raise ValueError(
                f"direction {name!r}: the values by token and by position sum to different totals (off by {(gap / size).item():.1%} of their "
                "size), so an operation of this model hides its derivative (a custom autograd function, complex numbers, in-place "
                "activations); the model is not supported. Please report its class"
            )
