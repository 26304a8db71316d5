"""Faults of the machine that a DuckDB message alone does not explain: a full disk, a damaged file. What, where, and what to do."""

import errno
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from shlex import quote

import duckdb

DATABASE = "alphatoken.duckdb"
"""The live file, and the file of a release; the database's name inside DuckDB is its stem, in releases too."""

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NO_SPACE_TEXTS = ("No space left on device", "Disk quota exceeded", "File too large")
_DAMAGED_TEXTS = ("Corrupt database file", "not a valid DuckDB database file", "Could not read enough bytes", "Failure while replaying WAL")


class DiskFullError(OSError):
    """A write found no room."""


class DamagedDatabaseError(RuntimeError):
    """A database file, live or released, is not what was written."""


def no_space(error: BaseException) -> bool:
    """Whether a write failed for want of room: disk, quota or largest size of a file."""
    if isinstance(error, duckdb.Error):
        return any(text in str(error) for text in _NO_SPACE_TEXTS)
    return isinstance(error, OSError) and error.errno in _NO_SPACE


def damaged(error: BaseException) -> bool:
    """Whether DuckDB found a file that is cut, overwritten or fails its checksums."""
    return isinstance(error, duckdb.Error) and any(text in str(error) for text in _DAMAGED_TEXTS)


@contextmanager
def writing(folder: Path) -> Generator[None]:
    """Explain faults of writing a warehouse that come out of the block.

    Args:
        folder: the warehouse's folder.

    Yields:
        nothing.

    Raises:
        DiskFullError: there is no room left.
        DamagedDatabaseError: the live file is damaged.
        Error: another fault of DuckDB, as it came.
        OSError: another fault of the system, as it came.
    """
    try:
        yield
    except (duckdb.Error, OSError) as error:
        if not isinstance(error, DiskFullError) and no_space(error):
            raise DiskFullError(
                f"no room left while writing the warehouse {folder}: {_first_line(error)}. Free some space (`alphatoken prune` tells what old "
                "scorings and masks take), or move the folder and set warehouse.path; then run again: it goes on from what was committed, "
                "which is all there"
            ) from error
        if damaged(error):
            raise DamagedDatabaseError(f"{folder / DATABASE} is damaged: {_first_line(error)}. {_restore(folder)}") from error
        raise


def _restore(folder: Path) -> str:
    """Say how to come back from a damaged live file."""
    live, releases = folder / DATABASE, folder / "releases"
    pointer = releases / "CURRENT"
    release = releases / pointer.read_text().strip() / DATABASE if pointer.is_file() else None
    if release is None or not release.is_file():
        return f"There is no release to restore it from: remove {live} and value the data again"
    return (
        f"The last release is a whole copy: rm -f {quote(f'{live}.wal')} && cp {quote(str(release))} {quote(str(live))}, then run again; what was "
        "committed since the release is computed again. Artefacts and finished parts are files of their own and stay"
    )


@contextmanager
def reading(release_id: str, folder: Path) -> Generator[None]:
    """Explain faults of a damaged release that come out of the block.

    Args:
        release_id: the release.
        folder: its folder.

    Yields:
        nothing.

    Raises:
        DamagedDatabaseError: its file is damaged.
        Error: another fault of DuckDB, as it came.
    """
    try:
        yield
    except duckdb.Error as error:
        if damaged(error):
            raise DamagedDatabaseError(
                f"release {release_id} is damaged: {_first_line(error)}. Its file is {folder / DATABASE}; the live database is another one. Remove "
                f"the folder {folder} and run `alphatoken mask CONFIG`, which writes the release again"
            ) from error
        raise


def _first_line(error: BaseException) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
