"""Pre-trains the demo's base model: a small Llama with a vocabulary of whole words."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from models.settings import WarmupSettings

CODE_VERSION = 1
"""Bumped by hand when the same texts would give another model."""

_SPECIAL = ("<unk>", "<s>", "</s>")


def word_tokenizer(words: Sequence[str]) -> Any:
    """Build a tokenizer with one token per word; `▁` marks the space before it.

    Returns:
        a fast tokenizer of transformers with <s> and </s>.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    ids = {token: i for i, token in enumerate([*_SPECIAL, *(f"▁{word}" for word in words)])}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token=_SPECIAL[0]))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token=_SPECIAL[0], bos_token=_SPECIAL[1], eos_token=_SPECIAL[2])


def pretrain(
    words: Sequence[str], texts: Sequence[str], settings: WarmupSettings, folder: Path, progress: Callable[[int, int, float], None]
) -> float:
    """Train a small Llama from scratch on texts and save it with its tokenizer.

    Args:
        words: the vocabulary.
        texts: texts of words separated by spaces.
        settings: steps, batch size, learning rate, seed.
        folder: where to save.
        progress: called with (steps done, all steps, loss).

    Returns:
        training loss over the last tenth of the steps, nats per token.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from models.training import fit

    tokenizer = word_tokenizer(words)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=96, intermediate_size=256, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=4,
        max_position_embeddings=128, tie_word_embeddings=True, bos_token_id=1, eos_token_id=2, pad_token_id=None,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(settings.seed)
        model = LlamaForCausalLM(config)
    encoded = [[1, *ids, 2] for ids in tokenizer(list(texts), add_special_tokens=False)["input_ids"]]
    losses: list[float] = []

    def note(done: int, steps: int, loss: float) -> None:
        losses.append(loss)
        progress(done, steps, loss)

    trained: Any = fit(model, [(ids, list(range(1, len(ids)))) for ids in encoded], settings, note)
    trained.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    tail = losses[-max(1, len(losses) // 10) :]
    return sum(tail) / len(tail)
