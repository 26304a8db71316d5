"""The work folder of a scoring: the stored batch plan, and parts, checksummed Parquet files that survive a killed run.

`work/<plan_id>/plan.json` names the batches in order; `part-<number>-<digest>.parquet` holds the rows of a few of them. A part is
renamed to its final name when it is on disk, and the name carries its checksum, so an unfinished part does not look like one.
"""

import hashlib
import json
import math
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from warehouse import durable
from warehouse.digests import digest


class CorruptPartError(RuntimeError):
    """A part's content does not fit its checksum."""


@dataclass(frozen=True)
class Plan:
    """A batch plan.

    Attributes:
        folder: its work folder.
        model: which model runs: scoring or reference.
        groups: groups of values it computes, and under which identity.
        parts: sequence ids by part and batch.
        batch_tokens: tokens of one batch at most, padding counted, unless a single sequence is longer.
    """

    folder: Path
    model: str
    groups: Mapping[str, str]
    parts: list[list[list[str]]]
    batch_tokens: float

    def sequence_ids(self, first_part: int = 0) -> set[str]:
        """Return the sequences of the parts from a given one on."""
        return {s for part in self.parts[first_part:] for batch in part for s in batch}


def make_plan(
    work: Path, model: str, groups: Mapping[str, str], batches: list[list[str]], num_tokens: Mapping[str, int], part_tokens: int,
    batch_tokens: int,
) -> Plan:  # fmt: skip
    """Group batches into parts and store the plan.

    Args:
        work: folder of all plans.
        model: scoring or reference.
        groups: groups of values and their identities.
        batches: sequence ids of each batch.
        num_tokens: length of each sequence.
        part_tokens: tokens of a part at least, before the next begins.
        batch_tokens: what the batches were planned for.

    Returns:
        the stored plan.
    """
    parts: list[list[list[str]]] = [[]]
    size = 0
    for batch in batches:
        if size >= part_tokens:
            parts.append([])
            size = 0
        parts[-1].append(batch)
        size += sum(num_tokens[s] for s in batch)
    plan = Plan(work / digest("plan", model, groups, parts)[:16], model, dict(groups), parts, batch_tokens)
    plan.folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"model": model, "groups": dict(groups), "parts": parts, "batch_tokens": batch_tokens})
    durable.write(plan.folder / "plan.json", text.encode())
    return plan


def open_plans(work: Path) -> list[Plan]:
    """Read the plans that earlier runs left; a folder without a whole plan is removed."""
    plans = []
    for folder in sorted(work.iterdir()) if work.is_dir() else []:
        if (folder / "plan.json").is_file():
            stored = json.loads((folder / "plan.json").read_text())
            batch_tokens = stored.get("batch_tokens", math.inf)  # plans of before it was stored are planned anew, their parts kept
            plans.append(Plan(folder, stored["model"], stored["groups"], stored["parts"], batch_tokens))
        elif folder.is_dir():
            shutil.rmtree(folder)
    return plans


def write_part(plan: Plan, number: int, rows: pa.Table) -> Path:
    """Write the rows of a part, durable when this returns."""
    sink = pa.BufferOutputStream()
    pq.write_table(rows, sink, compression="zstd")
    content = sink.getvalue().to_pybytes()
    checksum = hashlib.blake2b(content, digest_size=16).hexdigest()
    path = plan.folder / f"part-{number:06d}-{checksum}.parquet"
    durable.write(path, content)
    return path


def finished_parts(plan: Plan) -> Iterator[tuple[int, Path]]:
    """Yield (number, file) of a plan's finished parts in order."""
    for path in sorted(plan.folder.glob("part-*.parquet")):
        yield int(path.name.split("-")[1]), path


def read_part(path: Path) -> pa.Table:
    """Read a part back.

    Returns:
        its rows.

    Raises:
        CorruptPartError: the file is not what was written.
    """
    content = path.read_bytes()
    found = hashlib.blake2b(content, digest_size=16).hexdigest()
    if found != path.stem.split("-")[2]:
        raise CorruptPartError(
            f"{path} has checksum {found}, its name says {path.stem.split('-')[2]}: the file was damaged on disk. "
            "Remove it and run again; its sequences are then scored again, nothing else is lost"
        )
    return pq.read_table(pa.BufferReader(content))
