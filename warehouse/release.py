"""Releases: immutable copies of the warehouse that readers open, so that no reader ever meets the writer.

`releases/<id>/alphatoken.duckdb` with a `manifest.json`; the file `releases/CURRENT` names the newest. A release is complete before
CURRENT names it. The identity of a release is the digest of all receipts, runs and pointers: an unchanged warehouse gives the
release that is there already, and nothing is written.
"""

import fcntl
import json
import os
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb

from warehouse.connect import DATABASE, Warehouse
from warehouse.digests import digest
from warehouse.migrate import check_version

_FICLONE = 0x40049409
"""Linux ioctl: share the blocks of a file (btrfs, xfs, ...) instead of copying them."""


LOCKED_DOWN = {
    "enable_external_access": False,
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
    "allow_community_extensions": False,
    "lock_configuration": True,
}
"""Options of every connection to a release; all readers of one process must open it with the same."""


HELD = "held"
"""File of a warehouse whose state must not be released, with the reason; a data alert makes it, a run without one removes it."""


class NoReleaseError(FileNotFoundError):
    """The warehouse has no release to read."""


@dataclass(frozen=True)
class Release:
    """A release on disk.

    Attributes:
        release_id: its identity.
        folder: its folder.
        created_at: when it was written, UTC.
    """

    release_id: str
    folder: Path
    created_at: datetime

    @property
    def database(self) -> Path:
        """The DuckDB file."""
        return self.folder / DATABASE

    def age_s(self) -> float:
        """Return the time since it was written, in seconds."""
        return (datetime.now(UTC) - self.created_at).total_seconds()


def current_release(folder: Path) -> Release:
    """Find the newest release of a warehouse.

    Returns:
        the release that CURRENT names.

    Raises:
        NoReleaseError: there is no warehouse or it has no release yet.
    """
    pointer = folder / "releases" / "CURRENT"
    if not pointer.is_file():
        raise NoReleaseError(f"no warehouse with a release at {folder}; run `alphatoken value` first, or name another with --warehouse")
    return _read(folder / "releases" / pointer.read_text().strip())


def _read(folder: Path) -> Release:
    manifest = json.loads((folder / "manifest.json").read_text())
    return Release(manifest["release_id"], folder, datetime.fromisoformat(manifest["created_at"]))


def write_release(folder: Path, keep: int) -> tuple[Release, bool]:
    """Copy the closed, checkpointed warehouse to a new release and make it current.

    Call it while holding the writer's lock, with no connection open. While the state is held back by a data alert, nothing is written.

    Args:
        folder: the warehouse's folder.
        keep: releases kept, the new one included; those that a reader names stay, too.

    Returns:
        (the current release, whether it was written now).
    """
    with Warehouse(folder) as warehouse:
        release_id = _identity(warehouse)
        releases = folder / "releases"
        pointer = releases / "CURRENT"
        there = (releases / release_id / "manifest.json").is_file()
        if there and pointer.is_file() and pointer.read_text().strip() == release_id:
            return current_release(folder), False
        if pointer.is_file() and held(folder) is not None:
            return current_release(folder), False
        warehouse.con.execute("CHECKPOINT")
    releases.mkdir(exist_ok=True)
    target = releases / release_id
    if not there:
        shutil.rmtree(target, ignore_errors=True)  # damaged: nothing of ours leaves a release without its manifest
        partial = releases / f".{release_id}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        _copy(folder / DATABASE, partial / DATABASE)
        manifest = {"release_id": release_id, "created_at": datetime.now(UTC).isoformat(), "num_bytes": (partial / DATABASE).stat().st_size}
        _write_synced(partial / "manifest.json", json.dumps(manifest))
        partial.rename(target)
    _write_synced(releases / ".CURRENT.partial", release_id)
    (releases / ".CURRENT.partial").replace(pointer)
    _sync_folder(releases)
    _prune(releases, release_id, keep)
    return current_release(folder), True


def is_released(warehouse: Warehouse) -> bool:
    """Tell whether the current release has everything that an open warehouse has."""
    pointer = warehouse.folder / "releases" / "CURRENT"
    return pointer.is_file() and pointer.read_text().strip() == _identity(warehouse)


def hold(folder: Path, reason: str) -> None:
    """Keep further releases back until `unhold`."""
    _write_synced(folder / HELD, reason)


def unhold(folder: Path) -> None:
    """Let releases be written again."""
    (folder / HELD).unlink(missing_ok=True)


def held(folder: Path) -> str | None:
    """Return why releases are kept back; None where they are not."""
    path = folder / HELD
    return path.read_text() if path.is_file() else None


def _identity(warehouse: Warehouse) -> str:
    rows: list[Any] = [warehouse.run(f"release/{name}").fetchall() for name in ("receipts", "runs", "pointers")]
    return digest("release", rows)[:16]


def _copy(source: Path, target: Path) -> None:
    """Copy a file, sharing its blocks where the file system can, and wait until it is on disk."""
    with source.open("rb") as read, target.open("wb") as write:
        try:
            fcntl.ioctl(write.fileno(), _FICLONE, read.fileno())
        except OSError:  # not this file system: an ordinary copy
            shutil.copyfileobj(read, write, 1 << 22)
        write.flush()
        os.fsync(write.fileno())


def _write_synced(path: Path, text: str) -> None:
    with path.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _prune(releases: Path, current: str, keep: int) -> None:
    """Remove old releases: all but the newest `keep` and those that a living reader names."""
    for leftover in releases.glob(".*.partial"):
        if leftover.is_dir():
            shutil.rmtree(leftover)
    found = sorted((_read(p) for p in releases.iterdir() if (p / "manifest.json").is_file()), key=lambda r: r.created_at, reverse=True)
    for release in found[keep:]:
        if release.release_id != current and not _readers(release):
            doomed = releases / f".{release.release_id}.partial"
            release.folder.rename(doomed)  # whole or gone for whoever looks, also when this process is killed in between
            shutil.rmtree(doomed)


def _readers(release: Release) -> list[Path]:
    """List the marks of readers whose process lives; marks of dead ones are removed."""
    living = []
    for mark in release.folder.glob("reader-*"):
        if Path("/proc", mark.name.removeprefix("reader-")).exists() or not Path("/proc").exists():
            living.append(mark)
        else:
            mark.unlink(missing_ok=True)
    return living


@contextmanager
def opened(folder: Path) -> Generator[tuple[duckdb.DuckDBPyConnection, Release]]:
    """Open the current release read-only and name it, so that it is not pruned meanwhile.

    Yields:
        (connection, release).
    """
    release = current_release(folder)
    mark = release.folder / f"reader-{os.getpid()}"
    mark.touch()
    try:
        with duckdb.connect(str(release.database), read_only=True, config=dict(LOCKED_DOWN)) as con:
            check_version(con)
            yield con, release
    finally:
        mark.unlink(missing_ok=True)
