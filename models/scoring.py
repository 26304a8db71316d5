"""Values of whole sequences at their response positions: the probe's matrices cut into the lists that are stored."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.batches import TokenBatch, collate
from models.losses import counted
from models.lowrank import Direction
from models.probe import ProbeResult, ScaledDirections, probe, scale_directions, total_norm
from models.selftest import verify
from models.settings import Signal

Values = NDArray[np.float32]


@dataclass(frozen=True)
class SequenceValues:
    """What is stored of one sequence; arrays are float32, one entry per response position, NaN where there is no value.

    Attributes:
        direct: per direction w_u ⟨D, ∇ℓ_u⟩, w_u = 1 as they come from a scorer; NaN for a response token at position 0.
        causal: per direction the context axis at the token's own position; exactly 0 for the last token.
        prompt_context: per direction the context axis summed over all other positions (float64 sum), so that
            Σ direct = Σ causal + prompt_context.
        loss: nats; NaN for a response token at position 0.
        entropy: nats; NaN for a response token at position 0.
        signals: further signals asked for, see models/signals.py; NaN for a response token at position 0.
        num_not_finite: values that exist but came out infinite or NaN; they are NaN in the arrays.
    """

    direct: dict[str, Values]
    causal: dict[str, Values]
    prompt_context: dict[str, float]
    loss: Values
    entropy: Values
    num_not_finite: int
    signals: dict[str, Values] = field(default_factory=dict)

    def weighted(self, weight: float) -> "SequenceValues":
        """Give every response token of the sequence this weight w in the objective, where it had 1.

        Both estimators are linear in it, as all tokens of the sequence share it: it stands before every ℓ_u and in every δ. Signals are
        those of the predictions and have none.

        Args:
            weight: w, -1 for a rejected response.

        Returns:
            direct and causal values and prompt_context times w.
        """
        if weight == 1:
            return self
        direct, causal = (
            {n: np.float32(weight) * v + np.float32(0) for n, v in axis.items()} for axis in (self.direct, self.causal)
        )  # no -0
        return replace(self, direct=direct, causal=causal, prompt_context={n: weight * v + 0.0 for n, v in self.prompt_context.items()})


class Scorer:
    """Scores batches of sequences with one model against fixed directions.

    A direction that is zero everywhere (stability at θ = θ_ref) costs nothing: its values are zeros.
    """

    def __init__(
        self,
        model: nn.Module,
        directions: Mapping[str, Direction],
        signals: Sequence[Signal] = (),
        *,
        packing: bool = False,
        activation_checkpointing: bool = False,
    ) -> None:
        """Scale the directions once.

        Args:
            model: frozen, in eval mode, on its device.
            directions: name to direction, dense or low-rank.
            signals: further signals of each prediction.
            packing: put the sequences of a batch into one row instead of padding them.
            activation_checkpointing: see `probe`.
        """
        self._model = model
        first = next(model.parameters())
        self._device, self._dtype = first.device, first.dtype
        self._signals = tuple(signals)
        self._packing, self._checkpointing = packing, activation_checkpointing
        self._zero = [name for name, d in directions.items() if total_norm(d.values()) == 0]
        self._named = {n: d for n, d in directions.items() if n not in self._zero}
        self._directions: ScaledDirections = scale_directions(model, self._named)
        self._verified = False

    def score(self, token_ids: Sequence[Sequence[int]], response_positions: Sequence[Sequence[int]]) -> list[SequenceValues]:
        """Score one batch; the first is preceded by a check of the engine on this very model (models/selftest.py).

        Args:
            token_ids: ids of each sequence.
            response_positions: ascending positions of the response tokens of each sequence.

        Returns:
            the values of each sequence, in order.
        """
        if not self._verified:
            telling = [
                (ids, positions) for ids, positions in zip(token_ids, response_positions, strict=True) if max(positions, default=0) > 0
            ]
            if telling:
                verify(self._model, self._named, telling, packing=self._packing)
                self._verified = True
        batch = collate(token_ids, response_positions, packed=self._packing).to(self._device)
        result = probe(self._model, batch, self._directions, signals=self._signals, activation_checkpointing=self._checkpointing)
        check_axes(result, batch, self._dtype)
        on_cpu = result.map(lambda values_BT: values_BT.cpu())
        return [
            self._cut(on_cpu.map(lambda values_BT, at=place: values_BT[at]), torch.as_tensor(positions, dtype=torch.long))  # type: ignore[misc]
            for place, positions in zip(batch.places([len(ids) for ids in token_ids]), response_positions, strict=True)
        ]

    def _cut(self, result: ProbeResult, positions: Tensor) -> SequenceValues:
        """Cut the values of one sequence ([T] each) at its response positions."""
        has_loss = (positions > 0).numpy()
        everywhere = np.ones_like(has_loss)
        direct, causal, prompt_context = {}, {}, {}
        num_not_finite = 0

        def keep(values_T: Tensor, exists: NDArray[np.bool_]) -> Values:
            nonlocal num_not_finite
            values = values_T[positions].float().numpy().copy()
            finite = np.isfinite(values)
            num_not_finite += int((exists & ~finite).sum())
            values[~finite] = np.nan
            return values

        for name in result.target_BT:
            direct[name] = keep(result.target_BT[name], has_loss)
            causal[name] = keep(result.context_BT[name], everywhere)
            context_T = result.context_BT[name].double()
            prompt_context[name] = (context_T.sum() - context_T[positions].sum()).item()
        for name in self._zero:
            direct[name] = np.where(has_loss, 0.0, np.nan).astype(np.float32)
            causal[name] = np.zeros(len(positions), dtype=np.float32)
            prompt_context[name] = 0.0
        loss, entropy = keep(result.loss_BT, has_loss), keep(result.entropy_BT, has_loss)
        signals = {name: keep(values_T, has_loss) for name, values_T in result.signals_BT.items()}
        return SequenceValues(direct, causal, prompt_context, loss, entropy, num_not_finite, signals)


_AXES_TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-4, torch.bfloat16: 0.05, torch.float16: 0.01}
"""Largest difference of the two axes' sums over a batch, relative to the sum of sizes. Measured in float32: 5e-7 at most on eight sound
families and a real model, 3e-4 to 0.1 on BLOOM, which hides a derivative; in bfloat16 0.005 at most on the sound ones."""


def check_axes(result: ProbeResult, batch: TokenBatch, dtype: torch.dtype = torch.float32) -> None:
    """Hold the law Σ_u w_u target(u) = Σ_p context(p) on every batch.

    It fails when the tangents of attention are not those of its kernel; and, where the context axis is collected at each use of a
    parameter, when any operation of the model loses a derivative (elsewhere `verify` tells that).

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
