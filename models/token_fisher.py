"""The token-level Fisher of `value_propagation` (DESIGN 3.3), and the texts it is estimated on: prompts that the model continues."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from models.batches import collate, plan_batches
from models.blocks import Layer, last_blocks
from models.response_pass import response_pass
from models.settings import PropagationSettings

Text = tuple[list[int], list[int]]
"""(token ids, positions of the sampled tokens)."""

Progress = Callable[[int, int], None]
"""Called with (texts done, all)."""


@torch.no_grad()
def continue_prompts(model: nn.Module, prompts: Sequence[Sequence[int]], settings: PropagationSettings, batch_size: int = 64) -> list[Text]:
    """Let the model continue prompts at temperature 1 from the full distribution.

    Args:
        model: the reference model, float32, eval mode.
        prompts: token ids; of a long one the last tokens are kept, an empty one becomes the start token.
        settings: tokens kept of a prompt, tokens sampled at most, seed.
        batch_size: prompts that run together.

    Returns:
        the texts; each ends with its first end-of-text token, where one was sampled.

    Raises:
        ValueError: a prompt is empty and the model names no start token.
    """
    device = next(model.parameters()).device
    plain, ends, room = _plain_sampling(model, settings)
    if plain.bos_token_id is None and not all(len(p) for p in prompts):
        raise ValueError("a prompt is empty, and the reference model names no bos_token_id; set one in its generation_config.json")
    own: Any = model.generation_config
    texts: list[Text] = []
    try:
        model.generation_config = plain  # generate fills what a configuration leaves open from the model's
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(settings.seed)
            for first in range(0, len(prompts), batch_size):
                cut = [list(p[-room:]) or [plain.bos_token_id] for p in prompts[first : first + batch_size]]
                batch = collate(cut, [[] for _ in cut], pad_left=True).to(device)
                ids_BT = model.generate(batch.input_ids_BT, attention_mask=batch.attention_mask_BT, generation_config=plain)  # type: ignore[operator]
                for prompt, row in zip(cut, ids_BT[:, batch.input_ids_BT.shape[1] :].tolist(), strict=True):
                    end = next((i for i, token in enumerate(row) if token in ends), len(row) - 1)
                    texts.append((prompt + row[: end + 1], list(range(len(prompt), len(prompt) + end + 1))))
    finally:
        model.generation_config = own
    return texts


def _plain_sampling(model: nn.Module, settings: PropagationSettings) -> tuple[Any, set[int], int]:
    """Configure sampling from the model's own distribution, with nothing of its generation settings but start and end tokens.

    Returns:
        (a GenerationConfig, the ids that end a text, tokens of a prompt that leave room for the sample).
    """
    from transformers import GenerationConfig

    own: Any = model.generation_config
    config: Any = model.config.get_text_config()  # type: ignore[operator,union-attr]
    named = own.eos_token_id if isinstance(own.eos_token_id, list) else [own.eos_token_id]
    ends = [int(e) for e in named if e is not None]
    start = next((t for t in (own.bos_token_id, getattr(config, "bos_token_id", None), *ends) if t is not None), None)
    longest = getattr(config, "max_position_embeddings", None) or settings.fisher_prompt_tokens + settings.fisher_sampled_tokens
    sampled = min(settings.fisher_sampled_tokens, longest - 1)
    plain = GenerationConfig(
        do_sample=True, temperature=1.0, top_k=0, top_p=1.0, max_new_tokens=sampled, bos_token_id=start, eos_token_id=ends or None,
        pad_token_id=ends[0] if ends else 0,
    )  # fmt: skip
    return plain, set(ends), min(settings.fisher_prompt_tokens, longest - sampled)


def token_fisher(
    model: nn.Module,
    texts: Sequence[Text],
    scope: Sequence[str],
    num_blocks: int,
    batch_tokens: int = 8192,
    progress: Progress | None = None,
) -> dict[str, Tensor]:
    """Estimate the token-level F: the mean over texts of Σ_t δ_t² (h_t²)ᵀ, δ from the summed loss of the sampled tokens.

    A sum over positions of squares, not the square of a sum: so any number of texts may share a pass.

    Args:
        model: the reference model, float32, frozen, eval mode.
        texts: texts with the positions of their sampled tokens, at least one text with one.
        scope: names of weights of linear layers in the last blocks.
        num_blocks: K.
        batch_tokens: tokens of a pass, padding counted.
        progress: called with (texts done, all).

    Returns:
        F per weight, float32 on the CPU, ≥ 0, nats² per squared unit of the weight.

    Raises:
        ValueError: no token was sampled.

    Source: arXiv 2606.01635 Eq. 10; DESIGN 3.3. Reference test: tests/models/test_token_fisher.py::test_fisher_equals_the_slow_loop
    """
    if not any(positions for _, positions in texts):
        raise ValueError(f"token_fisher: none of {len(texts)} texts has a sampled token; the training snapshot has no usable prompt")
    blocks = last_blocks(model, num_blocks).within(scope)
    parameters = dict(model.named_parameters())
    fisher = {name: torch.zeros_like(parameters[name]) for name in scope}

    def meet(layer: Layer, inputs_BTI: Tensor, delta_BTO: Tensor) -> None:
        fisher[layer.name] += layer.outer(delta_BTO.flatten(0, 1).square(), inputs_BTI.flatten(0, 1).square())

    done = 0
    for plan in plan_batches([(f"{i:09d}", len(ids)) for i, (ids, _) in enumerate(texts)], batch_tokens):
        members = [texts[int(i)] for i in plan]
        batch = collate([ids for ids, _ in members], [positions for _, positions in members])
        response_pass(model, batch.to(next(iter(parameters.values())).device), blocks, meet)
        done += len(members)
        if progress is not None:
            progress(done, len(texts))
    return {name: (f / len(texts)).cpu() for name, f in fisher.items()}
