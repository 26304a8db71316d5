"""The position × loss matrix of DESIGN 3.2, read along both axes: exact values of all tokens of a batch.

For a direction D, `J[u, p]` is the part of ⟨D, ∇ℓ_u⟩ that passes through the parameters' use at position p. It is never formed:

* target axis, `Σ_p J[u, p] = ⟨D, ∇ℓ_u⟩`: tangents along D travel forward with the activations;
* context axis, `Σ_{v>p} w_v J[v, p]`: δ travels back and meets D h at every layer (the token-level ghost dot product). No weight
  gradient and no per-token gradient exists at any time.

Cost in forward passes with K directions: 1 forward, 1 backward to activations, K tangents, K times D h: 6 for K = 2, two training
steps. The language-model head is applied to response tokens only.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.batches import TokenBatch
from models.losses import counted, entropies, model_inputs, token_losses
from models.tangents import Tangents, carried_by

Direction = Mapping[str, Tensor]
"""Parameter name (as in `model.named_parameters()`) to a tensor of its shape; absent parameters are out of scope."""


@dataclass(frozen=True)
class ProbeResult:
    """Values of one batch, NaN where a quantity does not exist; float32 (float64 for a float64 model), on the model's device.

    Attributes:
        target_BT: per direction, [B, T]: ⟨D, ∇ℓ_u⟩ at the counted tokens u, NaN elsewhere (prompt, padding, a first token). Unweighted.
        context_BT: per direction, [B, T]: Σ_{v>p} w_v J[v, p] at every real position p, prompt included; 0 on padding.
        loss_BT: [B, T], nats: ℓ_u at the counted tokens, NaN elsewhere.
        entropy_BT: [B, T], nats: entropy of the prediction of token u, NaN elsewhere.
    """

    target_BT: dict[str, Tensor]
    context_BT: dict[str, Tensor]
    loss_BT: Tensor
    entropy_BT: Tensor


@dataclass(frozen=True)
class ScaledDirections:
    """Directions ready for a pass: on the model's device, in its dtype, with the norm of the parameters in their scope.

    Attributes:
        tensors: name to scaled direction.
        factors: name to the factor that turns a value of the scaled direction into one of the original.
    """

    tensors: dict[str, dict[str, Tensor]]
    factors: dict[str, float]


def probe(model: nn.Module, batch: TokenBatch, directions: Mapping[str, Direction] | ScaledDirections) -> ProbeResult:
    """Value every response token of a batch against several directions, exactly, on both axes, in one pass.

    Directions are scaled to the norm of the parameters they belong to while they travel through the network and the values
    scaled back, so that half precision neither under- nor overflows. Over many batches, scale once with `scale_directions`.

    Args:
        model: a causal language model of transformers, in eval mode, all parameters frozen (`requires_grad` False).
        batch: sequences on the model's device, response tokens weighted.
        directions: name to direction; none at all gives the signals alone, for one forward pass.

    Returns:
        values and signals, see `ProbeResult`.

    Raises:
        ValueError: a direction does not fit the model, a parameter does not act position by position, or the model is not frozen.

    Source: arXiv 2606.01635 section 4; DESIGN 3.2. Reference test: tests/models/test_probe.py::test_exact_values_equal_the_slow_loop
    """
    if any(p.requires_grad for p in model.parameters()):
        raise ValueError("probe: the model has parameters with requires_grad; call model.requires_grad_(False).eval() first")
    prepared = directions if isinstance(directions, ScaledDirections) else scale_directions(model, directions)
    scaled, factors = prepared.tensors, prepared.factors
    rows_N, positions_N = counted(batch)
    wide = _with_telling_width(model, batch)
    mode = Tangents(len(scaled), _head_weight(model), rows_N, positions_N, wide.input_ids_BT.shape)
    with torch.set_grad_enabled(bool(scaled)), carried_by(model, list(scaled.values())), mode:
        logits_NV = model(**model_inputs(wide)).logits[0]
        logits_NV = logits_NV if logits_NV.dtype == torch.float64 else logits_NV.float()
        log_probs_NV = functional.log_softmax(logits_NV, dim=-1)
        losses_N = token_losses(log_probs_NV, batch.input_ids_BT[rows_N, positions_N])
    if scaled and len(rows_N):
        (losses_N * batch.weights_BT[rows_N, positions_N]).sum().backward()  # type: ignore[no-untyped-call]
    tangents = getattr(losses_N, "_tangents", (None,) * len(scaled))

    def scatter(values_N: Tensor | None, factor: float = 1.0) -> Tensor:
        values_BT = torch.full(batch.weights_BT.shape, torch.nan, dtype=losses_N.dtype, device=losses_N.device)
        values_BT[rows_N, positions_N] = torch.zeros_like(losses_N.detach()) if values_N is None else values_N.detach() * factor
        return values_BT

    width = batch.input_ids_BT.shape[1]
    with torch.no_grad():
        return ProbeResult(
            target_BT={name: scatter(t, factors[name]) for name, t in zip(scaled, tangents, strict=True)},
            context_BT={name: mode.context_KBT[k, :, :width] * factors[name] for k, name in enumerate(scaled)},
            loss_BT=scatter(losses_N),
            entropy_BT=scatter(entropies(log_probs_NV.detach())),
        )


def _head_weight(model: nn.Module) -> Tensor:
    head = model.get_output_embeddings()  # type: ignore[operator]
    if type(head) is not nn.Linear:
        raise ValueError(f"probe: the language-model head is {type(head).__name__}, expected torch.nn.Linear; this model is not supported")
    return head.weight


def _with_telling_width(model: nn.Module, batch: TokenBatch) -> TokenBatch:
    """Pad by one position where the width equals a number of heads: [B, T, heads] and [B, heads, T] must not look alike."""
    config = model.config.get_text_config()  # type: ignore[operator,union-attr]
    if batch.input_ids_BT.shape[1] not in {getattr(config, "num_attention_heads", 0), getattr(config, "num_key_value_heads", 0)}:
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
    scaled: dict[str, dict[str, Tensor]] = {}
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
        scaled[name] = {
            k: (t.double() / factors[name]).to(device=parameters[k].device, dtype=parameters[k].dtype) for k, t in direction.items()
        }
    return ScaledDirections(scaled, factors)


def total_norm(tensors: Iterable[Tensor]) -> float:
    """Return the Euclidean norm over several tensors, accumulated in float64."""
    return float(sum(t.double().square().sum().item() for t in tensors) ** 0.5)
