"""What a connection to a release may do and use: read this one file, within bounds of memory, spilling to a folder of its own."""

import itertools
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

import duckdb

from warehouse.connect import attach
from warehouse.settings import MEMORY_LIMIT

_NO_EXTENSIONS = {"autoinstall_known_extensions": False, "autoload_known_extensions": False, "allow_community_extensions": False}

_SHARE_OF_MEMORY = 0.6
"""Of the machine, which a reader takes at most where it has little."""

_SPILL = ".spill-"


_numbers = itertools.count()
"""Of the connections of this process."""


def connect(database: Path, limits: Mapping[str, str], *, allow_files: bool = False) -> duckdb.DuckDBPyConnection:
    """Open a release's file for reading, and lock the door behind it: nothing is written, no other file reached, no option changed.

    The file is attached to a database in memory, which then goes: only an attachment can say how many rows a row group has, and with its
    default of 122,880 DuckDB reads a table of 100,000 long lists on one thread.

    Args:
        database: the file.
        limits: of `bounds`.
        allow_files: whether SQL may reach other files.

    Returns:
        the connection.

    Raises:
        IOException: the file cannot be read, or is not there.
        duckdb.Error: it is damaged.
    """
    con = duckdb.connect(config={**_NO_EXTENSIONS, **limits})
    try:
        attach(con, database, read_only=True)
        con.execute("USE alphatoken")
        con.execute("DETACH memory")
        if not allow_files:
            con.execute("SET enable_external_access = false")
        con.execute("SET lock_configuration = true")
    except BaseException:
        con.close()
        raise
    return con


def bounds(releases: Path, release_id: str, memory_limit: str | None) -> dict[str, str]:
    """Bound the memory of a reader, whose process computes beside it, and name the folder that DuckDB spills to.

    Without a bound DuckDB takes four fifths of the machine. The folder is one per connection, as SQL can reach it in spite of the lock;
    DuckDB makes it when it spills first and removes it with the connection.

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
        "temp_directory": str((parent / f"{_SPILL}{os.getpid()}-{next(_numbers)}-{release_id}").absolute()),
    }


def _default_limit() -> str:
    share = _SHARE_OF_MEMORY * os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e6
    return MEMORY_LIMIT if share > 1000 * int(MEMORY_LIMIT.removesuffix("GB")) else f"{int(share)}MB"


def remove_spilled(releases: Path) -> None:
    """Remove what killed readers spilled."""
    for folder in releases.glob(f"{_SPILL}*"):
        if Path("/proc").exists() and not Path("/proc", folder.name.split("-")[1]).exists():
            shutil.rmtree(folder, ignore_errors=True)  # another process may clean at the same time
