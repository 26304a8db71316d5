"""The forms of an export: rows of the release in, one file out, each with the number of tokens it lets a trainer learn from."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from warehouse import sql
from warehouse.characters import Characters
from warehouse.lines import line

_ROWS_PER_READ = 8192
"""Rows fetched and written at once."""

_IGNORED_LABEL = -100
"""Label of a token that the loss leaves out (the convention of transformers)."""


@dataclass
class Written:
    """What a file holds.

    Attributes:
        num_rows: rows of the file.
        num_tokens: tokens of its rows, times their multiplicity where the rows carry one.
        num_supervised_tokens: those of them that a trainer learns from: kept, at a position above 0.
        num_rows_left_out: examples, duplicates counted, without a row because nothing of them is kept.
    """

    num_rows: int = 0
    num_tokens: int = 0
    num_supervised_tokens: int = 0
    num_rows_left_out: int = 0


@dataclass(frozen=True)
class Format:
    """A form of an export.

    Attributes:
        file: name of its file.
        branches: branches of examples that it takes.
        reading: how to read it, for the manifest.
        write: (connection, mask, file, finder of characters or None) to what was written.
    """

    file: str
    branches: tuple[str, ...]
    reading: str
    write: Callable[[duckdb.DuckDBPyConnection, str, Path, Characters | None], Written]


class EmptyExportError(ValueError):
    """The release holds nothing that this format could carry."""


@dataclass(frozen=True)
class _Flat:
    """Some rows as flat arrays.

    Attributes:
        offsets: int32, where each row begins, and the end.
        token_ids: int32, one per token.
        keep: bool, one per token; False for prompts.
        has_loss: bool, one per token; kept and not the first of its sequence, which nothing predicts.
    """

    offsets: NDArray[np.int32]
    token_ids: NDArray[np.int32]
    keep: NDArray[np.bool_]
    has_loss: NDArray[np.bool_]

    def sums(self, flags: NDArray[np.bool_]) -> NDArray[np.int64]:
        """Count the flags of each row."""
        total = np.concatenate([np.zeros(1, np.int64), np.cumsum(flags)])
        return np.asarray(total[self.offsets[1:]] - total[self.offsets[:-1]], dtype=np.int64)

    def lists(self, values: Any) -> pa.Array:
        """Make a list column of a flat array."""
        return pa.ListArray.from_arrays(pa.array(self.offsets), pa.array(values))


def _read(con: duckdb.DuckDBPyConnection, name: str, **parameters: Any) -> Iterator[pa.RecordBatch]:
    yield from con.sql(sql.load(f"export/{name}"), params=parameters).to_arrow_reader(_ROWS_PER_READ)


def _flatten(rows: pa.RecordBatch) -> _Flat:
    """Lay the flags of response tokens over all tokens."""
    offsets = np.concatenate([np.zeros(1, np.int32), np.cumsum(_lengths(rows["token_ids"]), dtype=np.int32)])
    token_ids = rows["token_ids"].flatten().to_numpy()
    positions = rows["response_positions"].flatten().to_numpy()
    flags = rows["keep"].flatten().to_numpy(zero_copy_only=False)
    keep = np.zeros(len(token_ids), np.bool_)
    keep[np.repeat(offsets[:-1], _lengths(rows["response_positions"])) + positions] = flags
    has_loss = keep.copy()
    has_loss[offsets[:-1]] = False
    return _Flat(offsets, token_ids, keep, has_loss)


def _lengths(lists: pa.Array) -> NDArray[np.int32]:
    return np.asarray(lists.value_lengths().to_numpy(), dtype=np.int32)


def _write_parquet(con: duckdb.DuckDBPyConnection, mask_id: str, file: Path, _: Characters | None) -> Written:
    """Write one row per example and branch, with lists over all its tokens."""
    done = Written()
    writer = None
    try:
        for rows in _read(con, "rows", mask_id=mask_id, branches=list(_ALL)):
            flat = _flatten(rows)
            table = pa.table({
                **{name: rows[name] for name in ("example_id", "branch", "source", "multiplicity", "sequence_id", "token_ids")},
                "keep": flat.lists(flat.keep),
                **{name: rows[name] for name in ("response_positions", "end_of_turn_positions")},
            })
            writer = writer or pq.ParquetWriter(file, table.schema, compression="zstd")
            writer.write_table(table)
            _count(done, flat, rows["multiplicity"].to_numpy(), rows.num_rows)
    finally:
        if writer is not None:
            writer.close()
    return done


def _count(done: Written, flat: _Flat, multiplicity: NDArray[Any], num_rows: int) -> None:
    times = multiplicity.astype(np.int64)
    done.num_rows += num_rows
    done.num_tokens += int((times * np.diff(flat.offsets)).sum())
    done.num_supervised_tokens += int((times * flat.sums(flat.has_loss)).sum())


def _write_trl_sft(con: duckdb.DuckDBPyConnection, mask_id: str, file: Path, _: Characters | None) -> Written:
    """Write one row per sequence and duplicate: ids and labels, nothing else, since TRL drops other columns without a word.

    Position 0 gets no label: packed behind another sequence it would be predicted from there. A sequence of which nothing is kept gets
    no row: a batch of such rows alone would divide by 0 tokens.

    Returns:
        what was written.
    """
    done = Written()
    schema = pa.schema([("input_ids", pa.list_(pa.int32())), ("labels", pa.list_(pa.int32()))])
    with pq.ParquetWriter(file, schema, compression="zstd") as writer:
        for rows in _read(con, "rows", mask_id=mask_id, branches=["sft"]):
            flat, times = _flatten(rows), rows["multiplicity"].to_numpy()
            labels = np.where(flat.has_loss, flat.token_ids, np.int32(_IGNORED_LABEL))
            table = pa.table([flat.lists(flat.token_ids), flat.lists(labels)], schema=schema)
            learns = flat.sums(flat.has_loss) > 0
            chosen = np.repeat(np.flatnonzero(learns), times[learns])
            writer.write_table(table.take(pa.array(chosen)))
            _count(done, flat, np.where(learns, times, 0), len(chosen))
            done.num_rows_left_out += int(times[~learns].sum())
    return done


def _write_trl_dpo(con: duckdb.DuckDBPyConnection, mask_id: str, file: Path, _: Characters | None) -> Written:
    """Write one row per pair and duplicate.

    Returns:
        what was written.

    Raises:
        ValueError: a pair lacks a branch, or its branches have prompts of other tokens.
    """
    done = Written()
    names = ("prompt_ids", "chosen_ids", "rejected_ids", "chosen_mask", "rejected_mask")
    schema = pa.schema([(name, pa.list_(pa.int32())) for name in names])
    with pq.ParquetWriter(file, schema, compression="zstd") as writer:
        for rows in _read(con, "pairs", mask_id=mask_id):
            made = []
            for row in rows.to_pylist():
                pair = _pair(row)
                made += [pair] * row["multiplicity"]
            writer.write_table(pa.Table.from_pylist(made, schema=schema))
            done.num_rows += len(made)
            done.num_tokens += sum(2 * len(pair["prompt_ids"]) + len(pair["chosen_ids"]) + len(pair["rejected_ids"]) for pair in made)
            done.num_supervised_tokens += sum(sum(pair["chosen_mask"]) + sum(pair["rejected_mask"]) for pair in made)
    return done


def _pair(row: Mapping[str, Any]) -> dict[str, list[int]]:
    """Split both branches of a preference example into their prompt and their responses with flags, 1 = kept."""
    pair: dict[str, list[int]] = {}
    for branch in ("chosen", "rejected"):
        token_ids, positions, keep = (row[f"{branch}_{part}"] for part in ("ids", "positions", "keep"))
        if token_ids is None or keep is None:
            raise ValueError(
                f"example {row['example_id']} has no sequence of its branch {branch!r}; see the view rejected_rows, and drop the row"
            )
        kept = {position for position, flag in zip(positions, keep, strict=True) if flag and position > 0}
        prompt, start = token_ids[: positions[0]], positions[0]
        if pair.setdefault("prompt_ids", prompt) != prompt:
            raise ValueError(
                f"example {row['example_id']}: chosen and rejected have prompts of {len(pair['prompt_ids'])} and {len(prompt)} tokens that differ, and "
                "TRL takes one prompt for both; most likely one was cut to data.tokenize.max_length: raise it, or drop the row"
            )
        pair[f"{branch}_ids"] = token_ids[start:]
        pair[f"{branch}_mask"] = [int(position in kept) for position in range(start, len(token_ids))]
    return pair


def _write_jsonl(con: duckdb.DuckDBPyConnection, mask_id: str, file: Path, characters: Characters | None) -> Written:
    """Write one line per example and branch, with the kept characters of its responses.

    Returns:
        what was written.

    Raises:
        CharactersError: those of some example are not known exactly.
    """
    assert characters is not None, "export() has loaded the tokenizer"
    done = Written()
    with file.open("w", encoding="utf-8") as out:
        for rows in _read(con, "rows", mask_id=mask_id, branches=list(_ALL)):
            flat = _flatten(rows)
            for index, row in enumerate(rows.drop_columns(["sequence_id"]).to_pylist()):
                keep = flat.keep[flat.offsets[index] : flat.offsets[index + 1]]
                out.write(json.dumps(line(row, keep, characters), ensure_ascii=False) + "\n")
            _count(done, flat, rows["multiplicity"].to_numpy(), rows.num_rows)
    return done


_ALL = ("sft", "chosen", "rejected")

FORMATS: Mapping[str, Format] = {
    "jsonl": Format(
        "train.jsonl", _ALL,
        'datasets.load_dataset("json", data_files="train.jsonl"). One line per example and branch; weigh it by its multiplicity. `keep` has a 0 or 1 for '
        "each of `token_ids`. `responses` has the assistant's turns: `kept_spans` are [start, end) characters of `text`; a token of another tokenizer is "
        "kept when its characters lie in a span. `message` is the turn's number in content.messages; `is_own_text` says that `text` is the example's own.",
        _write_jsonl,
    ),
    "parquet": Format(
        "train.parquet", _ALL,
        'datasets.load_dataset("parquet", data_files="train.parquet"). One row per example and branch; weigh it by its multiplicity. `keep` has a flag for '
        "each of `token_ids`, False on prompts; the first token of a sequence has no loss, kept or not.",
        _write_parquet,
    ),
    "trl-sft": Format(
        "train.parquet", ("sft",),
        'datasets.load_dataset("parquet", data_files="train.parquet"), then SFTTrainer with max_length=None (its default cuts at 1024 tokens). '
        "`labels` is -100 on every token that is not learnt.",
        _write_trl_sft,
    ),
    "trl-dpo": Format(
        "train.parquet", ("chosen", "rejected"),
        'datasets.load_dataset("parquet", data_files="train.parquet"), then DPOTrainer with a collator that multiplies completion_mask by the masks: '
        "TRL's own ignores them. 1 = kept. The trainer then weighs a pair by its masked margin, not by the full one of the paper's Eq. 14.",
        _write_trl_dpo,
    ),
}  # fmt: skip
"""By name."""
