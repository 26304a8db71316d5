"""The forms of an export: rows of the release in, one file out, each with the number of tokens it lets a trainer learn from."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from warehouse.characters import Characters
from warehouse.lines import line
from warehouse.preference_rows import write_trl_dpo
from warehouse.written import Written, read

_IGNORED_LABEL = -100
"""Label of a token that the loss leaves out (the convention of transformers)."""


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
        weights: float32, one per token, 0 where it is not kept; None for a mask without soft weights.
    """

    offsets: NDArray[np.int32]
    token_ids: NDArray[np.int32]
    keep: NDArray[np.bool_]
    has_loss: NDArray[np.bool_]
    weights: NDArray[np.float32] | None

    def sums(self, flags: NDArray[np.bool_]) -> NDArray[np.int64]:
        """Count the flags of each row."""
        total = np.concatenate([np.zeros(1, np.int64), np.cumsum(flags)])
        return np.asarray(total[self.offsets[1:]] - total[self.offsets[:-1]], dtype=np.int64)

    def lists(self, values: Any) -> pa.Array:
        """Make a list column of a flat array."""
        return pa.ListArray.from_arrays(pa.array(self.offsets), pa.array(values))


def _flatten(rows: pa.RecordBatch) -> _Flat:
    """Lay the flags and weights of response tokens over all tokens."""
    offsets = np.concatenate([np.zeros(1, np.int32), np.cumsum(_lengths(rows["token_ids"]), dtype=np.int32)])
    token_ids = rows["token_ids"].flatten().to_numpy()
    positions = rows["response_positions"].flatten().to_numpy()
    flags = rows["keep"].flatten().to_numpy(zero_copy_only=False)
    places = np.repeat(offsets[:-1], _lengths(rows["response_positions"])) + positions
    keep = np.zeros(len(token_ids), np.bool_)
    keep[places] = flags
    has_loss = keep.copy()
    has_loss[offsets[:-1]] = False
    weights = None
    if rows["weight"].null_count == 0:  # of all sequences or of none: check_mask has seen to it
        weights = np.zeros(len(token_ids), np.float32)
        weights[places] = np.where(flags, rows["weight"].flatten().to_numpy(), np.float32(0))
    return _Flat(offsets, token_ids, keep, has_loss, weights)


def _lengths(lists: pa.Array) -> NDArray[np.int32]:
    return np.asarray(lists.value_lengths().to_numpy(), dtype=np.int32)


def _write_parquet(con: duckdb.DuckDBPyConnection, mask_id: str, file: Path, _: Characters | None) -> Written:
    """Write one row per example and branch, with lists over all its tokens."""
    done = Written()
    writer = None
    try:
        for rows in read(con, "rows", mask_id=mask_id, branches=list(_ALL)):
            flat = _flatten(rows)
            table = pa.table({
                **{name: rows[name] for name in ("example_id", "branch", "source", "multiplicity", "sequence_id", "token_ids")},
                "keep": flat.lists(flat.keep),
                **({} if flat.weights is None else {"weights": flat.lists(flat.weights)}),
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

    Raises:
        ValueError: the mask has soft weights.
    """
    done = Written()
    schema = pa.schema([("input_ids", pa.list_(pa.int32())), ("labels", pa.list_(pa.int32()))])
    with pq.ParquetWriter(file, schema, compression="zstd") as writer:
        for rows in read(con, "rows", mask_id=mask_id, branches=["sft"]):
            flat, times = _flatten(rows), rows["multiplicity"].to_numpy()
            if flat.weights is not None:
                raise ValueError(
                    "the mask has soft weights, and TRL's SFTTrainer takes none: its collator drops such a column without a word; use the format "
                    "parquet or jsonl, train with `alphatoken train`, or mask by a policy without `soft`"
                )
            labels = np.where(flat.has_loss, flat.token_ids, np.int32(_IGNORED_LABEL))
            table = pa.table([flat.lists(flat.token_ids), flat.lists(labels)], schema=schema)
            learns = flat.sums(flat.has_loss) > 0
            chosen = np.repeat(np.flatnonzero(learns), times[learns])
            writer.write_table(table.take(pa.array(chosen)))
            _count(done, flat, np.where(learns, times, 0), len(chosen))
            done.num_rows_left_out += int(times[~learns].sum())
    return done


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
        for rows in read(con, "rows", mask_id=mask_id, branches=list(_ALL)):
            flat = _flatten(rows)
            for index, row in enumerate(rows.drop_columns(["sequence_id", "weight"]).to_pylist()):
                place = slice(flat.offsets[index], flat.offsets[index + 1])
                weights = None if flat.weights is None else flat.weights[place]
                out.write(json.dumps(line(row, flat.keep[place], weights, characters), ensure_ascii=False) + "\n")
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
        "each of `token_ids`, False on prompts, and `weights`, where the mask has soft ones, what to multiply its loss by; the first token of a sequence "
        "has no loss, kept or not.",
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
        'datasets.load_dataset("parquet", data_files="train.parquet"), then DPOTrainer with the collator and the subclass of docs/trl.md: '
        "TRL's own ignore the masks. 1 = kept; *_ref_log_probs are of the response's tokens under the reference model, nats, 0 for a token without a loss.",
        write_trl_dpo,
    ),
}  # fmt: skip
"""By name."""
