"""Releases: immutable copies of the warehouse that readers open, so that no reader ever meets the writer.

`releases/<id>/alphatoken.duckdb` with a `manifest.json`; the file `releases/CURRENT` names the newest. A release is complete before
CURRENT names it. The identity of a release is the digest of all receipts, runs and pointers: an unchanged warehouse gives the
release that is there already, and nothing is written.
"""

import errno
import fcntl
import itertools
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

from warehouse import durable, faults, reader_options
from warehouse.connect import DATABASE, Warehouse
from warehouse.digests import digest
from warehouse.holds import held
from warehouse.migrate import check_version

_FICLONE = 0x40049409
"""Linux ioctl: share the blocks of a file (btrfs, xfs, ...) instead of copying them."""


_ANNOUNCED = "announced"

_numbers = itertools.count()
"""Of the marks of this process."""


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

    @property
    def announced(self) -> Path:
        """The file that is there once those who wait for new data have been told of it, so that a run killed before that is made up for."""
        return self.folder / _ANNOUNCED

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
    while True:
        release_id = pointer.read_text().strip()
        try:
            return _read(folder / "releases" / release_id)
        except FileNotFoundError as error:
            if pointer.read_text().strip() == release_id:  # else a newer one was written, and this one pruned, between the two looks
                raise NoReleaseError(
                    f"the current release {release_id} of {folder} is gone: somebody removed it; `alphatoken mask CONFIG` writes it again"
                ) from error


def connect(
    folder: Path, mark: str | None = None, *, allow_files: bool = False, memory_limit: str | None = None
) -> tuple[duckdb.DuckDBPyConnection, Release]:
    """Open the current release read-only; look again when it is pruned between the look at CURRENT and the opening.

    Args:
        folder: the warehouse's folder.
        mark: name of a file that names this process as a reader, so that the release is not pruned meanwhile; None for none. In a folder
            that cannot be written there is no mark; the file stays readable for whoever has it open.
        allow_files: whether SQL may reach other files.
        memory_limit: what DuckDB may hold in memory; None for `reader_options.bounds`.

    Returns:
        (connection, release); the caller closes the one and takes the mark off the other.

    Raises:
        NoReleaseError: there is none.
        SchemaVersionError: another version of AlphaToken wrote it.
        DamagedDatabaseError: its file is damaged.
        IOException: its file cannot be read.
    """
    while True:
        release = current_release(folder)
        try:
            if mark is not None:
                with _where_writable():
                    (release.folder / mark).touch()
            with faults.reading(release.release_id, release.folder):
                limits = reader_options.bounds(folder / "releases", release.release_id, memory_limit)
                con = reader_options.connect(release.database, limits, allow_files=allow_files)
                try:
                    check_version(con)
                except BaseException:
                    con.close()
                    raise
            return con, release
        except BaseException as error:
            if mark is not None:
                _unmark(release, mark)
            if not isinstance(error, duckdb.IOException | FileNotFoundError) or release.folder.is_dir():
                raise  # a real fault


def _unmark(release: Release, mark: str) -> None:
    with _where_writable():
        (release.folder / mark).unlink(missing_ok=True)


@contextmanager
def _where_writable() -> Generator[None]:
    """Do without a mark where the folder cannot be written."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.EROFS, errno.EACCES, errno.EPERM):
            raise


def _read(folder: Path) -> Release:
    manifest = json.loads((folder / "manifest.json").read_text())
    return Release(manifest["release_id"], folder, datetime.fromisoformat(manifest["created_at"]))


def write_release(folder: Path, keep: int, *, brings_data: bool = True) -> tuple[Release, bool]:
    """Copy the closed, checkpointed warehouse to a new release and make it current.

    Call it while holding the writer's lock, with no connection open. While the state is held back by a data alert, nothing is written.

    Args:
        folder: the warehouse's folder.
        keep: releases kept, the new one included; those that a reader names stay, too.
        brings_data: whether there may be something new to train on; where not, nobody waits for it who was told of the one before.

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
        durable.write(partial / "manifest.json", json.dumps(manifest).encode())
        if not brings_data and pointer.is_file() and current_release(folder).announced.is_file():
            (partial / _ANNOUNCED).touch()
        partial.rename(target)
        durable.sync(releases)  # before CURRENT names it
    durable.write(pointer, release_id.encode())
    prune_releases(folder, keep)
    return current_release(folder), True


def is_released(warehouse: Warehouse) -> bool:
    """Tell whether the current release has everything that an open warehouse has."""
    pointer = warehouse.folder / "releases" / "CURRENT"
    return pointer.is_file() and pointer.read_text().strip() == _identity(warehouse)


def _identity(warehouse: Warehouse) -> str:
    rows: list[Any] = [warehouse.run(f"release/{name}").fetchall() for name in ("receipts", "runs")]
    return digest("release", [*rows, list(warehouse.pointers().items())])[:16]


def _copy(source: Path, target: Path) -> None:
    """Copy a file, sharing its blocks where the file system can, and wait until it is on disk."""
    with source.open("rb") as read, target.open("wb") as write:
        try:
            fcntl.ioctl(write.fileno(), _FICLONE, read.fileno())
            shares = True
        except OSError:
            shares = False
    if not shares:  # not this file system: an ordinary copy, inside the kernel
        shutil.copyfile(source, target)
    durable.sync(target)


def outdated(folder: Path, keep: int, *, num_to_come: int = 0) -> list[Release]:
    """List the releases that nobody needs: all but the newest `keep`, the current one and those that a living reader names.

    Args:
        folder: the warehouse's folder.
        keep: releases kept.
        num_to_come: releases that will be written before these go, and count.

    Returns:
        them, the newest first.
    """
    releases = folder / "releases"
    pointer = releases / "CURRENT"
    current = pointer.read_text().strip() if pointer.is_file() and not num_to_come else None
    there = [path for path in releases.iterdir() if (path / "manifest.json").is_file()] if releases.is_dir() else []
    found = sorted(map(_read, there), key=lambda r: r.created_at, reverse=True)
    return [release for release in found[max(keep - num_to_come, 0) :] if release.release_id != current and not _readers(release)]


def prune_releases(folder: Path, keep: int) -> None:
    """Remove outdated releases and what killed runs left of others. Call it while holding the writer's lock."""
    releases = folder / "releases"
    reader_options.remove_spilled(releases)
    for leftover in releases.glob(".*.partial"):
        if leftover.is_dir():
            shutil.rmtree(leftover)
    for release in outdated(folder, keep):
        doomed = releases / f".{release.release_id}.partial"
        release.folder.rename(doomed)  # whole or gone for whoever looks, also when this process is killed in between
        shutil.rmtree(doomed)


def _readers(release: Release) -> list[Path]:
    """List the marks of readers whose process lives; marks of dead ones are removed."""
    living = []
    for mark in release.folder.glob("reader-*"):
        if Path("/proc", mark.name.split("-")[1]).exists() or not Path("/proc").exists():
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
    mark = f"reader-{os.getpid()}-{next(_numbers)}"  # one for each: another reader of this process may be done earlier
    con, release = connect(folder, mark)
    try:
        with con, faults.reading(release.release_id, release.folder):
            yield con, release
    finally:
        _unmark(release, mark)
