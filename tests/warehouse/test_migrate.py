"""Laws of warehouse/migrate.py and of the SQL files: the documented columns are the live ones, each file is one used statement."""

import re

import duckdb
import pytest

from warehouse import migrate, prune, sql
from warehouse.connect import DATABASE, Warehouse
from warehouse.migrate import SCHEMA_VERSION, VIEWS, SchemaVersionError, check_version, columns, comment_text

ROOT = sql.FOLDER.parent.parent
FILES = sorted(str(path.relative_to(sql.FOLDER).with_suffix("")) for path in sql.FOLDER.rglob("*.sql"))
FOLDERS = sorted({name.split("/")[0] for name in FILES})
DYNAMIC = {
    "values/insert_{group}": ["values/insert_adapt", "values/insert_stab", "values/insert_signals", "values/insert_ref_signals"],
    "export/{name}": ["export/rows", "export/pairs"],
    "prune/delete_{kind}": [f"prune/delete_{kind}" for kind in prune._TABLES],
    "release/{name}": ["release/receipts", "release/runs"],
    "views/{name}": [f"views/{name}" for name in VIEWS],
}
"""Names that Python puts together, and what they may become."""


@pytest.fixture(scope="module")
def con(tmp_path_factory):
    with Warehouse(tmp_path_factory.mktemp("migrate") / "wh") as warehouse:
        yield warehouse.con


def header_and_statement(name):
    lines = sql.load(name).splitlines()
    length = next(i for i, line in enumerate(lines) if not line.startswith("--"))
    return "\n".join(lines[:length]), "\n".join(lines[length:])


# ---- columns.yaml


def test_the_documented_columns_are_those_of_the_live_views_with_type_order_and_comment(con):
    live = {}
    for view, column, kind, comment in con.execute(
        "SELECT table_name, column_name, data_type, comment FROM duckdb_columns() "
        "WHERE schema_name = 'main' AND database_name = 'alphatoken' ORDER BY table_name, column_index"
    ).fetchall():
        live.setdefault(view, []).append((column, kind, comment))
    documented = {
        view: [(name, column["type"], comment_text(column)) for name, column in entry["columns"].items()]
        for view, entry in columns().items()
    }
    assert set(live) == set(documented)
    for view in documented:
        assert live[view] == documented[view], view
        assert all(comment.strip() for _, _, comment in live[view])


def test_every_view_of_users_has_its_comment(con):
    live = con.execute("SELECT view_name, comment FROM duckdb_views() WHERE schema_name = 'main' AND NOT internal").fetchall()
    assert dict(live) == {view: entry["comment"] for view, entry in columns().items()}
    assert all(entry["comment"].strip() for entry in columns().values())


def test_a_comment_tells_meaning_unit_and_null_and_no_entry_has_more():
    for entry in columns().values():
        for column in entry["columns"].values():
            assert {"type", "meaning"} <= set(column) <= {"type", "meaning", "unit", "null"}
    assert (
        comment_text({"type": "FLOAT", "meaning": "The loss.", "unit": "nats", "null": "none exists"})
        == "The loss. Unit: nats. NULL: none exists."
    )
    assert comment_text({"type": "FLOAT", "meaning": "The loss."}) == "The loss."


def test_the_internal_views_are_not_shown_to_users(con):
    shown = {row[0] for row in con.execute("SELECT view_name FROM duckdb_views() WHERE schema_name = 'main' AND NOT internal").fetchall()}
    hidden = {row[0] for row in con.execute("SELECT view_name FROM duckdb_views() WHERE schema_name = 'record'").fetchall()}
    assert hidden == {
        "current_pairs", "current_sequences", "mask_rows", "masked_sequences", "pairs_all", "sequence_weights", "value_lists",
        "value_lists_all",
    }  # fmt: skip
    assert shown | hidden == set(VIEWS)


# ---- the stamp


def test_every_view_file_is_made_and_every_view_has_a_file():
    assert sorted(f"views/{name}" for name in VIEWS) == [name for name in FILES if name.startswith("views/")]
    assert len(set(VIEWS)) == len(VIEWS)


@pytest.mark.parametrize("stamp", [SCHEMA_VERSION + 1, 0])
def test_another_schema_version_is_refused_with_both_numbers_and_nothing_is_changed(tmp_path, stamp):
    with Warehouse(tmp_path) as warehouse:
        warehouse.con.execute("UPDATE record.meta SET schema_version = ?", [stamp]).fetchall()
    with pytest.raises(SchemaVersionError, match=rf"version {stamp},.* version {SCHEMA_VERSION};"):
        Warehouse(tmp_path)
    with duckdb.connect(str(tmp_path / DATABASE)) as con:
        assert con.execute("SELECT schema_version FROM record.meta").fetchall() == [(stamp,)]
        with pytest.raises(SchemaVersionError):
            check_version(con)


def test_a_stamp_that_is_missing_is_refused(tmp_path):
    with Warehouse(tmp_path) as warehouse:
        warehouse.con.execute("DELETE FROM record.meta").fetchall()
    with pytest.raises(SchemaVersionError, match="version none"):
        Warehouse(tmp_path)


def test_opening_again_leaves_schema_and_rows_as_they_are(tmp_path):
    with Warehouse(tmp_path) as warehouse, warehouse.transaction():
        warehouse.point("snapshot", "s")
    with Warehouse(tmp_path) as warehouse:
        assert warehouse.pointer("snapshot") == "s"
        assert warehouse.con.execute("SELECT count(*) FROM record.meta").fetchall() == [(1,)]


def test_a_schema_that_was_being_made_when_the_process_died_is_made_again(tmp_path, monkeypatch):
    monkeypatch.setattr(migrate, "VIEWS", (*VIEWS, "no_such_view"))
    with pytest.raises(FileNotFoundError):
        Warehouse(tmp_path)
    monkeypatch.undo()
    with Warehouse(tmp_path) as warehouse:
        assert warehouse.con.execute("SELECT count(*) FROM record.meta").fetchall() == [(1,)]
        assert len(warehouse.con.execute("FROM examples").fetchall()) == 0


# ---- SQL files


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_one_commented_statement_with_the_declared_parameters(name):
    header, statement = header_and_statement(name)
    assert header.removeprefix("--").strip(), "a header says what it is for"
    assert statement.strip()
    statements = duckdb.extract_statements(statement)
    if name.startswith("schema/"):
        assert len(statements) > 1
        return
    assert len(statements) == 1
    assert not statement.rstrip().endswith(";")
    # a named query, which users call, has a line per parameter, with default and meaning
    declared = "".join(re.findall(r"^-- \$\w+", header, flags=re.M)) if name.startswith("queries/") else header.partition("Parameters:")[2]
    assert set(re.findall(r"\$(\w+)", declared)) == set(statements[0].named_parameters)


def referred():
    """Every name of an SQL file that the packages mention, literal ones and those put together."""
    pattern = re.compile(rf'"((?:{"|".join(FOLDERS)})/[a-z_]+(?:{{\w+}})?|(?:{"|".join(FOLDERS)})/{{\w+}})"')
    found = set()
    for package in ("flows", "tasks", "models", "warehouse", "reports"):
        for path in (ROOT / package).rglob("*.py"):
            code = re.sub(r'""".*?"""', "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
            found |= set(pattern.findall(code))
    return found


def test_every_file_is_used_and_every_name_has_its_file():
    names = referred()
    assert {name for name in names if "{" in name} == set(DYNAMIC)
    used = {real for name in names for real in DYNAMIC.get(name, [name])} | {
        name for name in FILES if name.startswith("queries/")
    }  # for users
    assert used - set(FILES) == set(), "mentioned and not there"
    assert set(FILES) - used == set(), "there and not used"


def test_a_name_without_a_file_is_an_error():
    with pytest.raises(FileNotFoundError):
        sql.load("values/nothing_of_the_kind")
