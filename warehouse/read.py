"""Reading for people: SQL on the current release, read-only and without access to other files."""

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
import polars as pl

from warehouse import sql
from warehouse.migrate import check_version
from warehouse.release import LOCKED_DOWN, Release, current_release


class Reader:
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
                self.con = duckdb.connect(str(self.release.database), read_only=True, config=dict(LOCKED_DOWN))
                break
            except duckdb.IOException:
                if last or self.release.database.is_file():  # not pruned between the look at CURRENT and the opening: a real fault
                    raise
        try:
            check_version(self.con)
        except BaseException:
            self.con.close()
            raise

    @classmethod
    def over(cls, con: duckdb.DuckDBPyConnection, release: Release) -> "Reader":
        """Read through a connection that is open already."""
        reader = cls.__new__(cls)
        reader.con, reader.release = con, release
        return reader

    def run(self, name: str, /, **parameters: Any) -> duckdb.DuckDBPyConnection:
        """Execute one of our SQL files, as `Warehouse.run` does."""
        return self.con.execute(sql.load(name), parameters or None)

    def one(self, name: str, /, **parameters: Any) -> tuple[Any, ...] | None:
        """Execute an SQL file and fetch its first row, None where there is none; the result is used up, so other work may follow."""
        rows = self.run(name, **parameters).fetchall()
        return rows[0] if rows else None

    def frame(self, name: str, /, **parameters: Any) -> pl.DataFrame:
        """Execute an SQL file and fetch its rows."""
        return sql.frame(self.con, sql.load(name), parameters)

    def pointer(self, name: str) -> str | None:
        """Read which snapshot, tokenization, scoring or mask is the current one."""
        row = self.one("runs/get_pointer", name=name)
        return None if row is None else str(row[0])

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
