"""Laws of warehouse/release.py: nothing changed writes nothing, a killed run does no harm, what a reader has open stays."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import duckdb
import pytest

from tests.warehouse import written
from warehouse import durable
from warehouse import release as module
from warehouse.connect import DATABASE, Warehouse
from warehouse.faults import DamagedDatabaseError
from warehouse.migrate import SchemaVersionError
from warehouse.read import Reader
from warehouse.release import NoReleaseError, current_release, opened, write_release

ROOT = Path(__file__).parents[2]
READER = """
import sys
from pathlib import Path
from warehouse.release import opened
with opened(Path(sys.argv[1])) as (con, release):
    print(release.release_id, flush=True)
    sys.stdin.readline()
    print(con.execute("SELECT value FROM record.pointers").fetchall()[0][0], flush=True)
"""


def change(folder, value):
    with Warehouse(folder) as warehouse, warehouse.transaction():
        warehouse.point("a", value)


def make(folder, value, keep=2):
    change(folder, value)
    return write_release(folder, keep)[0]


def value_of(release):
    with duckdb.connect(str(release.database), read_only=True) as con:
        return con.execute("SELECT value FROM record.pointers WHERE name = 'a'").fetchall()[0][0]


def state(folder):
    """Every file below a folder with bytes, inode and times."""
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.stat().st_ino, path.is_file() and path.read_bytes())
        for path in sorted(folder.rglob("*"))
    }


def names(folder):
    """Releases on disk, and whatever else lies there."""
    return {path.name for path in (folder / "releases").iterdir()} - {"CURRENT"}


@pytest.fixture
def reader():
    """Start processes that hold the current release open; all are killed at the end."""
    started = []

    def start(folder):
        process = subprocess.Popen(
            [sys.executable, "-c", READER, str(folder)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process, process.stdout.readline().strip()

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_nothing_changed_writes_nothing(tmp_path):
    first = make(tmp_path, "1")
    before = state(tmp_path / "releases")
    again, written = write_release(tmp_path, 2)
    assert not written
    assert again == first
    change(tmp_path, "1")  # opened and closed, and nothing new
    assert write_release(tmp_path, 2) == (first, False)
    assert state(tmp_path / "releases") == before


def test_a_change_makes_a_new_release_and_moves_current(tmp_path):
    first = make(tmp_path, "1")
    change(tmp_path, "2")
    second, written = write_release(tmp_path, 2)
    assert written
    assert second.release_id != first.release_id
    assert current_release(tmp_path) == second
    assert (tmp_path / "releases" / "CURRENT").read_text() == second.release_id
    assert (value_of(first), value_of(second)) == ("1", "2")
    assert 0 <= second.age_s() < 60
    assert json.loads((second.folder / "manifest.json").read_text())["num_bytes"] == second.database.stat().st_size


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO record.receipts VALUES ('score', 'x', 1, 'r', TIMESTAMP '2026-01-01')",
        "UPDATE record.receipts SET num_rows = 8",
        "INSERT INTO record.runs (run_id, state) VALUES ('other', 'running')",
        "UPDATE record.runs SET state = 'completed'",
        "DELETE FROM record.pointers",
    ],
)
def test_receipts_runs_and_pointers_decide_on_a_release(tmp_path, statement):
    with Warehouse(tmp_path) as warehouse, warehouse.transaction():
        warehouse.point("a", "1")
        warehouse.con.execute("INSERT INTO record.receipts VALUES ('score', 'y', 7, 'r', TIMESTAMP '2026-01-01')").fetchall()
        warehouse.con.execute("INSERT INTO record.runs (run_id, state) VALUES ('one', 'running')").fetchall()
    first, _ = write_release(tmp_path, 2)
    with Warehouse(tmp_path) as warehouse:
        warehouse.con.execute(statement).fetchall()
    second, written = write_release(tmp_path, 2)
    assert written
    assert second.release_id != first.release_id


def test_a_release_has_everything_committed_and_needs_no_log(tmp_path):
    with Warehouse(tmp_path) as warehouse:
        warehouse.con.execute("PRAGMA disable_checkpoint_on_shutdown")
        with warehouse.transaction():
            warehouse.point("a", "1")
    assert Path(f"{tmp_path / DATABASE}.wal").stat().st_size > 0  # what was committed lies in the log alone
    made, _ = write_release(tmp_path, 2)
    assert {path.name for path in made.folder.iterdir()} == {DATABASE, "manifest.json"}
    assert value_of(made) == "1"


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_the_newest_are_kept(tmp_path, keep):
    made = [make(tmp_path, str(i), keep).release_id for i in range(5)]
    assert names(tmp_path) == set(made[-keep:])
    assert value_of(current_release(tmp_path)) == "4"


def test_a_release_that_a_living_reader_names_outlives_pruning_and_stays_readable(tmp_path, reader):
    first = make(tmp_path, "1")
    process, seen = reader(tmp_path)
    assert seen == first.release_id
    later = [make(tmp_path, str(i), 1).release_id for i in (2, 3)]
    assert names(tmp_path) == {first.release_id, later[-1]}
    process.stdin.write("go on\n")
    process.stdin.flush()
    assert process.stdout.readline() == "1\n"
    assert process.wait(30) == 0
    assert list(first.folder.glob("reader-*")) == []  # it took its mark away
    make(tmp_path, "4", 1)
    assert first.release_id not in names(tmp_path)


def test_a_reader_that_is_done_leaves_the_marks_of_others_in_its_process(tmp_path):
    first = make(tmp_path, "1")
    with opened(tmp_path):
        with opened(tmp_path):
            pass
        make(tmp_path, "2", 1)
        assert first.release_id in names(tmp_path)
    make(tmp_path, "3", 1)
    assert first.release_id not in names(tmp_path)


def test_the_mark_of_a_killed_reader_protects_nothing(tmp_path, reader):
    first = make(tmp_path, "1")
    process, _ = reader(tmp_path)
    assert [path.name for path in first.folder.glob("reader-*")] == [f"reader-{process.pid}-0"]
    process.kill()
    process.wait()
    second = make(tmp_path, "2", 1)
    assert names(tmp_path) == {second.release_id}


def test_sql_on_an_open_release_goes_on_while_newer_ones_are_written(tmp_path):
    make(tmp_path, "1")
    with Reader(tmp_path) as reader:
        for i in range(2, 5):
            make(tmp_path, str(i), 1)
        assert reader.sql("SELECT count(*) AS n FROM examples").rows() == [(0,)]
        assert reader.pointer("a") == "1"
    with Reader(tmp_path) as reader:
        assert reader.pointer("a") == "4"


def test_what_a_killed_run_left_unfinished_is_no_release_and_goes_away(tmp_path):
    first = make(tmp_path, "1")
    change(tmp_path, "2")
    leftover = tmp_path / "releases" / ".0123456789abcdef.partial"
    leftover.mkdir()
    (leftover / DATABASE).write_bytes(b"half")
    (tmp_path / "releases" / ".CURRENT.partial").write_text("0123")
    assert current_release(tmp_path) == first
    second, written = write_release(tmp_path, 2)
    assert written
    assert names(tmp_path) == {first.release_id, second.release_id}


class Killed(BaseException):
    """Stands for a signal: nothing after it runs."""


def killed_at(monkeypatch, step):
    def stop(*_):
        raise Killed

    monkeypatch.setattr(f"warehouse.release.{step}", stop)


@pytest.mark.parametrize("step", ["_copy", "durable.write", "durable.sync", "prune_releases"])
def test_a_run_killed_at_any_step_is_made_good_by_the_next(tmp_path, monkeypatch, step):
    first = make(tmp_path, "1", 1)
    change(tmp_path, "2")
    killed_at(monkeypatch, step)
    with pytest.raises(Killed):
        write_release(tmp_path, 1)
    assert value_of(current_release(tmp_path)) in {"1", "2"}  # readers find a whole release at any time
    monkeypatch.undo()
    second, _ = write_release(tmp_path, 1)
    assert value_of(second) == "2"
    assert current_release(tmp_path) == second
    third = make(tmp_path, "3", 1)
    assert names(tmp_path) == {third.release_id}
    assert first.release_id not in names(tmp_path)


def test_a_run_killed_between_the_folder_and_current_is_repaired_without_another_copy(tmp_path, monkeypatch):
    first = make(tmp_path, "1")
    change(tmp_path, "2")
    write = durable.write

    def until_current(path, content):
        if "CURRENT" in path.name:
            raise Killed
        write(path, content)

    monkeypatch.setattr(durable, "write", until_current)
    with pytest.raises(Killed):
        write_release(tmp_path, 2)
    monkeypatch.undo()
    assert current_release(tmp_path) == first
    (new,) = names(tmp_path) - {first.release_id}
    before = (tmp_path / "releases" / new / DATABASE).stat().st_mtime_ns
    second, written = write_release(tmp_path, 2)
    assert (second.release_id, written) == (new, True)
    assert second.database.stat().st_mtime_ns == before
    assert current_release(tmp_path) == second


def test_pruning_that_was_killed_halfway_is_finished_by_the_next(tmp_path, monkeypatch):
    make(tmp_path, "1", 1)

    def half(path, **_):
        (path / "manifest.json").unlink(missing_ok=True)
        raise Killed

    change(tmp_path, "2")
    monkeypatch.setattr(module.shutil, "rmtree", lambda path, **rest: None if rest else half(path))
    with pytest.raises(Killed):
        write_release(tmp_path, 1)
    monkeypatch.undo()
    third = make(tmp_path, "3", 1)
    assert names(tmp_path) == {third.release_id}


@pytest.mark.parametrize("removed", ["all of it", "manifest.json"])
def test_a_current_release_that_somebody_removed_is_written_again(tmp_path, removed):
    first = make(tmp_path, "1")
    if removed == "all of it":
        shutil.rmtree(first.folder)
    else:
        (first.folder / removed).unlink()
    second, written = write_release(tmp_path, 2)
    assert written
    assert second.release_id == first.release_id
    assert value_of(second) == "1"


def test_no_warehouse_and_no_release_are_told_with_what_to_do(tmp_path):
    with pytest.raises(NoReleaseError, match="alphatoken value"):
        current_release(tmp_path / "nowhere")
    change(tmp_path, "1")
    with pytest.raises(NoReleaseError, match=str(tmp_path)), opened(tmp_path):
        pass
    assert not (tmp_path / "nowhere").exists()


def test_a_release_is_opened_read_only_and_by_this_schema_version_alone(tmp_path):
    made = make(tmp_path, "1")
    with opened(tmp_path) as (con, release):
        assert release == made
        assert len(list(made.folder.glob(f"reader-{os.getpid()}-*"))) == 1
        with pytest.raises(duckdb.Error, match="read-only"):
            con.execute("DELETE FROM record.pointers").fetchall()
    with duckdb.connect(str(made.database)) as con:
        con.execute("UPDATE record.meta SET schema_version = 99").fetchall()
    with pytest.raises(SchemaVersionError, match="99"), opened(tmp_path):
        pass
    assert list(made.folder.glob("reader-*")) == []


def test_a_release_that_cannot_be_opened_leaves_no_mark(tmp_path):
    made = make(tmp_path, "1")
    made.database.write_bytes(b"no database " * 1000)
    with pytest.raises(DamagedDatabaseError), opened(tmp_path):
        pass
    assert list(made.folder.glob("reader-*")) == []


@pytest.mark.parametrize(("brings_data", "told"), [(False, True), (True, False)])
def test_a_release_without_new_data_needs_no_announcement_where_the_one_before_had_it(tmp_path, brings_data, told):
    folder = written.make(tmp_path / "wh")
    for announced in (True, False):  # of the release before
        before = current_release(folder)
        if announced:
            before.announced.touch()
        with Warehouse(folder) as warehouse, warehouse.transaction():
            warehouse.point(f"training {announced}", "t")
        if not announced:
            before.announced.unlink(missing_ok=True)
        after, is_new = write_release(folder, 3, brings_data=brings_data)
        assert is_new
        assert after.announced.is_file() == (told and announced)
