"""Giving freed space back: DuckDB reuses the blocks of deleted rows and never makes the file smaller, so it is written anew."""

import logging
import shutil
from dataclasses import dataclass
from pathlib import Path

from warehouse import durable
from warehouse.connect import DATABASE, Warehouse, attach
from warehouse.settings import WarehouseSettings

logger = logging.getLogger("alphatoken")

_WORTH_IT = 0.25
"""Share of free blocks from which a file is written anew; below, the next runs fill them."""

_ROOM_TO_SPARE = 1.1
"""Free disk that a copy needs, in sizes of what the file holds."""


@dataclass(frozen=True)
class Space:
    """Room that the live file takes.

    Attributes:
        num_bytes: all of its blocks.
        num_free_bytes: those that hold nothing.
    """

    num_bytes: int
    num_free_bytes: int


def compact(folder: Path, settings: WarehouseSettings) -> tuple[Space, bool]:
    """Write the live file anew where a good part of it is free. Call it while holding the writer's lock, with no connection open.

    The copy is made beside the file, synced, and moved to its place in one step: a process killed at any time leaves the old file or
    the new one. Releases are files of their own; their readers notice nothing.

    Args:
        folder: the warehouse's folder.
        settings: memory limit.

    Returns:
        (room before, whether it was written anew; it is not where the disk has no room for a copy).
    """
    live, fresh = folder / DATABASE, folder / f".{DATABASE}.compact"
    remove_leftovers(folder)
    with Warehouse(folder, settings) as warehouse:
        warehouse.con.execute("CHECKPOINT")
        row = warehouse.one("compact/blocks")
        assert row is not None, "the live file is attached"
        found = Space(row[0] * row[2], row[1] * row[2])
        if found.num_free_bytes < _WORTH_IT * found.num_bytes:
            return found, False
        needed, free = _ROOM_TO_SPARE * (found.num_bytes - found.num_free_bytes), shutil.disk_usage(folder).free
        if free < needed:
            logger.warning(
                "%s keeps its size: a smaller copy needs %.0f MB of free disk, there are %.0f; the next runs fill the %.0f MB that are free inside it",
                live, needed / 1e6, free / 1e6, found.num_free_bytes / 1e6,
            )  # fmt: skip
            return found, False
        try:
            attach(warehouse.con, fresh, "compact")
            warehouse.run("compact/copy")
            warehouse.con.execute("DETACH compact")  # checkpointed by that
        except BaseException:
            remove_leftovers(folder)
            raise
    for path in (live, fresh):
        assert not Path(f"{path}.wal").exists(), "a checkpointed and closed database has no log, which would not fit another file"
    durable.sync(fresh)
    fresh.replace(live)
    durable.sync(folder)
    return found, True


def remove_leftovers(folder: Path) -> None:
    """Remove what a killed process left of a copy: the file, its log."""
    for left in folder.glob(f".{DATABASE}.compact*"):
        left.unlink()
