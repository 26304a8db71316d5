"""The models of the controlled world: pre-trained on the old skills, perhaps with some of the new one; and their exact accuracies."""

import hashlib
import json
import random
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import nn
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from bench.worlds.skills import OLD, VOCABULARY, Example, chain, encode
from models.batches import collate
from models.losses import counted, log_probabilities, model_inputs
from models.settings import WarmupSettings
from models.training import Sequences, fit

SHAPES = {"1M": (160, 4, 4), "4M": (256, 5, 4), "30M": (512, 10, 8), "150M": (1024, 12, 16)}
"""Hidden size, layers, heads of a Llama."""

REGIMES = {"novice": 0, "competent": 400}
"""Steps that the pre-trained model goes on with half of the data the new skill, clean."""


def examples_of(make: Callable[[random.Random], Example], number: int, seed: int) -> list[Example]:
    """Draw examples of one skill."""
    rng = random.Random(seed)
    return [make(rng) for _ in range(number)]


def sequences_of(examples: Sequence[Example]) -> Sequences:
    """Encode examples, the answers counted."""
    return [encode(one.prompt, one.answer) for one in examples]


def pretrained(size: str, regime: str, steps: int, seed: int, device: torch.device, cache: Path) -> nn.Module:
    """Pre-train a model on the old skills, or read the one of an earlier run.

    Args:
        size: one of `SHAPES`.
        regime: one of `REGIMES`; `competent` begins where `novice` ends.
        steps: optimizer steps of 64 sequences, on the old skills alone.
        seed: seed of weights and data.
        device: where the model lies.
        cache: folder of finished models.

    Returns:
        the frozen model.
    """
    hidden, layers, heads = SHAPES[size]
    recipe = json.dumps([hidden, layers, heads, regime, REGIMES[regime], steps, seed, list(VOCABULARY), list(OLD)])
    folder = cache / f"{size}-{regime}-{hashlib.sha256(recipe.encode()).hexdigest()[:12]}"
    if not (folder / "config.json").is_file():
        if regime == "novice":
            torch.manual_seed(seed)
            start: nn.Module = LlamaForCausalLM(LlamaConfig(
                vocab_size=len(VOCABULARY), hidden_size=hidden, intermediate_size=hidden * 8 // 3 // 8 * 8, num_hidden_layers=layers,
                num_attention_heads=heads, max_position_embeddings=128, tie_word_embeddings=False, bos_token_id=1, eos_token_id=2, pad_token_id=0,
            )).to(device)  # fmt: skip
            model = _train(start, _old(steps * 64 // 2, seed), steps, 1e-3, seed)
        else:
            number = REGIMES[regime] * 32
            rows = _old(number, seed + 1) + examples_of(chain, number, 100 * seed + 50)
            model = _train(pretrained(size, "novice", steps, seed, device, cache), rows, REGIMES[regime], 5e-4, seed)
        model.save_pretrained(folder)  # type: ignore[operator]
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).to(device)
    return model.requires_grad_(False).eval()  # type: ignore[no-any-return]


def _old(number: int, seed: int) -> list[Example]:
    """Draw examples of the old skills."""
    return [one for i, make in enumerate(OLD.values()) for one in examples_of(make, number // len(OLD), 100 * seed + i)]


def _train(model: nn.Module, rows: Sequence[Example], steps: int, learning_rate: float, seed: int) -> nn.Module:
    began = time.monotonic()

    def progress(done: int, all_steps: int, loss: float) -> None:
        left = (time.monotonic() - began) / done * (all_steps - done)
        if done % 20 == 0:
            sys.stderr.write(f"\rpre-training, step {done} of {all_steps}, loss {loss:.3f}, {left:.0f} s left ")

    # whole sequences count, so that the model knows prompts, too, and can sample text from its start token
    sequences = [(ids, list(range(1, len(ids)))) for ids, _ in sequences_of(rows)]
    fitted = fit(model, sequences, WarmupSettings(steps=steps, batch_size=64, learning_rate=learning_rate, seed=seed), progress)
    sys.stderr.write("\n")
    return fitted


def accuracy_and_loss(model: nn.Module, examples: Sequence[Example], batch_size: int = 256) -> tuple[float, float]:
    """Measure a skill.

    With one right answer, greedy decoding gives it exactly where every word of it is the most likely one after the words before, so one
    forward pass is enough.

    Returns:
        (share of examples answered exactly; mean loss of the words of answers, in nats).
    """
    device = next(model.parameters()).device
    right, losses = 0, 0.0
    words = sum(len(one.answer) for one in examples)
    for start in range(0, len(examples), batch_size):
        chunk = sequences_of(examples[start : start + batch_size])
        batch = collate([ids for ids, _ in chunk], [positions for _, positions in chunk]).to(device)
        rows_N, positions_N = counted(batch)
        ids_N = batch.input_ids_BT[rows_N, positions_N]
        with torch.no_grad():
            log_probs_NV = log_probabilities(model(**model_inputs(batch)).logits, rows_N, positions_N)
        wrong_B = torch.zeros(len(chunk), dtype=torch.long, device=device).index_add_(0, rows_N, (log_probs_NV.argmax(-1) != ids_N).long())
        right += int((wrong_B == 0).sum())
        losses -= float(log_probs_NV.gather(-1, ids_N[:, None]).sum())
    return right / len(examples), losses / words


def measure(model: nn.Module, number: int = 256) -> Mapping[str, float]:
    """Measure the new skill and the old ones on examples that no training saw.

    Returns:
        `target` and `target_loss` of the new skill; per old skill its accuracy; `old` and `old_loss`, their means.
    """
    target, target_loss = accuracy_and_loss(model, examples_of(chain, number, 10_001))
    by_skill = {name: accuracy_and_loss(model, examples_of(make, number, 10_100 + i)) for i, (name, make) in enumerate(OLD.items())}
    means = [sum(pair[i] for pair in by_skill.values()) / len(by_skill) for i in (0, 1)]
    return {"target": target, "target_loss": target_loss, **{n: a for n, (a, _) in by_skill.items()}, "old": means[0], "old_loss": means[1]}
