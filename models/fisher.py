"""The diagonal Fisher of the reference model (DESIGN 3.1), and the texts it is estimated on."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from models.settings import FisherSettings

Progress = Callable[[int, int], None]
"""Called with (done, total)."""

Text = tuple[Sequence[int], Sequence[int]]
"""(token ids, positions whose tokens count, ascending, none of them 0)."""

MAX_PROMPT_TOKENS = 256
"""Tokens of a prompt that are kept, its last ones (arXiv 2606.01635: prompts of at most 256 tokens)."""


def whole_texts(sequences: Sequence[Sequence[int]]) -> list[Text]:
    """Count every token of a sequence but the first, which nothing predicts; sequences of one token are left out."""
    return [(ids, range(1, len(ids))) for ids in sequences if len(ids) > 1]


def sample_sequences(model: nn.Module, settings: FisherSettings, batch_size: int = 64) -> list[list[int]]:
    """Let the model write text: start token, then tokens at temperature 1 from the full distribution.

    Returns:
        token ids of each sequence, start token first, an end-of-text token kept as the last.

    Raises:
        ValueError: the model names no start token.
    """
    start = _Sampling(model, settings).start
    return [list(ids) for ids, _ in sample_continuations(model, [[start]] * settings.num_sequences, settings, batch_size)]


@torch.no_grad()
def sample_continuations(
    model: nn.Module, prompts: Sequence[Sequence[int]], settings: FisherSettings, batch_size: int = 64
) -> list[tuple[list[int], range]]:
    """Let the model go on from prompts, at temperature 1 from the full distribution.

    Args:
        model: the reference model, in eval mode.
        prompts: token ids; an empty one becomes the start token, a long one keeps its last tokens, as many as leave room for a text.
        settings: tokens sampled at most, seed; as many texts are sampled as there are prompts.
        batch_size: prompts that run together.

    Returns:
        (token ids of prompt and continuation, positions of the continuation), an end-of-text token kept as the last.

    Raises:
        ValueError: the model names no start token.
    """
    device = next(model.parameters()).device
    sampling = _Sampling(model, settings)
    own: Any = model.generation_config
    texts: list[tuple[list[int], range]] = []
    try:
        model.generation_config = sampling.plain  # generate fills what a configuration leaves open from the model's
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(settings.seed)
            for first in range(0, len(prompts), batch_size):
                cut = [list(p[-sampling.max_prompt_tokens :]) or [sampling.start] for p in prompts[first : first + batch_size]]
                width = max(map(len, cut))
                ids_BT = torch.tensor([[sampling.start] * (width - len(p)) + p for p in cut], device=device)
                mask_BT = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in cut], device=device)
                sampled_BT = model.generate(ids_BT, attention_mask=mask_BT, generation_config=sampling.plain)  # type: ignore[operator]
                texts += [sampling.cut(p, row[width:]) for p, row in zip(cut, sampled_BT.tolist(), strict=True)]
    finally:
        model.generation_config = own
    return texts


class _Sampling:
    """Sampling from the model's own distribution, with nothing of its generation settings but start and end tokens."""

    def __init__(self, model: nn.Module, settings: FisherSettings) -> None:
        """Configure.

        Raises:
            ValueError: the model names no start token.
        """
        from transformers import GenerationConfig

        own: Any = model.generation_config
        config: Any = model.config.get_text_config()  # type: ignore[operator,union-attr]
        named = own.eos_token_id if isinstance(own.eos_token_id, list) else [own.eos_token_id]
        self._ends = [int(e) for e in named if e is not None]
        starts = [t for t in (own.bos_token_id, getattr(config, "bos_token_id", None), *self._ends) if t is not None]
        if not starts:
            raise ValueError("the reference model names neither a bos_token_id nor an eos_token_id; set one in its generation_config.json")
        self.start = int(starts[0])
        longest = next((n for n in (getattr(config, key, None) for key in ("max_position_embeddings", "n_positions")) if n), None)
        num_tokens = settings.num_tokens if longest is None else min(settings.num_tokens, longest - 1)
        self.max_prompt_tokens = MAX_PROMPT_TOKENS if longest is None else min(MAX_PROMPT_TOKENS, longest - num_tokens)
        self.plain = GenerationConfig(
            do_sample=True, temperature=1.0, top_k=0, top_p=1.0, max_new_tokens=num_tokens, bos_token_id=self.start,
            eos_token_id=self._ends or None, pad_token_id=self._ends[0] if self._ends else self.start,
        )  # fmt: skip

    def cut(self, prompt: list[int], sampled: list[int]) -> tuple[list[int], range]:
        """Join a prompt and what was sampled, up to its first end-of-text token."""
        end = next((i for i, token in enumerate(sampled) if token in self._ends), len(sampled) - 1)
        ids = prompt + sampled[: end + 1]
        return ids, range(len(prompt), len(ids))


def diagonal_fisher(model: nn.Module, texts: Sequence[Text], scope: Sequence[str], progress: Progress | None = None) -> dict[str, Tensor]:
    """Estimate F: the mean over texts of (∇ Σ_u log p(z_u))² / number of counted tokens, one gradient per text.

    Args:
        model: the reference model, float32, eval mode.
        texts: token ids and the positions of the tokens that count: the sampled ones, or all of a given text. At least one text.
        scope: names of parameters.
        progress: called with (texts done, all).

    Returns:
        F per parameter, float32 on the CPU, ≥ 0, nats² per squared unit of parameter and token.

    Source: arXiv 2606.01635 Eq. 10; DESIGN 3.1. Reference test: tests/models/test_fisher.py::test_fisher_equals_the_slow_loop
    """
    parameters = dict(model.named_parameters())
    device = next(iter(parameters.values())).device
    fisher = {name: torch.zeros_like(parameters[name]) for name in scope}
    with trainable(parameters, scope):
        for done, (ids, positions) in enumerate(texts, start=1):
            ids_1T, positions_N = torch.tensor([ids], device=device), torch.tensor(positions, device=device)
            logits_NV = model(input_ids=ids_1T, use_cache=False).logits[0, positions_N - 1].float()
            total = torch.log_softmax(logits_NV, dim=-1).gather(-1, ids_1T[0, positions_N, None]).sum()
            for name, grad in zip(scope, torch.autograd.grad(total, [parameters[n] for n in scope]), strict=True):
                fisher[name].addcmul_(grad, grad, value=1.0 / (len(positions_N) * len(texts)))
            if progress is not None:
                progress(done, len(texts))
    return {name: f.cpu() for name, f in fisher.items()}


class trainable:  # ruff: ignore[invalid-class-name] - used as a statement
    """Parameters of a scope require gradients inside the block, and none do afterwards."""

    def __init__(self, parameters: Mapping[str, nn.Parameter], scope: Sequence[str]) -> None:
        """Name the parameters of the scope."""
        self._parameters = [parameters[name] for name in scope]

    def __enter__(self) -> None:
        for p in self._parameters:
            p.requires_grad_(True)

    def __exit__(self, *_: object) -> None:
        for p in self._parameters:
            p.requires_grad_(False)
