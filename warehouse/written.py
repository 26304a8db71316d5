"""What the writers of an export share: rows of the release as Arrow batches, and the count of what was written."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import duckdb
import pyarrow as pa

from warehouse import sql

_ROWS_PER_READ = 8192
"""Rows fetched and written at once."""


@dataclass
class Written:
    """What a file holds.

    Attributes:
        num_rows: rows of the file.
        num_tokens: tokens of its rows, times their multiplicity where the rows carry one.
        num_supervised_tokens: those of them that a trainer learns from: kept, at a position above 0.
        num_rows_left_out: examples, duplicates counted, without a row because nothing of them is kept.
    """

    num_rows: int = 0
    num_tokens: int = 0
    num_supervised_tokens: int = 0
    num_rows_left_out: int = 0


def read(con: duckdb.DuckDBPyConnection, name: str, **parameters: Any) -> Iterator[pa.RecordBatch]:
    """Read the rows of a statement of sql/export."""
    yield from con.sql(sql.load(f"export/{name}"), params=parameters).to_arrow_reader(_ROWS_PER_READ)
