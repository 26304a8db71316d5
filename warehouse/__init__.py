"""DuckDB side of AlphaToken: schema, writes, policies, releases, streams. No torch, no Prefect."""

from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from warehouse.read import Reader


def open(path: str | PathLike[str], *, allow_files: bool = False, memory_limit: str | None = None) -> "Reader":
    """Open the current release of a warehouse for SQL: `warehouse.open("alphatoken-warehouse").sql("SELECT ...")` gives a Polars frame.

    Args:
        path: the warehouse's folder.
        allow_files: whether queries may read and write other files; the release is read-only in any case.
        memory_limit: what DuckDB may hold in memory before it spills to disk, such as "8GB"; None: 3 GB, less on a small machine.

    Returns:
        the reader, at best used in a `with` statement; it stays on its release while newer ones are written.

    Raises:
        NoReleaseError: there is none.
        SchemaVersionError: another version of AlphaToken wrote it.
    """
    from warehouse.read import Reader  # here, so that importing a part of the package does not import DuckDB and Polars

    return Reader(Path(path), allow_files=allow_files, memory_limit=memory_limit)
