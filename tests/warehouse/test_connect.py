"""Laws of warehouse/connect.py: all or nothing, one writer, a lock that names its holder and dies with it."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import duckdb
import pytest

from warehouse import connect
from warehouse.connect import Warehouse, WarehouseBusyError, current_writer, writer_lock
from warehouse.faults import DamagedDatabaseError
from warehouse.settings import WarehouseSettings

ROOT = Path(__file__).parents[2]
HOLDER = """
import sys, time
from pathlib import Path
from warehouse.connect import writer_lock
with writer_lock(Path(sys.argv[1]), 0, "holding on"):
    print("held", flush=True)
    time.sleep(float(sys.argv[2]))
"""
OPENER = """
import sys, time
from pathlib import Path
from warehouse.connect import Warehouse
with Warehouse(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def pointers(warehouse):
    return warehouse.con.execute("SELECT name, value FROM record.pointers ORDER BY ALL").fetchall()


def write_until(warehouse, fault, **values):
    with warehouse.transaction():
        for name, value in values.items():
            warehouse.point(name, value)
        if callable(fault):
            fault()
        else:
            raise fault


@pytest.fixture
def holder():
    """Start processes that hold something; all are killed at the end."""
    started = []

    def start(folder, code=HOLDER, seconds=60):
        process = subprocess.Popen(
            [sys.executable, "-c", code, str(folder), str(seconds)], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        started.append(process)
        assert process.stdout.readline() == "held\n", process.stderr.read()
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


# ---- transactions


@pytest.mark.parametrize("fault", [ValueError("ours"), KeyboardInterrupt()])
def test_a_transaction_is_undone_whole_on_any_error(tmp_path, fault):
    with Warehouse(tmp_path) as warehouse:
        with warehouse.transaction():
            warehouse.point("a", "1")
        with pytest.raises(type(fault)):
            write_until(warehouse, fault, a="2", b="2")
        assert pointers(warehouse) == [("a", "1")]
        with warehouse.transaction():  # and the connection is fit for the next
            warehouse.point("b", "3")
    with Warehouse(tmp_path) as warehouse:
        assert pointers(warehouse) == [("a", "1"), ("b", "3")]


def test_a_transaction_is_undone_whole_on_an_error_of_sql(tmp_path):
    with Warehouse(tmp_path) as warehouse:
        fault = {"stage": "s", "identity": "i", "num_rows": "many", "run_id": "r"}
        with pytest.raises(duckdb.ConversionException, match="many"):
            write_until(warehouse, lambda: warehouse.run("runs/insert_receipt", **fault), a="1")
        assert pointers(warehouse) == []
        assert warehouse.point("a", "2")


def test_the_run_is_noted_in_the_transaction_that_it_stands_for_and_before_its_writes(tmp_path):
    seen = []

    def note(warehouse):
        seen.append(pointers(warehouse))
        warehouse.point("noted", str(len(seen)))

    with Warehouse(tmp_path, note_run=note) as warehouse:
        assert pointers(warehouse) == []  # opening alone notes nothing
        with pytest.raises(ValueError, match="stop"):
            write_until(warehouse, ValueError("stop"), a="1")
        assert pointers(warehouse) == []  # the note is undone with the rest
        with warehouse.transaction():
            warehouse.point("a", "1")
        assert pointers(warehouse) == [("a", "1"), ("noted", "2")]
    assert seen == [[], []]


def test_a_note_that_fails_undoes_the_transaction(tmp_path):
    def note(warehouse):
        warehouse.point("noted", "1")
        raise RuntimeError("no facts")

    with Warehouse(tmp_path, note_run=note) as warehouse:
        with pytest.raises(RuntimeError, match="no facts"), warehouse.transaction():
            warehouse.point("a", "1")
        assert pointers(warehouse) == []


def test_pointing_to_what_is_current_writes_nothing(tmp_path):
    with Warehouse(tmp_path) as warehouse:
        assert warehouse.pointer("mask:default") is None
        assert warehouse.point("mask:default", "m1")
        assert warehouse.point("mask:random", "m1")
        rows = "SELECT rowid, name, value FROM record.pointers ORDER BY ALL"
        before = warehouse.con.execute(rows).fetchall()
        assert not warehouse.point("mask:default", "m1")
        assert warehouse.con.execute(rows).fetchall() == before  # not even deleted and inserted again
        assert warehouse.point("mask:default", "m2")
        assert pointers(warehouse) == [("mask:default", "m2"), ("mask:random", "m1")]
        assert warehouse.pointer("mask:default") == "m2"


def test_the_settings_reach_duckdb(tmp_path):
    with Warehouse(tmp_path, WarehouseSettings(memory_limit="1GiB")) as warehouse:
        limit, temp = warehouse.con.execute("SELECT current_setting('memory_limit'), current_setting('temp_directory')").fetchall()[0]
    assert limit == "1.0 GiB"
    assert temp == str(tmp_path / "temp")


def test_a_folder_with_a_quote_in_its_name_is_no_trouble(tmp_path):
    folder = tmp_path / "it's here"
    with Warehouse(folder) as warehouse:
        warehouse.point("a", "1")
    with Warehouse(folder) as warehouse:
        assert warehouse.pointer("a") == "1"


# ---- places that cannot be written


def test_a_file_in_place_of_the_folder_is_refused_with_advice(tmp_path):
    (tmp_path / "wh").write_text("")
    with pytest.raises(PermissionError, match=r"set warehouse\.path"):
        Warehouse(tmp_path / "wh")
    with pytest.raises(PermissionError, match=r"set warehouse\.path"):
        Warehouse(tmp_path / "wh" / "below")


def test_a_read_only_folder_is_refused_with_advice_and_nothing_is_made(tmp_path, monkeypatch):
    folder = tmp_path / "wh"
    folder.mkdir()
    monkeypatch.setattr(connect.os, "access", lambda path, mode: False)  # root may write anywhere
    with pytest.raises(PermissionError, match=r"not writable; set warehouse\.path to another folder"):
        Warehouse(folder)
    assert list(folder.iterdir()) == []


def test_the_lock_of_a_place_that_cannot_be_made_is_refused_with_advice(tmp_path):
    (tmp_path / "wh").write_text("")
    with pytest.raises(PermissionError, match=r"set warehouse\.path"), writer_lock(tmp_path / "wh", 0, "test"):
        pass


def test_a_file_that_another_process_has_open_is_busy(tmp_path, holder):
    process = holder(tmp_path, OPENER)
    with pytest.raises(WarehouseBusyError, match=str(tmp_path)):
        Warehouse(tmp_path)
    process.kill()
    process.wait()
    with Warehouse(tmp_path):
        pass


def test_a_file_that_is_no_database_is_not_taken_for_a_busy_one(tmp_path):
    (tmp_path / connect.DATABASE).write_text("no database\n" * 500)
    with pytest.raises(DamagedDatabaseError):
        Warehouse(tmp_path)


# ---- the lock


def test_a_second_process_is_refused_after_its_time_and_told_who_writes(tmp_path, holder):
    process = holder(tmp_path)
    began = time.monotonic()
    with pytest.raises(WarehouseBusyError) as caught, writer_lock(tmp_path, 1.0, "second"):
        pass
    assert 1.0 <= time.monotonic() - began < 5.0
    assert str(process.pid) in str(caught.value)
    assert "holding on" in str(caught.value)
    assert "warehouse.lock_timeout_s" in str(caught.value)
    assert current_writer(tmp_path) == f"holding on (process {process.pid})"


def test_a_process_that_waits_gets_the_lock_when_it_is_released_in_time(tmp_path, holder):
    holder(tmp_path, seconds=0.7)
    with writer_lock(tmp_path, 30.0, "patient"):
        assert json.loads((tmp_path / "writer.lock").read_text())["pid"] == os.getpid()
        assert current_writer(tmp_path) == f"patient (process {os.getpid()})"
    assert current_writer(tmp_path) is None


def test_the_lock_of_a_killed_process_is_free(tmp_path, holder):
    process = holder(tmp_path)
    assert current_writer(tmp_path) is not None
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert current_writer(tmp_path) is None
    with writer_lock(tmp_path, 0, "next"):
        assert current_writer(tmp_path) == f"next (process {os.getpid()})"


def test_the_lock_is_released_by_an_error_in_its_block(tmp_path):
    with pytest.raises(ValueError, match="stop"), writer_lock(tmp_path, 0, "one"):
        raise ValueError("stop")
    with writer_lock(tmp_path, 0, "two"):
        pass


def test_nobody_writes_where_nothing_was_ever_written(tmp_path):
    assert current_writer(tmp_path / "nothing") is None
    assert not (tmp_path / "nothing").exists()


def test_a_longer_holder_does_not_show_through_a_shorter_one(tmp_path):
    with writer_lock(tmp_path, 0, "a long purpose " * 20):
        pass
    with writer_lock(tmp_path, 0, "short"):
        assert json.loads((tmp_path / "writer.lock").read_text())["purpose"] == "short"
