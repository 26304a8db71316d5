"""The position × loss matrix of DESIGN 3.2, read along both axes: exact values of all tokens of a batch.

For a direction D, `J[u, p]` is the part of ⟨D, ∇ℓ_u⟩ that passes through the parameters' use at position p. It is never formed:

* target axis, `Σ_p J[u, p] = ⟨D, ∇ℓ_u⟩`: tangents along D travel forward with the activations and meet δ at the head;
* context axis, `Σ_{v>p} w_v J[v, p]`: δ travels back and meets the tangents at the boundaries of attention (models/tangents.py).

No weight gradient and no per-token gradient exists at any time. Cost in forward passes with K directions: 1 forward, 1 backward to
activations, K tangents, K times D h: 6 for K = 2, two training steps; 4 with low-rank directions, whose D h is nearly free; 2 for the
context axis of low-rank directions alone. The language-model head is applied to response tokens only, and has no tangents of its own.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.batches import TokenBatch
from models.losses import counted, model_inputs, token_losses
from models.lowrank import Direction, DirectionTensor, LowRank
from models.meeting import Meeting
from models.modes import attention_alone_mixes, checkpointed, plain_experts
from models.packing import packed_attention
from models.settings import Signal
from models.signals import SIGNALS, signals_of
from models.tangents import Tangents, carried_by

Axis = Literal["target", "context"]
BOTH_AXES: tuple[Axis, Axis] = ("target", "context")


@dataclass(frozen=True)
class ProbeResult:
    """Values of one batch, NaN where a quantity does not exist; float32 (float64 for a float64 model), on the model's device.

    Attributes:
        target_BT: per direction, [B, T]: ⟨D, ∇ℓ_u⟩ at the counted tokens u, NaN elsewhere (prompt, padding, a first token). Unweighted.
            Empty when that axis was not asked for.
        context_BT: per direction, [B, T]: Σ_{v>p} w_v J[v, p] at every real position p, prompt included; 0 on padding. Empty when that
            axis was not asked for.
        loss_BT: [B, T], nats: ℓ_u at the counted tokens, NaN elsewhere.
        entropy_BT: [B, T], nats: entropy of the prediction of token u, NaN elsewhere.
        signals_BT: per further signal asked for, [B, T], NaN elsewhere; see models/signals.py.
    """

    target_BT: dict[str, Tensor]
    context_BT: dict[str, Tensor]
    loss_BT: Tensor
    entropy_BT: Tensor
    signals_BT: dict[str, Tensor] = field(default_factory=dict)

    def map(self, function: Callable[[Tensor], Tensor]) -> "ProbeResult":
        """Apply a function to every tensor."""
        return ProbeResult(
            {name: function(t) for name, t in self.target_BT.items()},
            {name: function(t) for name, t in self.context_BT.items()},
            function(self.loss_BT),
            function(self.entropy_BT),
            {name: function(t) for name, t in self.signals_BT.items()},
        )


@dataclass(frozen=True)
class ScaledDirections:
    """Directions ready for a pass: on the model's device, in its dtype, with the norm of the parameters in their scope.

    Attributes:
        tensors: name to scaled direction.
        factors: name to the factor that turns a value of the scaled direction into one of the original.
    """

    tensors: dict[str, dict[str, DirectionTensor]]
    factors: dict[str, float]


def probe(
    model: nn.Module,
    batch: TokenBatch,
    directions: Mapping[str, Direction] | ScaledDirections,
    *,
    axes: Sequence[Axis] = BOTH_AXES,
    signals: Sequence[Signal] = (),
    activation_checkpointing: bool = False,
) -> ProbeResult:
    """Value every response token of a batch against several directions, exactly, in one pass.

    Directions are scaled to the norm of the parameters they belong to while they travel through the network and the values
    scaled back, so that half precision neither under- nor overflows. Over many batches, scale once with `scale_directions`.

    Args:
        model: a causal language model of transformers, in eval mode, all parameters frozen (`requires_grad` False).
        batch: sequences on the model's device, response tokens weighted.
        directions: name to direction; none at all gives the signals alone, for one forward pass.
        axes: which axes to read; one alone is cheaper.
        signals: further signals of each prediction, beside loss and entropy.
        activation_checkpointing: keep the activations between layers alone (and the tangents at attention's boundaries), and compute those
            within layers again on the way back, for one forward pass more.

    Returns:
        values and signals, see `ProbeResult`.

    Raises:
        ValueError: a direction does not fit the model, an axis or signal is unknown, the model is not frozen, or (where the context
            axis is collected at each use of a parameter) a parameter does not act position by position.
        NotImplementedError: the model computes something that has no rule.

    Source: arXiv 2606.01635 section 4; DESIGN 3.2. Reference test: tests/models/test_probe.py::test_exact_values_equal_the_slow_loop
    """
    _check(model, axes, signals)
    prepared = directions if isinstance(directions, ScaledDirections) else scale_directions(model, directions)
    scaled, factors = prepared.tensors, prepared.factors
    rows_N, positions_N = counted(batch)
    wide = _with_telling_width(model, batch)
    meeting = _meeting(model, axes)
    if meeting is Meeting.OWN:
        _refuse_fused(model, scaled)
    head = _head_weight(model)
    mode = Tangents(len(scaled), head, rows_N, positions_N, wide.input_ids_BT.shape, forward="target" in axes, meeting=meeting)
    weights_N = batch.weights_BT[rows_N, positions_N]
    with (
        plain_experts(model),
        checkpointed(model, activation_checkpointing and bool(scaled)),
        packed_attention(model, batch.packed_lengths, mode),
        carried_by(model, list(scaled.values())),
        torch.set_grad_enabled(bool(scaled)),
    ):
        with mode:
            logits_1NV = model(**model_inputs(wide)).logits
            if logits_1NV.shape[:2] != (1, len(rows_N)):
                raise NotImplementedError(
                    f"{type(model).__name__} applies its language-model head in an unknown way (logits {list(logits_1NV.shape)}, expected "
                    f"[1, {len(rows_N)}, vocabulary]); it is not supported"
                )
            logits_NV = logits_1NV[0] if logits_1NV.dtype == torch.float64 else logits_1NV[0].float()
            log_probs_NV = functional.log_softmax(logits_NV, dim=-1)
            losses_N = token_losses(log_probs_NV, batch.input_ids_BT[rows_N, positions_N])
        weights_N = weights_N.to(losses_N.dtype)
        if scaled and len(rows_N):
            (losses_N * weights_N).sum().backward()  # type: ignore[no-untyped-call]
            mode.context.add_head(mode.predictors, mode.target_KN)

    def scatter(values_N: Tensor) -> Tensor:
        values_BT = torch.full(batch.weights_BT.shape, torch.nan, dtype=losses_N.dtype, device=losses_N.device)
        values_BT[rows_N, positions_N] = values_N.to(losses_N.dtype)
        return values_BT

    width = batch.input_ids_BT.shape[1]
    with torch.no_grad():
        of_prediction = signals_of(
            log_probs_NV.detach(), batch.input_ids_BT[rows_N, positions_N], mode.head_input_norms_N, ("entropy", *signals)
        )
        return ProbeResult(
            target_BT={n: scatter(mode.target_KN[k] / weights_N * factors[n]) for k, n in enumerate(scaled) if "target" in axes},
            context_BT={n: mode.context.values_KBT[k, :, :width] * factors[n] for k, n in enumerate(scaled) if "context" in axes},
            loss_BT=scatter(losses_N.detach()),
            entropy_BT=scatter(of_prediction.pop("entropy")),
            signals_BT={name: scatter(values_N) for name, values_N in of_prediction.items()},
        )


def _check(model: nn.Module, axes: Sequence[str], signals: Sequence[str]) -> None:
    if any(p.requires_grad for p in model.parameters()):
        raise ValueError("probe: the model has parameters with requires_grad; call model.requires_grad_(False).eval() first")
    if not axes or not set(axes) <= set(BOTH_AXES):
        raise ValueError(f"probe: axes {list(axes)}, expected one or both of {list(BOTH_AXES)}")
    if not set(signals) <= set(SIGNALS):
        raise ValueError(f"probe: signals {list(signals)}, expected some of {list(SIGNALS)}")


def _meeting(model: nn.Module, axes: Sequence[str]) -> Meeting:
    """Choose how the context axis is read: at attention's boundaries where attention alone mixes positions and tangents travel anyway."""
    if "context" not in axes:
        return Meeting.NOWHERE
    return Meeting.BOUNDARY if "target" in axes and attention_alone_mixes(model) else Meeting.OWN


def _refuse_fused(model: nn.Module, directions: Mapping[str, Direction]) -> None:
    """Refuse fused experts where contributions are collected at each use: their rows are in the order of experts, not of positions."""
    fused = sorted({name for direction in directions.values() for name, tensor in direction.items() if len(tensor.shape) > 2})
    if fused:
        raise ValueError(
            f"{type(model).__name__}: {fused[0]} holds several matrices, whose rows do not show which position they act at. Ask for both axes of "
            "a model that runs on scaled_dot_product_attention, or leave such parameters out of scope with scoring.scope_exclude: ['*experts*']"
        )


def _head_weight(model: nn.Module) -> Tensor:
    head = model.get_output_embeddings()  # type: ignore[operator]
    if type(head) is not nn.Linear:
        raise ValueError(f"probe: the language-model head is {type(head).__name__}, expected torch.nn.Linear; this model is not supported")
    return head.weight


def _with_telling_width(model: nn.Module, batch: TokenBatch) -> TokenBatch:
    """Pad by one position where the width equals a number of heads: [B, T, heads] and [B, heads, T] must not look alike."""
    config = model.config.get_text_config()  # type: ignore[operator,union-attr]
    if batch.packed_lengths is not None or batch.input_ids_BT.shape[1] not in {
        getattr(config, "num_attention_heads", 0),
        getattr(config, "num_key_value_heads", 0),
    }:
        return batch
    return batch.map(lambda tensor_BT: functional.pad(tensor_BT, (0, 1)))


def scale_directions(model: nn.Module, directions: Mapping[str, Direction]) -> ScaledDirections:
    """Bring directions to the model's device and dtype, with the norm of the parameters in their scope.

    Returns:
        the directions as `probe` takes them.

    Raises:
        ValueError: a direction names a parameter the model has not, or has another shape.
    """
    parameters = dict(model.named_parameters())
    scaled: dict[str, dict[str, DirectionTensor]] = {}
    factors: dict[str, float] = {}
    for name, direction in directions.items():
        for key, tensor in direction.items():
            if key not in parameters or parameters[key].shape != tensor.shape:
                found = list(parameters[key].shape) if key in parameters else "no such parameter"
                raise ValueError(
                    f"direction {name!r}: tensor {key!r} of shape {list(tensor.shape)}; the model has {found}. "
                    "The direction was made for another model or scope: remake it (--refresh-scoring)"
                )
        norm = total_norm(direction.values())
        size = total_norm(parameters[key].detach() for key in direction)
        # A zero direction (stability at the reference) stays zero: any factor will do.
        factors[name] = norm / size if norm > 0 and size > 0 else 1.0
        scaled[name] = {key: _scaled(tensor, factors[name], parameters[key]) for key, tensor in direction.items()}
    return ScaledDirections(scaled, factors)


def _scaled(tensor: DirectionTensor, factor: float, like: Tensor) -> DirectionTensor:
    if isinstance(tensor, LowRank):
        root = factor**0.5
        return LowRank(*(_to(part.double() / root, like) for part in (tensor.left_OR, tensor.right_IR)))
    return _to(tensor.double() / factor, like)


def _to(tensor: Tensor, like: Tensor) -> Tensor:
    return tensor.to(device=like.device, dtype=like.dtype)


def total_norm(tensors: Iterable[DirectionTensor]) -> float:
    """Return the Euclidean norm over several tensors, accumulated in float64."""
    return float(sum(_square(t) for t in tensors) ** 0.5)


def _square(tensor: DirectionTensor) -> float:
    if isinstance(tensor, LowRank):
        left, right = tensor.left_OR.double(), tensor.right_IR.double()
        return float(((left.mT @ left) * (right.mT @ right)).sum())
    return float(tensor.double().square().sum())
