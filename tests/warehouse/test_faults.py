"""Laws of warehouse/faults.py: a full disk, a read-only place and a damaged file are told with what to do, and nothing committed is lost."""

import errno
import os
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import duckdb
import pytest

from tests.warehouse import written
from warehouse.connect import DATABASE, Warehouse, writer_lock
from warehouse.faults import DamagedDatabaseError, DiskFullError
from warehouse.read import Reader
from warehouse.release import current_release, opened, write_release

ROOT = Path(__file__).parents[2]


@contextmanager
def mounted(folder, options):
    """A file system in memory; without the right to mount one the test is skipped."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount a small file system")
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 6 MB."""
    with mounted(tmp_path / "disk", "size=6m") as disk:
        yield disk


def fill(warehouse, num_rows):
    with warehouse.transaction():
        warehouse.point("rows", str(num_rows))
        warehouse.con.execute(
            "INSERT INTO record.direction_values SELECT 'A', md5(i::VARCHAR), [random()::FLOAT FOR n IN range(100)], NULL, 0 FROM range($n) AS t(i)",
            {"n": num_rows},
        ).fetchall()


def counted(folder):
    with Warehouse(folder) as warehouse:
        (rows,) = warehouse.con.execute("SELECT count(*) FROM record.direction_values").fetchall()
        return rows[0], warehouse.pointer("rows")


def fill_disk(folder):
    with writer_lock(folder, 0, "filling"):
        with Warehouse(folder) as warehouse:
            fill(warehouse, 1000)
        with Warehouse(folder) as warehouse:
            fill(warehouse, 40000)


SAYS = r"no room left while writing the warehouse .*(No space left|File too large).*Free some space.*alphatoken prune.*warehouse\.path"


def test_a_full_disk_is_told_and_what_was_committed_stays(small_disk):
    with pytest.raises(DiskFullError, match=SAYS):
        fill_disk(small_disk / "wh")
    assert counted(small_disk / "wh") == (1000, "1000")
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    with Warehouse(small_disk / "wh") as warehouse:
        fill(warehouse, 40000)
    assert counted(small_disk / "wh") == (41000, "40000")


def test_a_release_for_which_there_is_no_room_leaves_the_former_one(small_disk):
    folder = small_disk / "wh"
    with Warehouse(folder) as warehouse:
        fill(warehouse, 10)
    write_release(folder, 2)
    before = current_release(folder)
    with Warehouse(folder) as warehouse:
        fill(warehouse, 8000)
    with pytest.raises(DiskFullError, match=SAYS), writer_lock(folder, 0, "releasing"):
        write_release(folder, 2)
    assert current_release(folder) == before
    with Reader(folder) as reader:
        assert reader.pointer("rows") == "10"
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    assert write_release(folder, 1)[1]
    with Reader(folder) as reader:
        assert reader.pointer("rows") == "8000"
    assert not list((folder / "releases").glob(".*.partial"))


LIMITED = """
import resource, sys
from pathlib import Path
from tests.warehouse.test_faults import fill_disk
resource.setrlimit(resource.RLIMIT_FSIZE, (6 << 20, resource.RLIM_INFINITY))
fill_disk(Path(sys.argv[1]))
"""


def test_the_largest_size_of_a_file_is_a_full_disk_too(tmp_path):
    done = subprocess.run([sys.executable, "-c", LIMITED, str(tmp_path / "wh")], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert "DiskFullError: no room left while writing the warehouse" in done.stderr
    assert "File too large" in done.stderr
    assert counted(tmp_path / "wh") == (1000, "1000")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_part_or_an_artefact_without_room_is_told_like_the_database(tmp_path, number):
    with pytest.raises(DiskFullError, match="part-1"), writer_lock(tmp_path, 0, "test"):
        raise OSError(number, os.strerror(number), "part-1")
    with pytest.raises(ConnectionError, match="reset"), writer_lock(tmp_path, 0, "test"):
        raise ConnectionError("reset")


# ---- a place that cannot be written


@pytest.fixture
def read_only(tmp_path):
    """A warehouse on a disk that was made read-only."""
    with mounted(tmp_path / "disk", "size=64m") as disk:
        written.make(disk / "wh")
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        yield disk / "wh"


def test_a_read_only_warehouse_is_refused_to_writers_and_open_to_readers(read_only):
    for write in (lambda: Warehouse(read_only), lambda: writer_lock(read_only, 0, "test").__enter__()):
        with pytest.raises(PermissionError, match=r"not writable; set warehouse\.path to another folder"):
            write()
    with Reader(read_only) as reader:
        assert reader.named("kept_by_source")["source"].to_list() == ["a", None]
    with opened(read_only) as (con, release):
        assert con.execute("SELECT count(*) FROM token_masks").fetchall() == [(20,)]
        assert list(release.folder.glob("reader-*")) == []


DROPPED = """
import os, sys
from pathlib import Path
from warehouse.connect import writer_lock
from warehouse.read import Reader
if os.geteuid() == 0:
    os.setgid(65534), os.setuid(65534)
with Reader(Path(sys.argv[1])) as reader:
    print(reader.pointer("scoring"))
with writer_lock(Path(sys.argv[1]), 0, "test"):
    pass
"""


def test_a_user_without_rights_reads_and_is_told_why_nothing_can_be_written(tmp_path):
    folder = written.make(tmp_path / "wh")
    (folder / "writer.lock").touch()
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    parents = [path for path in (tmp_path, *tmp_path.parents) if path.owner() == Path.home().owner() and path != Path("/")]
    modes = [(path, path.stat().st_mode) for path in parents]
    for path, mode in modes:
        path.chmod(mode | 0o011)
    try:
        done = subprocess.run([sys.executable, "-c", DROPPED, str(folder)], cwd=ROOT, capture_output=True, text=True)
    finally:
        for path, mode in modes:
            path.chmod(mode)
        for path in (folder, *folder.rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)
    assert done.stdout == "new\n", done.stderr
    assert f"PermissionError: the warehouse folder {folder} is not writable; set warehouse.path" in done.stderr


# ---- damaged files


def damage(path, how):
    content = bytearray(path.read_bytes())
    if how == "overwritten":
        content[:] = b"no database " * 1000
    elif how == "cut":
        del content[len(content) // 3 :]
    elif how == "emptied":
        content.clear()
    else:  # a flipped bit in every block: some lie where a query reads, some in the headers
        for start in range(0 if how == "flipped" else 12288, len(content), 4096 if how == "flipped" else 262144):
            content[start + 300] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("how", ["overwritten", "cut", "emptied", "flipped", "flipped inside"])
def test_a_damaged_live_file_is_told_and_the_advice_brings_it_back(tmp_path, how):
    folder = written.make(tmp_path / "it's a locked warehouse")  # words of messages that a path may have
    damage(folder / DATABASE, how)
    with pytest.raises(DamagedDatabaseError, match=r"alphatoken\.duckdb is damaged: .*The last release is a whole copy: ") as caught:
        read_all(folder)
    command = str(caught.value).partition("whole copy: ")[2].partition(", then run again")[0]
    subprocess.run(command, shell=True, check=True)
    read_all(folder)
    with Reader(folder) as reader, Warehouse(folder) as warehouse:
        query = "SELECT * FROM token_values ORDER BY ALL"
        assert warehouse.con.execute(query).fetchall() == reader.sql(query).rows()


def read_all(folder):
    with writer_lock(folder, 0, "reading"), Warehouse(folder) as warehouse:
        tables = warehouse.con.execute("SELECT table_name FROM duckdb_tables() WHERE schema_name = 'record'").fetchall()
        for (table,) in tables:
            warehouse.con.execute(f"FROM record.{table}").fetchall()


def test_a_damaged_live_file_without_a_release_is_told_to_be_made_again(tmp_path):
    with Warehouse(tmp_path):
        pass
    damage(tmp_path / DATABASE, "cut")
    with pytest.raises(DamagedDatabaseError, match=r"no release to restore it from: remove .* and value the data again"):
        Warehouse(tmp_path)
    (tmp_path / DATABASE).unlink()
    with Warehouse(tmp_path):
        pass


@pytest.mark.parametrize("how", ["overwritten", "cut", "emptied", "flipped", "flipped inside"])
@pytest.mark.parametrize("door", ["Reader", "opened"])
def test_a_damaged_release_is_told_and_written_again_as_the_message_says(tmp_path, how, door):
    folder = written.make(tmp_path)
    query = "SELECT * FROM token_values JOIN token_masks USING (example_id, sequence_id, branch, position) ORDER BY ALL"
    with Reader(folder) as reader:
        before, release = reader.sql(query).rows(), reader.release
    damage(release.database, how)
    with pytest.raises(DamagedDatabaseError, match=r"Remove the folder .*alphatoken mask CONFIG") as caught:
        ask(folder, door, query)
    assert release.release_id in str(caught.value)
    assert list(release.folder.glob("reader-*")) == []
    shutil.rmtree(release.folder)
    assert write_release(folder, 2)[1]
    assert ask(folder, "Reader", query) == before


def ask(folder, door, query):
    if door == "Reader":
        with Reader(folder) as reader:
            return reader.sql(query).rows()
    with opened(folder) as (con, _):
        return con.execute(query).fetchall()


def test_a_release_that_somebody_removed_is_told_to_be_written_again(tmp_path):
    folder = written.make(tmp_path)
    shutil.rmtree(current_release(folder).folder)
    with pytest.raises(FileNotFoundError, match=r"is gone: somebody removed it; `alphatoken mask CONFIG` writes it again"):
        Reader(folder)


def test_other_faults_of_sql_come_as_they_are(tmp_path):
    folder = written.make(tmp_path)
    with Reader(folder) as reader, pytest.raises(duckdb.CatalogException):
        reader.sql("SELECT * FROM nowhere")
    with pytest.raises(duckdb.CatalogException), Reader(folder) as reader:
        reader.con.execute("SELECT * FROM nowhere")


def test_a_process_killed_while_it_makes_the_live_file_leaves_none(tmp_path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", stop)
    with pytest.raises(KeyboardInterrupt):
        Warehouse(tmp_path)
    monkeypatch.undo()
    assert not (tmp_path / DATABASE).exists()
    with Warehouse(tmp_path):
        pass
    assert {path.name for path in tmp_path.iterdir()} == {DATABASE}
