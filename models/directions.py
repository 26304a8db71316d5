"""The two directions of DESIGN 3.1: D_A = ∇L_val(θ), and D_S = F ⊙ (θ − θ_ref) with the self-sampled diagonal Fisher F of θ_ref."""

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from models.batches import TokenBatch
from models.losses import counted, log_probabilities, model_inputs, token_losses
from models.settings import FisherSettings

Progress = Callable[[int, int], None]
"""Called with (done, total)."""


def in_scope(names: Sequence[str], exclude: Sequence[str]) -> list[str]:
    """Leave out the parameters that match a pattern of `scoring.scope_exclude`.

    Returns:
        names in their order.

    Raises:
        ValueError: a pattern matches nothing, or everything is left out.
    """
    for pattern in exclude:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise ValueError(f"scoring.scope_exclude: pattern {pattern!r} matches none of {len(names)} parameters, for example {names[:3]}")
    kept = [name for name in names if not any(fnmatchcase(name, pattern) for pattern in exclude)]
    if not kept:
        raise ValueError(f"scoring.scope_exclude: {list(exclude)} leaves no parameter in scope")
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
    with _trainable(parameters, scope):
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


@torch.no_grad()
def sample_sequences(model: nn.Module, settings: FisherSettings, batch_size: int = 64) -> list[list[int]]:
    """Let the model write text: start token, then tokens at temperature 1 from the full distribution.

    Returns:
        token ids of each sequence, start token first, an end-of-text token kept as the last.

    Raises:
        ValueError: the model names no start token.
    """
    device = next(model.parameters()).device
    plain, ends = _plain_sampling(model, settings)
    own: Any = model.generation_config
    sequences: list[list[int]] = []
    try:
        model.generation_config = plain  # generate fills what a configuration leaves open from the model's
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(settings.seed)
            while len(sequences) < settings.num_sequences:
                rows = min(batch_size, settings.num_sequences - len(sequences))
                start_B1 = torch.full((rows, 1), plain.bos_token_id, device=device)
                ids_BT = model.generate(start_B1, attention_mask=torch.ones_like(start_B1), generation_config=plain)  # type: ignore[operator]
                for row in ids_BT.tolist():
                    end = next((i for i in range(1, len(row)) if row[i] in ends), len(row) - 1)
                    sequences.append(row[: end + 1])
    finally:
        model.generation_config = own
    return sequences


def _plain_sampling(model: nn.Module, settings: FisherSettings) -> tuple[Any, list[int]]:
    """Configure sampling from the model's own distribution, with nothing of its generation settings but start and end tokens.

    Returns:
        (a GenerationConfig, the ids that end a text).

    Raises:
        ValueError: the model names no start token.
    """
    from transformers import GenerationConfig

    own: Any = model.generation_config
    config: Any = model.config.get_text_config()  # type: ignore[operator,union-attr]
    named = own.eos_token_id if isinstance(own.eos_token_id, list) else [own.eos_token_id]
    ends = [int(e) for e in named if e is not None]
    starts = [t for t in (own.bos_token_id, getattr(config, "bos_token_id", None), *ends) if t is not None]
    if not starts:
        raise ValueError("the reference model names neither a bos_token_id nor an eos_token_id; set one in its generation_config.json")
    longest = next((n for n in (getattr(config, key, None) for key in ("max_position_embeddings", "n_positions")) if n), None)
    num_tokens = settings.num_tokens if longest is None else min(settings.num_tokens, longest - 1)
    plain = GenerationConfig(
        do_sample=True, temperature=1.0, top_k=0, top_p=1.0, max_new_tokens=num_tokens, bos_token_id=starts[0],
        eos_token_id=ends or None, pad_token_id=ends[0] if ends else starts[0],
    )  # fmt: skip
    return plain, ends


def diagonal_fisher(
    model: nn.Module, sequences: Sequence[Sequence[int]], scope: Sequence[str], progress: Progress | None = None
) -> dict[str, Tensor]:
    """Estimate F: the mean over sequences of (∇ Σ_u log p(z_u))² / number of sampled tokens, one gradient per sequence.

    Args:
        model: the reference model, float32, eval mode.
        sequences: token ids, the first is the start token and was not sampled.
        scope: names of parameters.
        progress: called with (sequences done, all).

    Returns:
        F per parameter, float32 on the CPU, ≥ 0, nats² per squared unit of parameter and token.

    Source: arXiv 2606.01635 Eq. 10; DESIGN 3.1. Reference test: tests/models/test_directions.py::test_fisher_equals_the_slow_loop
    """
    parameters = dict(model.named_parameters())
    device = next(iter(parameters.values())).device
    fisher = {name: torch.zeros_like(parameters[name]) for name in scope}
    with _trainable(parameters, scope):
        for done, ids in enumerate(sequences, start=1):
            ids_1T = torch.tensor([ids], device=device)
            log_probs = torch.log_softmax(model(input_ids=ids_1T, use_cache=False).logits[0, :-1].float(), dim=-1)
            total = log_probs.gather(-1, ids_1T[0, 1:, None]).sum()
            for name, grad in zip(scope, torch.autograd.grad(total, [parameters[n] for n in scope]), strict=True):
                fisher[name].addcmul_(grad, grad, value=1.0 / ((len(ids) - 1) * len(sequences)))
            if progress is not None:
                progress(done, len(sequences))
    return {name: f.cpu() for name, f in fisher.items()}


def fisher_drift(fisher: Mapping[str, Tensor], parameters: Mapping[str, Tensor], reference: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Compute D_S = F ⊙ (θ − θ_ref), the Fisher-drift proxy of the retention gradient (arXiv 2606.01635 Eq. 11).

    Returns:
        D_S per parameter in the scope of F, float32; zero where θ = θ_ref.
    """
    return {name: f * (parameters[name].float() - reference[name].float()) for name, f in fisher.items()}


class _trainable:
    """Parameters of a scope require gradients inside the block, and none do afterwards."""

    def __init__(self, parameters: Mapping[str, nn.Parameter], scope: Sequence[str]) -> None:
        self._parameters = [parameters[name] for name in scope]

    def __enter__(self) -> None:
        for p in self._parameters:
            p.requires_grad_(True)

    def __exit__(self, *_: object) -> None:
        for p in self._parameters:
            p.requires_grad_(False)


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
