"""The schema: made once, stamped with a version, every column of the views commented from columns.yaml."""

from importlib.resources import files
from typing import Any

import duckdb
import yaml

from warehouse import sql

SCHEMA_VERSION = 5

VIEWS = (
    "current_sequences", "mask_rows", "masked_sequences", "current_pairs", "pairs_all", "sequence_weights", "value_lists", "value_lists_all",
    "examples", "sequences", "pairs", "snapshots", "token_values", "token_values_all", "token_masks", "example_values", "scorings", "masks", "runs",
    "rejected_rows", "trainings", "training_metrics",
)  # fmt: skip
"""Files of sql/views, in an order in which each finds what it reads."""


class SchemaVersionError(RuntimeError):
    """The file was written by another version of AlphaToken."""


def columns() -> dict[str, Any]:
    """Read columns.yaml: view to its comment and its columns' type, meaning, unit and meaning of NULL."""
    loaded: dict[str, Any] = yaml.safe_load(files("warehouse").joinpath("columns.yaml").read_text(encoding="utf-8"))
    return loaded


def comment_text(column: dict[str, str]) -> str:
    """Write a column's entry as one comment."""
    parts = [column["meaning"]]
    if "unit" in column:
        parts.append(f"Unit: {column['unit']}.")
    if "null" in column:
        parts.append(f"NULL: {column['null']}.")
    return " ".join(parts)


def ensure_schema(con: duckdb.DuckDBPyConnection) -> None:
    """Create the schema in an empty database; check the stamp of an existing one.

    Raises:
        SchemaVersionError: the file has another version's stamp.
    """
    found = con.execute("SELECT 1 FROM duckdb_schemas() WHERE schema_name = 'record'").fetchall()  # to list tables would take 11 ms
    if not found:
        con.execute("BEGIN")
        con.execute(sql.load("schema/tables"))
        con.execute(sql.load("schema/macros"))
        con.execute("INSERT INTO record.meta VALUES ($version, make_timestamp(epoch_us(now())))", {"version": SCHEMA_VERSION})
        for name in VIEWS:
            con.execute(sql.load(f"views/{name}"))
        _comment(con)
        con.execute("COMMIT")
        return
    check_version(con)


def check_version(con: duckdb.DuckDBPyConnection) -> None:
    """Compare the stamp of an open database with this version.

    Raises:
        SchemaVersionError: they differ.
    """
    rows = con.execute("SELECT schema_version FROM record.meta").fetchall()
    if rows != [(SCHEMA_VERSION,)]:
        raise SchemaVersionError(
            f"this warehouse has schema version {rows[0][0] if rows else 'none'}, this AlphaToken reads and writes version {SCHEMA_VERSION}; "
            "use the version that wrote it, or value the data again in a new warehouse.path"
        )


def _comment(con: duckdb.DuckDBPyConnection) -> None:
    """Write columns.yaml into the database. COMMENT takes no parameters: quotes are doubled, names come from our own file."""
    for view, entry in columns().items():
        con.execute(f"COMMENT ON VIEW {view} IS '{_quoted(entry['comment'])}'")
        for column, description in entry["columns"].items():
            con.execute(f"COMMENT ON COLUMN {view}.{column} IS '{_quoted(comment_text(description))}'")


def _quoted(text: str) -> str:
    return text.replace("'", "''")
