"""Reading for people: SQL on the current release, read-only and without access to other files."""

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import duckdb
import polars as pl

from warehouse import sql
from warehouse.migrate import check_version
from warehouse.queries import Queries
from warehouse.release import LOCKED_DOWN, Release, current_release


class Reader(Queries):
    """A release opened for SQL.

    Attributes:
        release: the release.
        con: a read-only DuckDB connection; no other file can be read through it, no extension loaded.
    """

    def __init__(self, folder: Path) -> None:
        """Open the current release of a warehouse.

        Args:
            folder: the warehouse's folder.

        Raises:
            NoReleaseError: there is none.
            SchemaVersionError: another version of AlphaToken wrote it.
            IOException: the file cannot be read.
        """
        for last in (False, False, True):
            self.release: Release = current_release(folder)
            try:
                super().__init__(duckdb.connect(str(self.release.database), read_only=True, config=dict(LOCKED_DOWN)))
                break
            except duckdb.IOException:
                if last or self.release.database.is_file():  # not pruned between the look at CURRENT and the opening: a real fault
                    raise
        try:
            check_version(self.con)
        except BaseException:
            self.con.close()
            raise

    def sql(self, query: str) -> pl.DataFrame:
        """Run one SQL query.

        Returns:
            its rows.

        Raises:
            duckdb.Error: the query is wrong, or wants to write or to read files.
        """
        return sql.frame(self.con, query)


@contextmanager
def read(folder: Path) -> Generator[Reader]:
    """Open the current release for the time of the block."""
    reader = Reader(folder)
    try:
        yield reader
    finally:
        reader.con.close()
