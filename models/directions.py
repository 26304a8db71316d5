"""The two directions of DESIGN 3.1: D_A = ∇L_val(θ), and D_S = F ⊙ (θ − θ_ref) with the self-sampled diagonal Fisher F of θ_ref."""

import hashlib
import math
import os
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from models.batches import TokenBatch
from models.fisher import trainable
from models.losses import counted, log_probabilities, model_inputs, token_losses
from models.probe import total_norm
from models.settings import Scaling


def in_scope(names: Sequence[str], exclude: Sequence[str], setting: str = "scoring") -> list[str]:
    """Leave out the parameters that match a pattern of a setting.

    Args:
        names: names of parameters.
        exclude: patterns of names, `*` for any text.
        setting: section whose `scope_exclude` the patterns are.

    Returns:
        names in their order.

    Raises:
        ValueError: a pattern matches nothing, or everything is left out.
    """
    for pattern in exclude:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise ValueError(
                f"{setting}.scope_exclude: pattern {pattern!r} matches none of {len(names)} parameters, for example {names[:3]}"
            )
    kept = [name for name in names if not any(fnmatchcase(name, pattern) for pattern in exclude)]
    if not kept:
        raise ValueError(f"{setting}.scope_exclude: {list(exclude)} leaves no parameter in scope")
    return kept


def validation_gradient(model: nn.Module, batches: Sequence[TokenBatch], scope: Sequence[str]) -> tuple[dict[str, Tensor], float]:
    """Compute D_A = ∇_θ L_val(θ), L_val the mean loss over all response tokens of the validation set (one token mean).

    Args:
        model: the scoring model, float32; its parameters are frozen again afterwards.
        batches: validation sequences, response tokens weighted.
        scope: names of the parameters to differentiate.

    Returns:
        (D_A per parameter, float32 on the CPU, nats per unit of parameter; L_val in nats per token).

    Raises:
        ValueError: the validation set has no response token with a loss.

    Source: arXiv 2606.01635 Eq. 7. Reference test: tests/models/test_directions.py::test_validation_gradient_is_a_token_mean
    """
    parameters = dict(model.named_parameters())
    device = next(iter(parameters.values())).device
    gradient = {name: torch.zeros_like(parameters[name]) for name in scope}
    total, num_tokens = 0.0, 0
    with trainable(parameters, scope):
        for batch in batches:
            on_device = batch.to(device)
            rows_N, positions_N = counted(on_device)
            if not len(rows_N):
                continue
            log_probs_NV = log_probabilities(model(**model_inputs(on_device)).logits, rows_N, positions_N)
            loss = token_losses(log_probs_NV, on_device.input_ids_BT[rows_N, positions_N]).sum()
            for name, grad in zip(scope, torch.autograd.grad(loss, [parameters[n] for n in scope]), strict=True):
                gradient[name] += grad
            total += loss.item()
            num_tokens += len(rows_N)
    if num_tokens == 0:
        raise ValueError("the validation set has no response token with a loss; check data.validation")
    return {name: (g / num_tokens).cpu() for name, g in gradient.items()}, total / num_tokens


def preference_gradient(
    model: nn.Module, reference: nn.Module, batches: Sequence[TokenBatch], scope: Sequence[str], beta: float
) -> tuple[dict[str, Tensor], float, float]:
    """Compute D_A for a validation set of pairs: ∇_θ of the mean over pairs of DPO's loss −log σ(s).

    s = β ((log π⁺ − log ref⁺) − (log π⁻ − log ref⁻)) over all response tokens with a loss, so the gradient is that of
    Σ ω (Σ ℓ⁺ − Σ ℓ⁻) / number of pairs, ω = β σ(−s).

    Args:
        model: the scoring model, float32; its parameters are frozen again afterwards.
        reference: the reference model, float32, frozen, on the same device.
        batches: pairs: the first half of the rows are the chosen responses, the second half the rejected ones in the same order.
        scope: names of the parameters to differentiate.
        beta: β.

    Returns:
        (D_A per parameter, float32 on the CPU, nats per unit of parameter; mean loss in nats per pair; share of pairs with s > 0).

    Raises:
        ValueError: there is no pair.

    Source: arXiv 2606.01635 Eq. 14; DESIGN 3.5. Reference test: tests/models/test_directions.py::test_preference_gradient_is_that_of_the_mean_dpo_loss
    """
    parameters = dict(model.named_parameters())
    device = next(iter(parameters.values())).device
    gradient = {name: torch.zeros_like(parameters[name]) for name in scope}
    total, num_right, num_pairs = 0.0, 0, 0
    with trainable(parameters, scope):
        for batch in batches:
            on_device = batch.to(device)
            with torch.no_grad():
                anchored_B = _response_losses(reference, on_device)
            ratios_B = anchored_B - _response_losses(model, on_device)
            margins_P = beta * (ratios_B[: len(ratios_B) // 2] - ratios_B[len(ratios_B) // 2 :])
            loss = -functional.logsigmoid(margins_P).sum()
            for name, grad in zip(scope, torch.autograd.grad(loss, [parameters[n] for n in scope]), strict=True):
                gradient[name] += grad
            total += loss.item()
            num_right += int((margins_P > 0).sum())
            num_pairs += len(margins_P)
    if num_pairs == 0:
        raise ValueError("the validation set has no pair; check data.validation")
    return {name: (g / num_pairs).cpu() for name, g in gradient.items()}, total / num_pairs, num_right / num_pairs


def _response_losses(model: nn.Module, batch: TokenBatch) -> Tensor:
    """Sum the losses of each row's counted tokens: −log π of its response, [B], float64, nats."""
    rows_N, positions_N = counted(batch)
    log_probs_NV = log_probabilities(model(**model_inputs(batch)).logits, rows_N, positions_N)
    losses_N = token_losses(log_probs_NV, batch.input_ids_BT[rows_N, positions_N]).double()
    return losses_N.new_zeros(len(batch.input_ids_BT)).index_add(0, rows_N, losses_N)


def fisher_drift(fisher: Mapping[str, Tensor], parameters: Mapping[str, Tensor], reference: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Compute D_S = F ⊙ (θ − θ_ref), the Fisher-drift proxy of the retention gradient (arXiv 2606.01635 Eq. 11).

    Returns:
        D_S per parameter in the scope of F, float32; zero where θ = θ_ref.
    """
    return {name: f * (parameters[name].float() - reference[name].float()) for name, f in fisher.items()}


def scale_tensors(direction: Mapping[str, Tensor], scaling: Scaling) -> dict[str, Tensor]:
    """Scale the tensors of a direction against one another.

    Args:
        direction: parameter name to tensor.
        scaling: `none`; `tensor_norm`, the same norm for every tensor that is not zero, the norm of the whole kept.

    Returns:
        the scaled direction; zero tensors stay zero.
    """
    if scaling == "none":
        return dict(direction)
    norms = {name: total_norm([t]) for name, t in direction.items()}
    num_moving = sum(norm > 0 for norm in norms.values())
    each = total_norm(direction.values()) / math.sqrt(max(num_moving, 1))
    return {name: (t.double() * (each / norms[name])).to(t.dtype) if norms[name] > 0 else t for name, t in direction.items()}


def divergence_gradient(
    model: nn.Module, reference: nn.Module, batches: Sequence[TokenBatch], scope: Sequence[str]
) -> tuple[dict[str, Tensor], float]:
    """Compute ∇_θ of the mean KL(p_θ_ref ‖ p_θ) over the counted tokens of texts: what a step must not raise if nothing is to be forgotten.

    On text that the reference itself wrote, the mean over texts of its loss has this gradient (the entropy of p_θ_ref does not move), and
    to first order in the drift it is the whole Fisher times the drift, of which F ⊙ (θ − θ_ref) keeps the diagonal. Costs a forward
    pass of both models and one backward pass, batched. The teacher's whole distribution is the label, so sampling noise is in the texts alone.

    Args:
        model: the scoring model, float32; its parameters are frozen again afterwards.
        reference: the reference model, float32, frozen, on the same device.
        batches: texts, tokens that count weighted; the same weights for all.
        scope: names of the parameters to differentiate.

    Returns:
        (gradient per parameter, float32 on the CPU, nats per token and unit of parameter, exactly zero where both models are equal; the mean
        divergence in nats per token).

    Raises:
        ValueError: no token counts.

    Source: DESIGN 3.1. Reference test: tests/models/test_directions.py::test_divergence_gradient_is_that_of_the_mean_kl
    """
    parameters, anchor = dict(model.named_parameters()), dict(reference.named_parameters())
    device = next(iter(parameters.values())).device
    gradient = {name: torch.zeros_like(parameters[name]) for name in scope}
    if all(torch.equal(p, anchor[name]) for name, p in parameters.items()):
        return {name: g.cpu() for name, g in gradient.items()}, 0.0
    total, num_tokens = 0.0, 0
    with trainable(parameters, scope):
        for batch in batches:
            on_device = batch.to(device)
            rows_N, positions_N = counted(on_device)
            if not len(rows_N):
                continue
            with torch.no_grad():
                teacher_NV = log_probabilities(reference(**model_inputs(on_device)).logits, rows_N, positions_N)
            student_NV = log_probabilities(model(**model_inputs(on_device)).logits, rows_N, positions_N)
            divergence = functional.kl_div(student_NV, teacher_NV, reduction="sum", log_target=True)
            for name, grad in zip(scope, torch.autograd.grad(divergence, [parameters[n] for n in scope]), strict=True):
                gradient[name] += grad
            total += divergence.item()
            num_tokens += len(rows_N)
    if num_tokens == 0:
        raise ValueError("no token of the texts counts; check scoring.fisher")
    return {name: (g / num_tokens).cpu() for name, g in gradient.items()}, total / num_tokens


def energy_shares(direction: Mapping[str, Tensor], number: int = 10) -> dict[str, float]:
    """Tell which tensors hold a direction's energy.

    Returns:
        the tensors of the largest shares of the squared norm, largest first, as many as asked for; all 0 for a zero direction.
    """
    energy = {name: t.double().square().sum().item() for name, t in direction.items()}
    total = sum(energy.values()) or 1.0
    return {name: energy[name] / total for name in sorted(energy, key=lambda name: (-energy[name], name))[:number]}


def cosine(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> float:
    """Return the cosine of two directions over the parameters of both, accumulated in float64; NaN where one of them is zero there."""
    names = [name for name in one if name in other]
    dot, one_square, other_square = (
        sum((a[n].double() * b[n].double()).sum().item() for n in names) for a, b in ((one, other), (one, one), (other, other))
    )
    return dot / math.sqrt(one_square * other_square) if one_square > 0 and other_square > 0 else math.nan


def save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Save tensors as safetensors, complete or not at all."""
    partial = path.with_suffix(".partial")
    partial.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: t.contiguous() for name, t in tensors.items()}, partial)
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    partial.replace(path)


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Load what `save_tensors` wrote."""
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # ruff: ignore[in-dict-keys] - no mapping


def content_digest(tensors: Mapping[str, Tensor]) -> str:
    """Digest names, shapes, dtypes and bytes of tensors, names sorted: 32 hexadecimal digits (BLAKE2b, 16 bytes)."""
    state = hashlib.blake2b(digest_size=16)
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        state.update(f"{name}|{list(tensor.shape)}|{tensor.dtype}|".encode())
        state.update(tensor.view(-1).view(torch.uint8).numpy().data)
    return state.hexdigest()
