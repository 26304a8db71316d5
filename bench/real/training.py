"""Training on weighted tokens, the base that knows the target already, and what a model is measured by."""

import hashlib
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bench.real.data import LENGTHS, MIN_PROMPT_TOKENS, REAL, Example, stories
from models.batches import TokenBatch, collate, plan_batches
from models.chat import TokenizedSequence, TokenizeSettings, tokenize_examples
from models.losses import IGNORED_LABEL, masked_loss_sum, mean_token_loss, model_inputs
from models.reference import load_model, load_tokenizer
from models.settings import WarmupSettings
from models.training import Sequences, batches_of_rows, fit, learning_rate_factor

NUM_STORIES = 96
"""Stories that retention is measured on; the base is mid-trained on others."""


def base_folder(model: str, data: str, prior: Sequence[Example], regime: str, steps: int, cache: Path) -> Path:
    """Find the model to start from: as it was published (`novice`), or mid-trained on clean target rows and stories, half and half (`competent`).

    Args:
        model: name of the published model.
        data: name of the target data.
        prior: clean rows.
        regime: `novice` or `competent`.
        steps: optimizer steps of 16 sequences.
        cache: folder of mid-trained models.

    Returns:
        the model's folder.
    """
    published = REAL / "models" / model
    if regime == "novice":
        return published
    digest = hashlib.sha256(json.dumps([steps, LENGTHS[model], [(one.prompt, one.response) for one in prior]]).encode()).hexdigest()[:12]
    folder = cache / f"{model}-{data}-{digest}"
    if not (folder / "config.json").is_file():
        tokenizer = load_tokenizer(published)
        target, texts = tokenized(prior, tokenizer, LENGTHS[model]), story_sequences(tokenizer, LENGTHS[model], measured=False)
        rows = [*random.Random(0).choices(target, k=8 * steps), *random.Random(1).choices(texts, k=8 * steps)]
        trained: Any = fit(load_model(published, torch.device("cpu")), rows, WarmupSettings(steps=steps, batch_size=16, learning_rate=2e-3))
        trained.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return folder


def tokenized(examples: Sequence[Example], tokenizer: Any, longest: int) -> Sequences:
    """Tokenize clean rows by the product's rule."""
    settings = TokenizeSettings(max_length=longest, min_prompt_tokens=MIN_PROMPT_TOKENS, separator="\n")
    found = tokenize_examples([{"prompt": one.prompt, "response": one.response} for one in examples], tokenizer, settings)
    return [(one.token_ids, one.response_positions) for one in found if isinstance(one, TokenizedSequence)]


def story_sequences(tokenizer: Any, longest: int, *, measured: bool) -> Sequences:
    """Tokenize stories, those to measure by or the others: every token but the first counts."""
    texts = stories()[:NUM_STORIES] if measured else stories()[NUM_STORIES + 512 :]
    ids = tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
    cut = [[tokenizer.bos_token_id, *one][:longest] for one in ids]
    return [(one, list(range(1, len(one)))) for one in cut]


def batches_of(sequences: Sequences, batch_tokens: int = 4096) -> list[TokenBatch]:
    """Put sequences of like lengths into batches."""
    plan = plan_batches([(f"{i:06d}", len(ids)) for i, (ids, _) in enumerate(sequences)], batch_tokens)
    chosen = [[sequences[int(i)] for i in batch] for batch in plan]
    return [collate([ids for ids, _ in batch], [positions for _, positions in batch]) for batch in chosen]


def measure(model: nn.Module, target: list[TokenBatch], retention: list[TokenBatch]) -> tuple[float, float]:
    """Measure (target loss, retention loss), nats per token."""
    return mean_token_loss(model, target)[0], mean_token_loss(model, retention)[0]


def train(
    model: nn.Module, sequences: Sequences, weights: Sequence[Sequence[float]], settings: WarmupSettings, *, by_probability: bool = False
) -> nn.Module:
    """Train a model in place on Σ w ℓ / Σ w of each batch (Eq. 13 with soft weights): the optimizer and schedule of `models.training.fit`.

    Args:
        model: the model.
        sequences: (token ids, response positions) of each.
        weights: weight of each response position; 0 leaves it out. A batch without any is skipped.
        settings: steps, batch size, learning rate, seed.
        by_probability: multiply each weight by the token's present probability, no gradient through it (dynamic fine-tuning).

    Returns:
        the same model, frozen.
    """
    model.requires_grad_(True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.learning_rate, betas=(0.9, 0.95), weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate_factor(step, settings.steps))
    for chosen in batches_of_rows(len(sequences), settings):
        batch = collate([sequences[i][0] for i in chosen], [sequences[i][1] for i in chosen])
        weights_BT = torch.zeros_like(batch.weights_BT)
        for row, i in enumerate(chosen):
            weights_BT[row, torch.as_tensor(sequences[i][1])] = torch.as_tensor(weights[i], dtype=torch.float32)
        labels_BT = torch.where(weights_BT > 0, batch.input_ids_BT, IGNORED_LABEL)
        logits_BTV: Tensor = model(**model_inputs(batch)).logits
        if by_probability:
            weights_BT[:, 1:] *= _probabilities(logits_BTV, batch.input_ids_BT)
        total, number = masked_loss_sum(logits_BTV, labels_BT, weights_BT)
        if int(number):
            optimizer.zero_grad(set_to_none=True)
            divisor = number if by_probability else weights_BT[:, 1:].sum()
            (total / divisor).backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
        schedule.step()
    return model.requires_grad_(False).eval()


@torch.no_grad()
def _probabilities(logits_BTV: Tensor, input_ids_BT: Tensor) -> Tensor:
    return torch.softmax(logits_BTV[:, :-1], -1).gather(-1, input_ids_BT[:, 1:, None]).squeeze(-1)
