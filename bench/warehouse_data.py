"""Synthetic data sets for bench/warehouse.py, drawn shard by shard from a seed: lengths, ids and values shaped as those of real runs."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from warehouse.ingest import Ingested
from warehouse.write import PART_SCHEMAS, SEQUENCE_SCHEMA

SHARD_SEQUENCES = 8192
_MEAN_RESPONSE, _MEAN_PROMPT, _SPREAD = 250, 60, 0.6  # tokens; the spread is the deviation of the logarithm of a length
_LONGEST = 2048
_VOCABULARY, _ZIPF = 50_000, 1.3
_SOURCES = ("arithmetic", "code", "chat")
_WORDS = [
    "the",
    "of",
    "and",
    "to",
    "in",
    "is",
    "you",
    "that",
    "it",
    "he",
    "was",
    "for",
    "on",
    "are",
    "as",
    "with",
    "his",
    "they",
    "at",
    "be",
    "this",
    "have",
    "from",
    "or",
    "one",
    "had",
    "by",
    "word",
    "but",
    "not",
    "what",
    "all",
    "were",
]


@dataclass(frozen=True)
class Shard:
    """Up to 8,192 examples of one sequence each, in the tables that the product's own functions take.

    Attributes:
        examples: as `Ingested.examples`.
        sequences: of `SEQUENCE_SCHEMA`.
        values: of the scoring model: four components, loss and entropy.
        reference: of the reference model: loss.
    """

    examples: pl.DataFrame
    sequences: pa.Table
    values: pa.Table
    reference: pa.Table

    @property
    def num_tokens(self) -> int:
        """Response tokens."""
        return len(self.sequences.column("response_positions").combine_chunks().values)


def shards(num_tokens: int, seed: int = 0) -> Iterator[Shard]:
    """Draw shards until they hold `num_tokens` response tokens, to within one sequence. Ids are in no order, as digests are."""
    generator = np.random.Generator(np.random.Philox(seed))
    done = number = 0
    while done < num_tokens:
        lengths = _lengths(generator, _MEAN_RESPONSE)
        lengths = lengths[: int(np.searchsorted(np.cumsum(lengths), num_tokens - done)) + 1]
        yield _shard(generator, lengths, number)
        done, number = done + int(lengths.sum()), number + len(lengths)


def ingested(examples: pl.DataFrame) -> Ingested:
    """Wrap examples as `read_examples` returns them."""
    rejected = pl.DataFrame(schema={"file": pl.String, "line": pl.UInt32, "reason": pl.String, "raw": pl.String})
    return Ingested(examples.sort("example_id"), rejected, len(examples))


def write_jsonl(path: Path, num_examples: int, seed: int = 0) -> None:
    """Write examples as a user's file: prompt, response and source, 250 tokens' worth of words or so."""
    generator = np.random.Generator(np.random.Philox(seed))
    text = _text(generator)
    with path.open("w") as file:
        for begin in range(0, num_examples, SHARD_SEQUENCES):
            size = min(SHARD_SEQUENCES, num_examples - begin)
            places = generator.integers(0, len(text) - 8 * _LONGEST, size).tolist()
            lengths = (4 * _lengths(generator, _MEAN_RESPONSE)[:size]).tolist()
            for i, place, length in zip(range(begin, begin + size), places, lengths, strict=True):
                row = {"prompt": f"{i}: {text[place - 240 : place]}", "response": text[place : place + length], "source": _SOURCES[i % 3]}
                file.write(json.dumps(row) + "\n")


def _lengths(generator: np.random.Generator, mean: int) -> NDArray[np.int64]:
    drawn = generator.lognormal(np.log(mean) - _SPREAD**2 / 2, _SPREAD, SHARD_SEQUENCES)
    return np.clip(drawn, 2, _LONGEST).astype(np.int64)


def _text(generator: np.random.Generator) -> str:
    return " ".join(generator.choice(_WORDS, 1_000_000).tolist())


def _shard(generator: np.random.Generator, lengths: NDArray[np.int64], number: int) -> Shard:
    size = len(lengths)
    digits = generator.bytes(16 * size).hex()
    ids = pa.array([digits[i : i + 32] for i in range(0, 32 * size, 32)])
    num_prompt = _lengths(generator, _MEAN_PROMPT)[:size]
    sources = [_SOURCES[i % 3] for i in range(number, number + size)]
    examples = pl.DataFrame({
        "example_id": pl.Series(ids), "content": [json.dumps({"prompt": str(i), "response": "r"}) for i in range(number, number + size)],
        "source": sources, "extra": pl.Series([None] * size, dtype=pl.String), "multiplicity": pl.Series([1] * size, dtype=pl.UInt32),
        "file": ["data.jsonl"] * size, "line": pl.Series(range(number + 1, number + size + 1), dtype=pl.UInt32),
    })  # fmt: skip
    return Shard(
        examples, _sequences(generator, ids, num_prompt, lengths), _values(generator, ids, lengths), _reference(generator, ids, lengths)
    )


def _sequences(generator: np.random.Generator, ids: pa.Array, num_prompt: NDArray[np.int64], lengths: NDArray[np.int64]) -> pa.Table:
    token_ids = np.minimum(generator.zipf(_ZIPF, int((num_prompt + lengths).sum())), _VOCABULARY).astype(np.int32)
    starts = np.repeat(num_prompt - np.concatenate([[0], np.cumsum(lengths)[:-1]]), lengths)
    positions = (np.arange(int(lengths.sum())) + starts).astype(np.int32)
    columns = {
        "example_id": ids, "branch": pa.array(["sft"] * len(ids)), "sequence_id": ids, "token_ids": lists(token_ids, num_prompt + lengths),
        "response_positions": lists(positions, lengths),
        "end_of_turn_positions": lists((num_prompt + lengths - 1).astype(np.int32), np.ones(len(ids), np.int64)),
    }  # fmt: skip
    for name in ("num_prompt_tokens_cut", "num_response_tokens_cut"):
        columns[name] = pa.array(np.zeros(len(ids), np.uint32))
    for name in ("reason", "detail"):
        columns[name] = pa.nulls(len(ids), pa.string())
    return pa.table(columns, SEQUENCE_SCHEMA)


def _values(generator: np.random.Generator, ids: pa.Array, lengths: NDArray[np.int64]) -> pa.Table:
    """Components with heavy tails, as inner products with gradients have; loss and entropy are positive."""
    size = int(lengths.sum())
    columns = {"sequence_id": ids}
    for name in ("adapt_direct", "adapt_causal", "stab_direct", "stab_causal"):
        heavy = generator.standard_normal(size, np.float32) * np.exp(generator.standard_normal(size, np.float32))
        columns[name] = lists(heavy * np.float32(1e-3), lengths)
    columns |= {"loss": _positive(generator, lengths), "entropy": _positive(generator, lengths)}
    for direction in ("adapt", "stab"):
        columns[f"{direction}_prompt_context"] = pa.array(generator.standard_normal(len(ids)))
    schema = PART_SCHEMAS["scoring"]
    return pa.table([columns.get(f.name, pa.nulls(len(ids), f.type)) for f in schema], schema)


def _reference(generator: np.random.Generator, ids: pa.Array, lengths: NDArray[np.int64]) -> pa.Table:
    schema = PART_SCHEMAS["reference"]
    return pa.table([ids, _positive(generator, lengths), pa.nulls(len(ids), schema.field("entropy").type)], schema)


def _positive(generator: np.random.Generator, lengths: NDArray[np.int64]) -> pa.Array:
    return lists(generator.standard_gamma(0.7, int(lengths.sum()), np.float32) * np.float32(2), lengths)


def lists(flat: NDArray[np.generic], lengths: NDArray[np.int64]) -> pa.Array:
    """Cut a flat array into lists of these lengths."""
    return pa.ListArray.from_arrays(pa.array(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)), pa.array(flat))
