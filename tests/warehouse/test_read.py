"""Laws of warehouse/read.py: SQL of users reads the current release and nothing else, and changes nothing."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import duckdb
import polars as pl
import pytest

import warehouse as package
from tests.warehouse.ids import filled, full, short
from warehouse.connect import Warehouse
from warehouse.faults import DamagedDatabaseError
from warehouse.migrate import SchemaVersionError
from warehouse.read import Reader
from warehouse.release import NoReleaseError, write_release


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("read") / "wh"
    with Warehouse(folder) as warehouse, warehouse.transaction():
        warehouse.point("snapshot", "now")
        warehouse.con.execute(filled("INSERT INTO record.examples VALUES ('id:e1', '{}')")).fetchall()
        warehouse.con.execute(filled("INSERT INTO record.snapshot_examples VALUES ('now', 'id:e1', 3, NULL, NULL, 'f', 1)")).fetchall()
    write_release(folder, 2)
    (folder.parent / "secret.csv").write_text("word\nhush\n")
    (folder.parent / "secret.txt").write_text("hush")
    return folder


@pytest.fixture
def reader(folder):
    with Reader(folder) as opened_reader:
        yield opened_reader


def below(folder):
    return {path: path.is_file() and path.read_bytes() for path in folder.parent.rglob("*")}


@pytest.mark.parametrize(
    "query",
    [
        "INSERT INTO record.pointers VALUES ('a', 'b')",
        "DELETE FROM record.examples",
        "UPDATE record.examples SET content = ''",
        "DROP VIEW examples",
        "CREATE TABLE more (a INTEGER)",
        "CREATE OR REPLACE VIEW examples AS SELECT 1",
        "ALTER TABLE record.examples ADD COLUMN more INTEGER",
        "COMMENT ON COLUMN examples.source IS 'mine'",
        "TRUNCATE record.examples",
    ],
)
def test_sql_cannot_write(reader, folder, query):
    before = below(folder)
    with pytest.raises(duckdb.Error, match="read-only"):
        reader.sql(query)
    assert below(folder) == before
    assert reader.sql("SELECT multiplicity FROM examples").rows() == [(3,)]


@pytest.mark.parametrize(
    "query",
    [
        "SELECT * FROM read_csv('{0}/secret.csv')",
        "SELECT * FROM '{0}/secret.csv'",
        "SELECT content FROM read_text('{0}/secret.txt')",
        "SELECT content FROM read_blob('{0}/secret.txt')",
        "SELECT * FROM glob('{0}/*')",
        "SELECT * FROM read_csv('http://localhost:1/a.csv')",
        "ATTACH '{0}/wh/alphatoken.duckdb' AS live",
        "ATTACH '{0}/fresh.duckdb' AS fresh",
        "COPY (SELECT 1) TO '{0}/out.csv'",
        "COPY record.examples TO '{0}/out.parquet'",
        "EXPORT DATABASE '{0}/out'",
        "INSTALL httpfs",
        "LOAD httpfs",
        "LOAD '{0}/secret.txt'",
        "SET enable_external_access = true",
        "SET GLOBAL enable_external_access = true",
        "RESET enable_external_access",
        "SET autoload_known_extensions = true",
        "SET allow_community_extensions = true",
        "SET lock_configuration = false",
        "SET allowed_directories = ['{0}']",
        "SET temp_directory = '{0}/temp'",
    ],
)
def test_sql_cannot_reach_other_files_nor_open_the_door(reader, folder, query):
    before = below(folder)
    with pytest.raises(duckdb.Error):
        reader.sql(query.format(folder.parent))
    with pytest.raises(duckdb.Error, match="disabled"):
        reader.sql(f"SELECT * FROM read_text('{folder.parent}/secret.txt')")
    assert below(folder) == before


def test_several_statements_open_no_door_either(reader, folder):
    with pytest.raises(duckdb.Error):
        reader.sql(f"SET enable_external_access = true; SELECT * FROM read_text('{folder.parent}/secret.txt')")


def test_no_python_object_is_taken_for_a_table(reader):
    """DuckDB looks names up among Python's variables; a wrong name must be told, not found in our own frames."""
    query = "SELECT 1"
    frame = pl.DataFrame({"a": [1]})
    assert (len(frame), query) == (1, "SELECT 1")
    for name in ("frame", "result", "relation", "parameters"):
        with pytest.raises(duckdb.Error):
            reader.sql(f"SELECT * FROM {name}")


def test_frames_have_the_types_of_the_answer(reader):
    frame = reader.sql(
        "SELECT 1::INTEGER AS i, 2::UBIGINT AS u, 0.5::FLOAT AS f, 'a' AS s, true AS b, [1.5::FLOAT, NULL] AS l, NULL::INTEGER AS n, "
        "TIMESTAMP '2026-01-02' AS t"
    )
    assert dict(frame.schema) == {
        "i": pl.Int32, "u": pl.UInt64, "f": pl.Float32, "s": pl.String, "b": pl.Boolean, "l": pl.List(pl.Float32), "n": pl.Int32,
        "t": pl.Datetime("us"),
    }  # fmt: skip
    assert frame.row(0)[:7] == (1, 2, 0.5, "a", True, [1.5, None], None)


def test_an_answer_without_rows_keeps_its_columns(reader):
    frame = reader.sql("SELECT example_id, multiplicity FROM examples WHERE multiplicity > 3")
    assert frame.rows() == []
    assert dict(frame.schema) == {"example_id": pl.String, "multiplicity": pl.UInt32}


def test_a_statement_without_an_answer_gives_an_empty_frame_or_its_own_error(reader):
    assert reader.sql("BEGIN").is_empty()
    assert reader.sql("COMMIT").is_empty()
    assert reader.sql("DESCRIBE examples")["column_name"].to_list()[0] == "example_id"
    with pytest.raises(duckdb.Error):
        reader.sql("SELEC 1")
    assert reader.sql("SELECT 7 AS a").rows() == [(7,)]  # after a fault, too


def test_our_own_files_run_on_a_release(reader):
    assert reader.pointer("snapshot") == "now"
    assert reader.pointer("scoring") is None
    assert reader.one("status/snapshot_ids", snapshot_id="now") == (full("e1"),)
    assert reader.one("status/snapshot_ids", snapshot_id="then") is None
    assert reader.frame("status/snapshot_ids", snapshot_id="now").rows() == [(full("e1"),)]


def test_no_release_is_told_with_the_place_and_what_to_do(tmp_path):
    for place in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(NoReleaseError, match=r"alphatoken value.*--warehouse") as caught, Reader(place):
            pass
        assert str(place) in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_release_of_another_version_is_refused(tmp_path):
    with Warehouse(tmp_path) as warehouse:
        warehouse.con.execute("UPDATE record.meta SET schema_version = 12").fetchall()
        warehouse.con.execute("CHECKPOINT").fetchall()
    release = tmp_path / "releases" / "r"
    release.mkdir(parents=True)
    (release / "alphatoken.duckdb").write_bytes((tmp_path / "alphatoken.duckdb").read_bytes())
    (release / "manifest.json").write_text('{"release_id": "r", "created_at": "2026-01-01T00:00:00+00:00"}')
    (tmp_path / "releases" / "CURRENT").write_text("r")
    with pytest.raises(SchemaVersionError, match="12"):
        Reader(tmp_path)


def test_a_damaged_release_is_an_error_not_an_endless_search(tmp_path):
    with Warehouse(tmp_path) as warehouse:
        warehouse.point("a", "1")
    made, _ = write_release(tmp_path, 2)
    made.database.write_bytes(b"no database " * 1000)
    with pytest.raises(DamagedDatabaseError):
        Reader(tmp_path)
    made.database.unlink()
    with pytest.raises(duckdb.IOException, match=made.database.name):
        Reader(tmp_path)


def test_a_warehouse_is_opened_by_the_packages_own_function(folder):
    with package.open(str(folder)) as opened:
        assert isinstance(opened, Reader)
        assert opened.sql("SELECT multiplicity FROM examples").rows() == [(3,)]
    with pytest.raises(duckdb.ConnectionException):
        opened.sql("SELECT 1")
    kept = package.open(folder)
    assert kept.sql("SELECT 1 AS a").rows() == [(1,)]
    kept.close()


def test_importing_the_package_loads_neither_duckdb_nor_polars():
    script = "import sys, warehouse; sys.exit(bool({'duckdb', 'polars'} & set(sys.modules)))"
    subprocess.run([sys.executable, "-c", script], check=True)


def test_parameters_are_values_and_never_part_of_the_query(reader):
    nasty = "x'; DROP VIEW examples; --"
    assert reader.sql("SELECT $a AS a, $n::INTEGER + 1 AS n, len($l::INTEGER[]) AS l", a=nasty, n="2", l=[1, 2]).rows() == [(nasty, 3, 2)]
    assert reader.sql("SELECT $query AS q", query="taken").rows() == [("taken",)]
    for given in ({}, {"a": 1, "b": 2}):
        with pytest.raises(duckdb.Error):
            reader.sql("SELECT $a AS a", **given)


def test_arrow_and_pandas_have_the_rows_of_the_frame(reader):
    frame = reader.sql("SELECT example_id, multiplicity, source, [1.5::FLOAT, NULL] AS l FROM examples")
    assert short(frame.to_arrow().to_pylist()) == [{"example_id": "e1", "multiplicity": 3, "source": None, "l": [1.5, None]}]
    assert frame.select("example_id", "multiplicity").to_pandas().to_dict("records") == [{"example_id": full("e1"), "multiplicity": 3}]


def test_files_are_open_to_those_who_ask_and_the_release_stays_closed(folder):
    out = folder.parent / "allowed.parquet"
    before = {path: data for path, data in below(folder).items() if "releases" in str(path)}
    with package.open(folder, allow_files=True) as opened:
        assert opened.sql(f"SELECT word, multiplicity FROM '{folder.parent}/secret.csv', examples").rows() == [("hush", 3)]
        opened.sql(f"COPY examples TO '{out}'")
        for query in ("DELETE FROM record.examples", "DROP VIEW examples"):
            with pytest.raises(duckdb.Error, match="read-only"):
                opened.sql(query)
        for query in ("SET autoload_known_extensions = true", "SET allow_community_extensions = true"):
            with pytest.raises(duckdb.Error, match="locked"):
                opened.sql(query)
    assert pl.read_parquet(out)["example_id"].to_list() == [full("e1")]
    assert {path: data for path, data in below(folder).items() if "releases" in str(path)} == before
    with Reader(folder) as closed, pytest.raises(duckdb.Error, match="disabled"):
        closed.sql(f"SELECT * FROM '{out}'")


def test_a_release_is_read_with_as_many_threads_as_it_has_row_groups(reader):
    """DuckDB counts threads by the row group size that the attachment names."""
    query = "SELECT database_name, readonly, options['row_group_size'] AS size FROM duckdb_databases() WHERE NOT internal"
    assert reader.sql(query).rows() == [("alphatoken", True, "8192")]


@pytest.mark.parametrize("allow_files", [False, True])
def test_a_release_cannot_be_taken_off_and_attached_for_writing(folder, allow_files):
    before = {path: data for path, data in below(folder).items() if "releases" in str(path)}
    with Reader(folder, allow_files=allow_files) as reader:
        own = reader.release.database
        for query in (
            "ATTACH ':memory:' AS m", "USE m", "USE temp", "USE system", "DETACH alphatoken", f"ATTACH '{own}' AS alphatoken",
            f"ATTACH '{own}' AS alphatoken (READ_WRITE)", f"ATTACH '{own}' AS twice (READ_WRITE)", f"ATTACH '{own.parent}/../{own.parent.name}/{own.name}' AS twice (READ_WRITE)",
        ):  # fmt: skip
            with pytest.raises(duckdb.Error):
                reader.sql(query)
        reader.sql(f"ATTACH '{own}' AS twice")  # read-only, as its instance is
        reader.sql("USE twice")
        reader.sql("DETACH alphatoken")
        for query in (f"ATTACH '{own}' AS alphatoken (READ_WRITE)", "DETACH twice", "DELETE FROM twice.record.examples"):
            with pytest.raises(duckdb.Error):
                reader.sql(query)
    assert {path: data for path, data in below(folder).items() if "releases" in str(path)} == before


def test_readers_that_open_at_one_time_read_the_same_release(folder):
    def ask(_):
        with Reader(folder) as reader:
            return reader.sql("SELECT multiplicity FROM examples").rows()

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ask, range(40))) == 40 * [[(3,)]]
