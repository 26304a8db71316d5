"""Reading for people: SQL on the current release, read-only and without access to other files."""

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Self

import duckdb
import polars as pl

from warehouse import faults, named_queries, sql
from warehouse.queries import Queries
from warehouse.release import Release, connect


class Reader(Queries):
    """A release opened for SQL; it stays the same release until it is closed. May be used as a context manager.

    Attributes:
        release: the release.
        con: a read-only DuckDB connection; no other file can be read through it, no extension loaded.
    """

    def __init__(self, folder: Path, *, allow_files: bool = False, memory_limit: str | None = None) -> None:
        """Open the current release of a warehouse.

        Args:
            folder: the warehouse's folder.
            allow_files: whether queries may read and write other files. The release stays read-only. All readers that a process has
                open at one time must have the same.
            memory_limit: what DuckDB may hold in memory, as it writes sizes, before it spills to disk; None: 3 GB, less on a small machine.
                All readers that a process has open at one time must have the same.

        Raises:
            NoReleaseError: there is none.
            SchemaVersionError: another version of AlphaToken wrote it.
            DamagedDatabaseError: its file is damaged.
            IOException: its file cannot be read.
        """
        con, release = connect(folder, allow_files=allow_files, memory_limit=memory_limit)
        super().__init__(con)
        self.release: Release = release

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        self.close()
        if error is not None and faults.damaged(error):  # what came out of the block by another way than `sql` and `named`
            with self._explained():
                raise error

    def _explained(self) -> AbstractContextManager[None]:
        return faults.reading(self.release.release_id, self.release.folder)

    def close(self) -> None:
        """Close the connection."""
        self.con.close()

    def sql(self, query: str, /, **parameters: Any) -> pl.DataFrame:
        """Run one SQL query.

        Args:
            query: the query; `$name` stands for a parameter.
            parameters: their values.

        Returns:
            its rows. `.to_arrow()` and `.to_pandas()` of the frame give the other forms.

        Raises:
            duckdb.Error: the query is wrong, or wants to write or to read files; or parameters are missing or too many.
            DamagedDatabaseError: what it reads of the release is damaged.
        """
        with self._explained():
            return sql.frame(self.con, query, parameters)

    def named(self, name: str, /, **parameters: Any) -> pl.DataFrame:
        """Run one of the queries in `warehouse/sql/queries`.

        Args:
            name: its name, as `named_queries.names()` has it.
            parameters: values that replace the query's defaults.

        Returns:
            its rows.

        Raises:
            ValueError: there is no such query, policy or scoring; or parameters are missing, unknown or of the wrong type.
        """
        query = named_queries.load(name)
        values = named_queries.bind(self, query, parameters)
        try:
            with self._explained():
                return sql.frame(self.con, query.sql, values)
        except (duckdb.ConversionException, duckdb.InvalidInputException) as error:
            given = ", ".join(f"{key}={value}" for key, value in values.items())
            raise ValueError(f"the query {name!r} cannot be answered with {given}: {error}") from error
