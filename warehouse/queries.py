"""Our SQL files on a connection: what a writer, a reader and a training have in common."""

from typing import Any

import duckdb
import polars as pl
import pyarrow as pa

from warehouse import sql


class Queries:
    """A DuckDB connection that executes SQL files by name.

    Attributes:
        con: the connection.
    """

    def __init__(self, con: duckdb.DuckDBPyConnection) -> None:
        """Wrap a connection."""
        self.con = con

    def run(self, name: str, /, **parameters: Any) -> duckdb.DuckDBPyConnection:
        """Execute an SQL file with its parameters.

        Returns:
            the connection, to fetch from.
        """
        return self.con.execute(sql.load(name), parameters or None)

    def one(self, name: str, /, **parameters: Any) -> tuple[Any, ...] | None:
        """Execute an SQL file and fetch its first row, None where there is none; the result is used up, so other work may follow."""
        rows = self.run(name, **parameters).fetchall()
        return rows[0] if rows else None

    def only(self, name: str, /, **parameters: Any) -> tuple[Any, ...]:
        """Execute an SQL file that has exactly one row, and fetch it."""
        row = self.one(name, **parameters)
        assert row is not None, f"{name} has exactly one row"
        return row

    def frame(self, name: str, /, **parameters: Any) -> pl.DataFrame:
        """Execute an SQL file and fetch its rows."""
        return sql.frame(self.con, sql.load(name), parameters)

    def batches(self, name: str, num_rows: int, /, **parameters: Any) -> pa.RecordBatchReader:
        """Execute an SQL file and stream its rows as Arrow batches; nothing else may be executed meanwhile."""
        self.con.complete()
        return self.con.sql(sql.load(name), params=parameters or None).to_arrow_reader(num_rows)

    def pointers(self) -> dict[str, str]:
        """Read what is current: snapshot, tokenization, scoring, the mask of each policy; identities by name."""
        return dict(self.run("runs/get_pointers").fetchall())

    def pointer(self, name: str) -> str | None:
        """Read which snapshot, tokenization, scoring or mask is the current one."""
        return self.pointers().get(name)
