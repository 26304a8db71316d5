"""Loads SQL files by name: `load("values/insert_direction_values")`. Nothing else opens them."""

from functools import cache
from pathlib import Path

import duckdb
import polars as pl

FOLDER = Path(__file__).parent


@cache
def load(name: str) -> str:
    """Read one SQL file.

    Returns:
        its text: one statement with parameters as `$name`.

    Raises:
        FileNotFoundError: there is no such file.
    """
    return (FOLDER / f"{name}.sql").read_text(encoding="utf-8")


def frame(con: duckdb.DuckDBPyConnection, query: str, parameters: dict[str, object] | None = None) -> pl.DataFrame:
    """Run a query and fetch its rows as a Polars frame."""
    con.complete()  # a result that nobody fetched, such as the count of an INSERT, is in the way
    relation = con.sql(query, params=parameters or None)
    if relation is None:  # a statement without rows
        return pl.DataFrame()
    result = pl.from_arrow(relation.to_arrow_table())
    assert isinstance(result, pl.DataFrame), "a table becomes a frame"
    return result
