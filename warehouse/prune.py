"""Pruning: what the current state does not need and rules do not keep is removed, rows in one transaction, files after it.

Rows that stay are found first, in temporary tables (sql/prune/keep_*); everything else goes. Values, artefacts and tokenizations of no
scoring at all are what an interrupted run left for its next turn: they stay unless they are asked for.
"""

import json
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from warehouse import runs
from warehouse.compact import remove_leftovers
from warehouse.connect import Warehouse
from warehouse.digests import digest
from warehouse.write import receipt

_TABLES = (
    "pointers", "mask_values", "masks", "values", "signals", "scorings", "snapshots", "snapshot_examples", "rejected_rows", "examples",
    "example_sequences", "sequences", "tokenizations", "vocabulary", "artifacts", "file_digests",
)  # fmt: skip
"""Kinds of rows, as `prune/counts` names them, each with its `prune/delete_*`; members go before contents."""


_GONE = ".gone"
"""Ends the name of a folder that is being removed; one that a killed process left goes next time, also where an artefact of that name is back."""


@dataclass(frozen=True, kw_only=True)
class PruneRules:
    """What stays beyond that which the current state needs.

    Attributes:
        keep_last: of scorings, of the snapshots of each role and of the masks of each policy, how many of the newest stay.
        older_than_days: what was made within so many days stays as well; None: age keeps nothing.
        unfinished: whether values, artefacts, tokenizations and plans of interrupted runs go, too.
        policies: names of the configured policies; masks that they point to stay, whatever they are of.
    """

    keep_last: int = 3
    older_than_days: float | None = None
    unfinished: bool = False
    policies: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.keep_last < 1 or (self.older_than_days is not None and self.older_than_days < 0):
            raise ValueError(
                f"prune: --keep-last {self.keep_last} (at least 1), --older-than {self.older_than_days} (days, at least 0); the current "
                "state stays in any case"
            )


@dataclass(frozen=True)
class Gone:
    """What goes of a kind.

    Attributes:
        kind: name of the record table, `artifact_files` or `unfinished_plans`.
        number: rows or files.
        num_bytes: content of the rows before compression; size of the files on disk.
    """

    kind: str
    number: int
    num_bytes: int


@dataclass(frozen=True)
class PrunePlan:
    """What a pruning would do.

    Attributes:
        rows: what goes, by table; empty where nothing goes.
        files: what goes beside the database.
        kept: (kind, id, when made, why) of scorings and snapshots that stay.
        artifact_keys: artefacts that stay.
        paths: files and folders that go.
        file_digests: beginnings of the paths whose remembered digests go.
    """

    rows: tuple[Gone, ...]
    files: tuple[Gone, ...]
    kept: tuple[tuple[str, str, datetime, str], ...]
    artifact_keys: tuple[str, ...]
    paths: tuple[Path, ...]
    file_digests: tuple[str, ...]


def plan(warehouse: Warehouse, rules: PruneRules) -> PrunePlan:
    """Find what goes. Only temporary tables are written, and `remove` reads them through the same connection.

    Args:
        warehouse: the open warehouse, no transaction begun.
        rules: what stays.

    Returns:
        the plan.
    """
    before = None if rules.older_than_days is None else runs.utc_now() - timedelta(days=rules.older_than_days)
    by_age = {"keep_last": rules.keep_last, "before": before}
    warehouse.run("prune/keep_pointers", policies=list(rules.policies))
    warehouse.run("prune/keep_scorings", **by_age)
    keys, names, doomed = _artifacts(warehouse, unfinished=rules.unfinished)
    warehouse.run("prune/keep_snapshots", **by_age, artifact_keys=keys)
    warehouse.run("prune/keep_masks", **by_age)
    warehouse.run("prune/keep_tokenizations", unfinished=rules.unfinished)
    warehouse.run("prune/keep_links")
    warehouse.run("prune/drop_values", unfinished=rules.unfinished)
    warehouse.run("prune/keep_unfinished", unfinished=rules.unfinished)
    folder = warehouse.folder
    digests = [str(folder / path) for path in doomed]
    counted = warehouse.run("prune/counts", artifact_keys=keys, paths=digests).fetchall()
    left = [path for path in _children(folder / "artifacts") if path.suffix == _GONE or not (path.name in names or _named(path, names))]
    plans = _children(folder / "work") if rules.unfinished else []
    files = [Gone("artifact_files", len(left), sum(map(size_of, left))), Gone("unfinished_plans", len(plans), sum(map(size_of, plans)))]
    return PrunePlan(
        tuple(Gone(kind, int(number), int(size)) for kind, number, size in counted if number),
        tuple(gone for gone in files if gone.number),
        tuple(warehouse.run("prune/kept").fetchall()),
        tuple(keys),
        (*left, *plans),
        tuple(digests),
    )


def _artifacts(warehouse: Warehouse, *, unfinished: bool) -> tuple[list[str], set[str], list[str]]:
    """Decide on the pinned artefacts by what the settings of scorings name.

    Returns:
        (keys of artefacts that stay; names of their files and, as they may still be looked at, beginnings of the digests that
        scorings which stay name; paths of the others).
    """
    kept: set[str] = set()
    known: set[str] = set()
    for settings, is_kept in warehouse.run("prune/scorings").fetchall():
        named = set(_digests(json.loads(settings)))
        known |= named
        kept |= named if is_kept else set()
    keys, names, doomed = [], {one[:16] for one in kept}, []
    for key, kind, content, path, details in warehouse.run("prune/artifacts").fetchall():
        identities = {content, _alignment(json.loads(details))} if kind == "alignment" else {content}
        if identities & kept or not (unfinished or identities & known):
            keys.append(key)
            names.add(Path(path).name)
        else:
            doomed.append(path)
    return keys, names, [path for path in doomed if Path(path).name not in names]


def _digests(settings: Any) -> Iterator[str]:
    """Yield every digest that a scoring's settings name, in lists (of folds) too, and what stands for its alignment, which has none there."""
    if isinstance(settings, list):
        for one in settings:
            yield from _digests(one)
    for key, value in settings.items() if isinstance(settings, dict) else ():
        if key == "stability_alignment" and value is not None:
            yield _alignment(value)
        elif key.endswith("digest") and isinstance(value, str):
            yield value
        else:
            yield from _digests(value)


def _alignment(details: dict[str, Any]) -> str:
    return digest("alignment details", details)


def _named(path: Path, names: Iterable[str]) -> bool:
    """Whether a file carries a digest of a scoring that stays: `<kind>-<first 16 digits of the digest>`."""
    return path.stem.rpartition("-")[2] in names


def _children(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def size_of(path: Path) -> int:
    """Return the bytes of a file, or of all files below a folder."""
    return sum(file.lstat().st_size for file in (path.rglob("*") if path.is_dir() else [path]) if not file.is_dir())


def remove(warehouse: Warehouse, found: PrunePlan, run_id: str) -> None:
    """Remove the rows of a plan in one transaction, then its files. A process killed in between leaves files that the next plan finds.

    Receipts of snapshots and masks go with them. Those of tokenizing and scoring stand for rows of which some may stay: they are replaced
    by one receipt per tokenization and per identity of values, for the rows that are left.

    Args:
        warehouse: the connection that made the plan, nothing written since.
        found: the plan.
        run_id: the run.
    """
    parameters = {"artifacts": {"artifact_keys": list(found.artifact_keys)}, "file_digests": {"paths": list(found.file_digests)}}
    expected = {gone.kind: gone.number for gone in found.rows}
    if expected:
        with warehouse.transaction():
            for kind in _TABLES:
                if kind in expected:
                    number = warehouse.run(f"prune/delete_{kind}", **parameters.get(kind, {})).fetchall()[0][0]
                    assert number == expected[kind], f"{number} rows of {kind} were deleted, {expected[kind]} foretold"
            warehouse.run("prune/delete_receipts")
            _renew_receipts(warehouse, expected.keys(), run_id)
    remove_files(warehouse.folder, found.paths)


def _renew_receipts(warehouse: Warehouse, changed: Iterable[str], run_id: str) -> None:
    """Replace the receipts of stages whose rows were thinned out."""
    if "example_sequences" in changed:
        warehouse.run("prune/delete_stage_receipts", stage="tokenize")
        for tokenization_id, example_ids, num_rows in warehouse.run("prune/tokenized").fetchall():
            receipt(warehouse, "tokenize", digest(tokenization_id, example_ids), num_rows, run_id)
    if {"values", "signals"} & set(changed):
        warehouse.run("prune/delete_stage_receipts", stage="score")
        for values_id, sequence_ids in warehouse.run("prune/scored").fetchall():
            receipt(warehouse, "score", digest(values_id, sequence_ids), len(sequence_ids), run_id)


def remove_files(folder: Path, paths: Sequence[Path]) -> None:
    """Remove files and folders, those that DuckDB and a killed copy left behind as well.

    A folder loses its name first: a process killed half-way leaves none that looks whole.
    """
    for path in paths:
        if path.is_dir():
            gone = path.with_name(f".{path.name}{_GONE}")
            shutil.rmtree(gone, ignore_errors=True)
            shutil.rmtree(path.rename(gone))
        else:
            path.unlink(missing_ok=True)
    remove_leftovers(folder)
