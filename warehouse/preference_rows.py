"""Rows of the trl-dpo export: a pair each, with flags, soft weights and reference log-probabilities of the response tokens."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from warehouse import sql
from warehouse.characters import Characters
from warehouse.written import Written, read

_INTS, _FLOATS = pa.list_(pa.int32()), pa.list_(pa.float32())
_COLUMNS = [
    ("prompt_ids", _INTS),
    *((f"{branch}_{part}", _INTS) for part in ("ids", "mask", "response_mask") for branch in ("chosen", "rejected")),
]
_WEIGHTS = [(f"{branch}_weights", _FLOATS) for branch in ("chosen", "rejected")]
_REFERENCE = [(f"{branch}_ref_log_probs", _FLOATS) for branch in ("chosen", "rejected")]


def write_trl_dpo(con: duckdb.DuckDBPyConnection, mask_id: str, file: Path, _: Characters | None) -> Written:
    """Write one row per pair and duplicate.

    Weights are there when the mask has soft ones, reference log-probabilities when the scoring has them of every pair.

    Returns:
        what was written.

    Raises:
        ValueError: a pair lacks a branch, or its branches have prompts of other tokens.
    """
    done = Written()
    has_weights, has_reference = con.execute(sql.load("export/pair_columns"), {"mask_id": mask_id}).fetchall()[0]
    schema = pa.schema([*_COLUMNS, *(_WEIGHTS if has_weights else ()), *(_REFERENCE if has_reference else ())])
    with pq.ParquetWriter(file, schema, compression="zstd") as writer:
        for rows in read(con, "pairs", mask_id=mask_id):
            made = []
            for row in rows.to_pylist():
                pair = _pair(row)
                made += [pair] * row["multiplicity"]
            writer.write_table(pa.Table.from_pylist(made, schema=schema))
            done.num_rows += len(made)
            done.num_tokens += sum(2 * len(pair["prompt_ids"]) + len(pair["chosen_ids"]) + len(pair["rejected_ids"]) for pair in made)
            done.num_supervised_tokens += sum(sum(pair["chosen_mask"]) + sum(pair["rejected_mask"]) for pair in made)
    return done


def _pair(row: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Split both branches of a preference example into their prompt and their responses with flags, 1 = kept."""
    pair: dict[str, list[Any]] = {}
    for branch in ("chosen", "rejected"):
        token_ids, positions, keep = (row[f"{branch}_{part}"] for part in ("ids", "positions", "keep"))
        if token_ids is None or keep is None:
            raise ValueError(
                f"example {row['example_id']} has no sequence of its branch {branch!r}; see the view rejected_rows, and drop the row"
            )
        prompt, start = token_ids[: positions[0]], positions[0]
        if pair.setdefault("prompt_ids", prompt) != prompt:
            raise ValueError(
                f"example {row['example_id']}: chosen and rejected have prompts of {len(pair['prompt_ids'])} and {len(prompt)} tokens that differ, and "
                "TRL takes one prompt for both; most likely one was cut to data.tokenize.max_length: raise it, or drop the row"
            )
        weights, losses = row[f"{branch}_weight"], row[f"{branch}_ref_losses"]
        places = range(start, len(token_ids))
        kept = {position for position, flag in zip(positions, keep, strict=True) if flag and position > 0}
        responses = set(positions) - {0}
        pair[f"{branch}_ids"] = token_ids[start:]
        pair[f"{branch}_mask"] = [int(place in kept) for place in places]
        pair[f"{branch}_response_mask"] = [int(place in responses) for place in places]  # tokens of other turns may lie between
        if weights is not None:
            of = dict(zip(positions, weights, strict=True))
            pair[f"{branch}_weights"] = [of[place] if place in kept else 0.0 for place in places]
        if losses is not None:
            of = dict(zip(positions, losses, strict=True))
            pair[f"{branch}_ref_log_probs"] = [-of[place] if place in responses else 0.0 for place in places]
    return pair
