"""What a connection to a release may do and use: read this one file, within bounds of memory, spilling to a folder of its own."""

import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from threading import Lock

import duckdb

from warehouse.connect import attach
from warehouse.settings import MEMORY_LIMIT

_LOCKED_DOWN = {
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
    "allow_community_extensions": False,
    "lock_configuration": True,
}

_SHARE_OF_MEMORY = 0.6
"""Of the machine, which a reader takes at most where it has little."""

_SPILL = ".spill-"

_opening = Lock()
"""Readers of one process share DuckDB's instance of a file, which the first of them prepares."""


def connect(database: Path, limits: Mapping[str, str], *, allow_files: bool = False) -> duckdb.DuckDBPyConnection:
    """Open a release's file for reading: nothing is written, no extension loaded, no option changed.

    The file is attached anew to its own, read-only instance: only an attachment can say how many rows a row group has, and with its default
    of 122,880 DuckDB reads a table of 100,000 long lists on one thread.

    Args:
        database: the file.
        limits: of `bounds`; all connections that a process has to a file at one time must have the same.
        allow_files: whether SQL may reach other files; likewise.

    Returns:
        the connection.

    Raises:
        IOException: the file cannot be read, or is not there.
        duckdb.Error: it is damaged.
    """
    with _opening:
        con = duckdb.connect(str(database), read_only=True, config={**_LOCKED_DOWN, "enable_external_access": allow_files, **limits})
        try:
            if not con.execute("SELECT 1 FROM duckdb_databases() WHERE options['row_group_size'] IS NOT NULL").fetchall():
                for name, other in (("anew", "alphatoken"), ("alphatoken", "anew")):
                    attach(con, database, name, read_only=True)
                    con.execute(f"USE {name}")
                    con.execute(f"DETACH {other}")
        except BaseException:
            con.close()
            raise
    return con


def bounds(releases: Path, release_id: str, memory_limit: str | None) -> dict[str, str]:
    """Bound the memory of a reader, whose process computes beside it, and name the folder that DuckDB spills to.

    Without a bound DuckDB takes four fifths of the machine. The folder is one per process and release, as SQL can reach it in spite of
    the lock; DuckDB makes it when it spills first and removes it with the connection.

    Args:
        releases: the folder of the releases; where it cannot be written, the system's temporary folder is used.
        release_id: the release.
        memory_limit: as DuckDB writes sizes; None: the default, less on a small machine.

    Returns:
        options of the connection.
    """
    parent = releases if os.access(releases, os.W_OK) else Path(tempfile.gettempdir())
    return {
        "memory_limit": memory_limit or _default_limit(),
        "temp_directory": str((parent / f"{_SPILL}{os.getpid()}-{release_id}").absolute()),
    }


def _default_limit() -> str:
    share = _SHARE_OF_MEMORY * os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e6
    return MEMORY_LIMIT if share > 1000 * int(MEMORY_LIMIT.removesuffix("GB")) else f"{int(share)}MB"


def remove_spilled(releases: Path) -> None:
    """Remove what killed readers spilled."""
    for folder in releases.glob(f"{_SPILL}*"):
        if Path("/proc").exists() and not Path("/proc", folder.name.split("-")[1]).exists():
            shutil.rmtree(folder, ignore_errors=True)  # another process may clean at the same time
