"""What bench/kills.py demands of a killed warehouse: each receipt with its rows, no rows without a receipt; and the digests it compares."""

import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import Any

import duckdb

from warehouse.connect import DATABASE
from warehouse.digests import digest

_COMPARED = {
    "examples": "example_id, content",
    "snapshot_examples": "snapshot_id, example_id, multiplicity, source, extra, file, line",
    "snapshots": "snapshot_id, role, num_examples, num_rows, num_rejected",
    "tokenizations": "tokenization_id, tokenizer_digest, settings",
    "vocabulary": "*",
    "example_sequences": "*",
    "sequences": "*",
    "direction_values": "*",
    "signal_values": "*",
    "scorings": "scoring_id, tokenization_id, adapt_values_id, stab_values_id, signals_id, ref_signals_id, settings",
    "masks": "mask_id, policy, settings, scoring_id, snapshot_id, num_tokens, num_kept",
    "mask_values": "mask_id, sequence_id, keep, weight",
    "pointers": "*",
    "artifacts": "artifact_key, kind, content_digest, path, settings, details, snapshot_id",
}
"""Columns of the record tables that must be those of an undisturbed run; times and runs are not."""


_MASK_ROWS = """
SELECT record.hex_id(kept.sequence_id), len(kept.keep)
FROM record.mask_rows AS kept
WHERE kept.mask_id = $1 AND kept.sequence_id IN (SELECT sequence_id FROM record.masked_sequences WHERE mask_id = $1)
"""
"""What a mask keeps of its own snapshot; masks of several snapshots may share rows."""


def rows_of(folder: Path) -> dict[str, str]:
    """Digest every table of the live file and of the current release, and the artefacts' files."""
    current = folder / "releases" / (folder / "releases" / "CURRENT").read_text() / DATABASE
    found = {}
    for name, path in (("live", folder / DATABASE), ("release", current)):
        with duckdb.connect(str(path), read_only=True) as con:
            for table, columns in _COMPARED.items():
                rows = con.execute(f"SELECT {columns} FROM record.{table} ORDER BY ALL").fetchall()
                found[f"{name} {table}"] = hashlib.blake2b(repr(rows).encode(), digest_size=16).hexdigest()
    for path in sorted((folder / "artifacts").iterdir()):
        found[f"file {path.name}"] = hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()
    return found


def check(folder: Path, journal: Path) -> int:
    """Check the live file and the current release of a killed warehouse.

    Args:
        folder: a copy of it.
        journal: what each receipt of tokenizing and scoring stands for, written before it was.

    Returns:
        number of receipts in the live file.

    Raises:
        AssertionError: rows are missing or broken, or nobody signed for them.
    """
    meant = _read(journal) if journal.exists() else {}
    pointer = folder / "releases" / "CURRENT"
    if pointer.exists():
        _check_database(folder / "releases" / pointer.read_text() / DATABASE, meant)
    return _check_database(folder / DATABASE, meant) if (folder / DATABASE).exists() else 0


def _read(journal: Path) -> dict[tuple[str, str], Any]:
    """Read (stage, identity of a receipt) to what it stands for; a line that a kill cut short stands for nothing."""
    meant: dict[tuple[str, str], Any] = {}
    for line in journal.read_text().splitlines():
        try:
            kind, what, members = json.loads(line)
        except ValueError:
            continue
        identity = digest(what, members)
        if kind == "score":
            meant["score", identity] = (list(what.values()), members)
        elif kind == "tokenize":
            meant["tokenize", identity] = (what, members)
        else:  # renewed by a pruning, of either stage
            meant["score", identity] = ([what], members)
            meant["tokenize", identity] = (what, members)
    return meant


def _check_database(path: Path, meant: dict[tuple[str, str], Any]) -> int:
    with duckdb.connect(str(path)) as con:
        receipts = con.execute("SELECT stage, identity, num_rows FROM record.receipts").fetchall()
        assert len({row[:2] for row in receipts}) == len(receipts), "a receipt is there twice"
        lengths = dict(con.execute("SELECT record.hex_id(sequence_id), len(response_positions) FROM record.sequences").fetchall())
        signed: dict[str, set[Any]] = {"ingest": set(), "tokenize": set(), "score": set(), "mask": set()}
        check_of = {"ingest": _check_snapshot, "tokenize": _check_tokenized, "score": _check_scored, "mask": _check_mask}
        values = _values(con, lengths)
        for stage, identity, num_rows in receipts:
            signed[stage] |= check_of[stage](con, identity, num_rows, meant.get((stage, identity)), lengths, values)
        assert set(values) == signed["score"], "there are values without a receipt, or receipts without values"
        for stage, query in (
            ("ingest", "SELECT snapshot_id FROM record.snapshots UNION SELECT snapshot_id FROM record.snapshot_examples"),
            ("tokenize", "SELECT tokenization_id, record.hex_id(example_id) FROM record.example_sequences"),
            ("mask", "SELECT mask_id FROM record.masks"),
        ):
            assert set(con.execute(query).fetchall()) == signed[stage], f"rows of {stage} and receipts do not agree"
        for name, value in con.execute("SELECT name, value FROM record.pointers").fetchall():
            table, column = {
                "snapshot": ("snapshots", "snapshot_id"),
                "tokenization": ("tokenizations", "tokenization_id"),
                "scoring": ("scorings", "scoring_id"),
            }.get(name, ("masks", "mask_id"))
            assert con.execute(f"SELECT count(*) FROM record.{table} WHERE {column} = ?", [value]).fetchall() == [(1,)], (
                f"{name} leads nowhere"
            )
        for path_, content in con.execute("SELECT path, content_digest FROM record.artifacts").fetchall():
            assert content[:16] in path_
    return len(receipts)


def _values(con: duckdb.DuckDBPyConnection, lengths: dict[str, int]) -> Counter[tuple[str, str]]:
    """Count the rows of each (identity, sequence), after a look at their lists."""
    rows = con.execute(
        "SELECT values_id, record.hex_id(sequence_id), len(direct), len(causal) FROM record.direction_values "
        "UNION ALL SELECT signals_id, record.hex_id(sequence_id), len(loss), coalesce(len(entropy), len(loss)) FROM record.signal_values"
    ).fetchall()
    for values_id, sequence_id, one, other in rows:
        assert one == other == lengths.get(sequence_id), f"values {values_id} of {sequence_id} are not whole"
    return Counter(row[:2] for row in rows)


def _check_snapshot(con: Any, identity: str, num_rows: int, *_: Any) -> set[Any]:
    found = con.execute(
        "SELECT count(*), count(contents.content) FROM record.snapshot_examples AS members LEFT JOIN record.examples AS contents USING (example_id) "
        "WHERE snapshot_id = ?",
        [identity],
    ).fetchall()
    assert found == [(num_rows, num_rows)], f"snapshot {identity}: {found} of {num_rows} examples are there"
    return {(identity,)}


def _check_tokenized(con: Any, identity: str, num_rows: int, meant: Any, lengths: dict[str, int], _: Any) -> set[Any]:
    assert meant is not None, f"a receipt of tokenizing {identity} that nobody wrote"
    tokenization_id, example_ids = meant
    links = con.execute(
        "SELECT record.hex_id(example_id), record.hex_id(sequence_id) FROM record.example_sequences WHERE tokenization_id = ?",
        [tokenization_id],
    ).fetchall()
    wanted = set(example_ids)
    found = [row for row in links if row[0] in wanted]
    assert len(found) == num_rows == len(wanted), f"{len(found)} of {num_rows} tokenized examples are there"
    assert all(row[1] in lengths for row in found), "a sequence is missing"
    return {(tokenization_id, example_id) for example_id in wanted}


def _check_scored(_: Any, identity: str, num_rows: int, meant: Any, __: Any, values: Counter[tuple[str, str]]) -> set[Any]:
    assert meant is not None, f"a receipt of scoring {identity} that nobody wrote"
    wanted = {(values_id, sequence_id) for values_id in meant[0] for sequence_id in meant[1]}
    assert len(meant[1]) == num_rows
    assert all(values[one] == 1 for one in wanted), f"values of a receipt of {num_rows} sequences are missing, or there twice"
    return wanted


def _check_mask(con: Any, identity: str, num_rows: int, _: Any, lengths: dict[str, int], __: Any) -> set[Any]:
    rows = con.execute(_MASK_ROWS, [identity]).fetchall()
    assert len(rows) == num_rows, f"mask {identity}: {len(rows)} of {num_rows} rows are there"
    assert all(length == lengths.get(sequence_id) for sequence_id, length in rows), f"mask {identity} is not whole"
    assert con.execute("SELECT count(*) FROM record.masks WHERE mask_id = ?", [identity]).fetchall() == [(1,)]
    return {(identity,)}
