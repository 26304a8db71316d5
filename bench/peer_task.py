"""The task that every tool is given: a small Llama with random weights, documents with a prompt and a response, a few of them for validation.

A folder holds it in the form each tool takes: `model/` (weights and a tokenizer), `documents.json` (ours, kronfluence) and one saved data set
per split (bergson). Imported in the environments of peers, too: at module level nothing but the standard library and numpy.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

IGNORED = -100
"""Label of a token without a loss."""
SPLITS = ("train", "validation", "warm_up")
"""`warm_up` holds the first two training documents: a first, untimed run on them loads what is loaded late."""


@dataclass(frozen=True, kw_only=True)
class TaskSizes:
    """Sizes of the common task.

    Attributes:
        documents: training documents.
        validation: validation documents.
        shortest: tokens of the shortest possible document.
        longest: tokens of the longest possible document.
        vocabulary: token ids.
        hidden: width of the model.
        layers: blocks of the model.
        positions: `max_position_embeddings`; no parameters hang on it, and bergson refuses a batch of more tokens.
        seed: of weights and documents.
    """

    documents: int = 512
    validation: int = 8
    shortest: int = 64
    longest: int = 128
    vocabulary: int = 512
    hidden: int = 128
    layers: int = 2
    positions: int = 8192
    seed: int = 0


@dataclass(frozen=True)
class Document:
    """One document.

    Attributes:
        input_ids: all tokens.
        labels: the same ids on response tokens, IGNORED on the prompt.
    """

    input_ids: list[int]
    labels: list[int]

    @property
    def response(self) -> list[int]:
        """Positions of the response tokens."""
        return [u for u, label in enumerate(self.labels) if label != IGNORED]


def draw_documents(sizes: TaskSizes, count: int, generator: np.random.Generator) -> list[Document]:
    """Draw documents of random tokens; the response begins after a quarter to a half of each and reaches to its end.

    Returns:
        `count` documents.
    """
    documents = []
    for length in generator.integers(sizes.shortest, sizes.longest + 1, count):
        ids = generator.integers(1, sizes.vocabulary, length).tolist()
        start = int(generator.integers(length // 4, length // 2 + 1))
        documents.append(Document(ids, [IGNORED] * max(1, start) + ids[max(1, start) :]))
    return documents


def write_task(folder: Path, sizes: TaskSizes) -> None:
    """Write model, tokenizer, documents and data sets."""
    generator = np.random.default_rng(sizes.seed)
    train, validation = (draw_documents(sizes, count, generator) for count in (sizes.documents, sizes.validation))
    splits = {"train": train, "validation": validation, "warm_up": train[:2]}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "documents.json").write_text(json.dumps({name: [vars(d) for d in documents] for name, documents in splits.items()}))
    _write_data_sets(folder, splits)
    _write_model(folder / "model", sizes)


def _write_data_sets(folder: Path, splits: dict[str, list[Document]]) -> None:
    from datasets import Dataset

    for name, documents in splits.items():
        columns = {"input_ids": [d.input_ids for d in documents], "labels": [d.labels for d in documents]}
        Dataset.from_dict(columns).save_to_disk(str(folder / name))


def _write_model(folder: Path, sizes: TaskSizes) -> None:
    """Save a Llama with random weights, wide enough that predictions are not flat, and a tokenizer (bergson loads one, and never uses it)."""
    import torch
    from tokenizers import Tokenizer, models
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    torch.manual_seed(sizes.seed)
    config = LlamaConfig(
        vocab_size=sizes.vocabulary, hidden_size=sizes.hidden, intermediate_size=4 * sizes.hidden, num_hidden_layers=sizes.layers,
        num_attention_heads=max(1, sizes.hidden // 32), num_key_value_heads=max(1, sizes.hidden // 32), initializer_range=0.08,
        max_position_embeddings=sizes.positions, tie_word_embeddings=False,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    words = Tokenizer(models.WordLevel({f"t{i}": i for i in range(sizes.vocabulary)}, unk_token="t0"))
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="t0").save_pretrained(folder)


def read_documents(folder: Path, split: str) -> list[Document]:
    """Read the documents of a split.

    Returns:
        documents in the order of the task.
    """
    return [Document(**row) for row in json.loads((folder / "documents.json").read_text())[split]]


def empty_values(documents: list[Document]) -> np.ndarray:
    """Make a table for values: float32, [documents, positions], NaN (no such row) everywhere."""
    return np.full((len(documents), max(len(d.input_ids) for d in documents)), np.nan, dtype=np.float32)
