"""The examples that a report embeds: tokens, values and masks of a sample, packed for the page."""

from collections import Counter
from pathlib import PurePath
from typing import Any

import numpy as np
import polars as pl

from reports.packing import pack, quantise, smallest
from warehouse.read import Reader

MAX_PROMPT_TOKENS = 512
"""Of what stands before the first response token, a page shows this many tokens at most, the last ones."""


def sample(reader: Reader, num_examples: int, columns: list[str], masks: pl.DataFrame) -> dict[str, Any]:
    """Pack a sample of the valued examples.

    Args:
        reader: the release.
        num_examples: how many, at most; which ones follows from their ids alone.
        columns: columns of values to embed.
        masks: rows of `report/masks`, whose decisions are embedded.

    Returns:
        `examples`, `sequences` (lists side by side), `vocabulary` (texts of the tokens that occur; null outside the vocabulary), and packed arrays:
        `tokens` and `is_response` over all tokens, `values` and `keeps` over response tokens.
    """
    rows = reader.frame("report/sample", num_examples=num_examples)
    tokens, responses, first_positions = _cut_prompts(rows)
    lengths = np.array([len(one) for one in tokens], np.int64)
    return {
        "examples": _examples(rows) | _pairs(reader, rows["example_id"].unique(maintain_order=True)),
        "sequences": {
            "example": pack(smallest(_numbers(rows["example_id"]))),
            **_named("branch", rows["branch"]),
            "num_tokens": pack(smallest(lengths)),
            "first_position": pack(smallest(np.array(first_positions, np.int64))),
        },
        **_tokens(reader, tokens),
        "is_response": pack(np.concatenate([np.zeros(0, np.bool_), *responses])),
        "values": {name: _values(rows[name], rows["response_positions"].list.len().to_list()) for name in columns},
        "keeps": {row["policy"]: _keeps(reader, row["mask_id"], rows) for row in masks.iter_rows(named=True)},
    }


def _cut_prompts(rows: pl.DataFrame) -> tuple[list[Any], list[Any], list[int]]:
    """Leave out the beginnings of long prompts.

    Returns:
        (token ids, which of them are response tokens, position of the first one), a list entry per sequence each.
    """
    tokens, responses, first = [], [], []
    for ids, positions in zip(rows["token_ids"], rows["response_positions"], strict=True):
        is_response = np.zeros(len(ids), np.bool_)
        is_response[positions.to_numpy()] = True
        begin = max(0, (int(positions[0]) if len(positions) else len(ids)) - MAX_PROMPT_TOKENS)
        tokens.append(ids.to_numpy()[begin:])
        responses.append(is_response[begin:])
        first.append(begin)
    return tokens, responses, first


def _examples(rows: pl.DataFrame) -> dict[str, Any]:
    firsts = rows.unique("example_id", keep="first", maintain_order=True)
    return {
        "id": firsts["example_id"].to_list(),
        **_named("source", firsts["source"]),
        **_named("file", pl.Series([PurePath(file).name if file else None for file in firsts["file"]], dtype=pl.String)),
        "line": pack(smallest(firsts["line"].fill_null(0).cast(pl.Int64).to_numpy())),
        "multiplicity": pack(smallest(firsts["multiplicity"].cast(pl.Int64).to_numpy())),
    }


def _pairs(reader: Reader, example_ids: pl.Series) -> dict[str, Any]:
    """List margin and weight of each example; nothing where no example is a pair."""
    known = {one: rest for one, *rest in reader.run("report/sample_pairs", example_ids=example_ids.to_list()).fetchall()}
    if not known:
        return {}
    columns = zip(*(known.get(one, (None, None)) for one in example_ids), strict=True)
    return {
        name: [None if value is None else float(f"{value:.4g}") for value in column]
        for name, column in zip(("margin", "weight"), columns, strict=True)
    }


def _numbers(keys: pl.Series) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Number equal keys alike, in the order of their first appearance."""
    numbers: dict[Any, int] = {}
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys], np.int64)


def _named(name: str, keys: pl.Series) -> dict[str, Any]:
    """Store texts that repeat as a list of texts and their numbers."""
    return {name: pack(smallest(_numbers(keys))), f"{name}_names": keys.unique(maintain_order=True).to_list()}


def _tokens(reader: Reader, tokens: list[Any]) -> dict[str, Any]:
    """Number the tokens by how often they occur, so that most numbers are small, and list their texts."""
    counts = Counter(np.concatenate([np.zeros(0, np.int32), *tokens]).tolist())
    used = sorted(counts, key=lambda token_id: (-counts[token_id], token_id))
    texts = dict(reader.run("report/vocabulary").fetchall())
    number = {token_id: place for place, token_id in enumerate(used)}
    numbers = np.array([number[token_id] for one in tokens for token_id in one.tolist()], np.int64)
    return {"vocabulary": [texts.get(token_id) for token_id in used], "token_ids": used, "tokens": pack(smallest(numbers))}


def _values(lists: pl.Series, lengths: list[int]) -> dict[str, Any]:
    """Pack a column; a sequence without a list has no value at any of its response tokens."""
    flat = [
        np.full(length, np.nan) if one is None else one.to_numpy()  # NULLs become NaN
        for one, length in zip(lists, lengths, strict=True)
    ]
    codes, unit, step = quantise(np.concatenate([np.zeros(0), *flat]))
    return {"codes": pack(codes), "unit": unit, "step": step}


def _keeps(reader: Reader, mask_id: str, rows: pl.DataFrame) -> dict[str, Any]:
    kept = dict(reader.run("report/keeps", mask_id=mask_id, sequence_ids=rows["sequence_id"].unique().to_list()).fetchall())
    return pack(np.array([keep for sequence_id in rows["sequence_id"] for keep in kept[sequence_id]], np.bool_))
