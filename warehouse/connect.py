"""Opening the warehouse: one writer at a time behind a lock that names its holder; readers open releases, never the live file."""

import fcntl
import json
import os
import shutil
import socket
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import polars as pl

from warehouse import durable, faults, migrate
from warehouse.faults import DATABASE as DATABASE
from warehouse.queries import Queries
from warehouse.settings import WarehouseSettings

_ROW_GROUP_SIZE = 8192
"""Rows of lists per row group: one shard. DuckDB's default of 122880 rewrites a whole list table on every commit."""


class WarehouseBusyError(RuntimeError):
    """Another process holds the writer's lock."""


class Warehouse(Queries):
    """An open, writable warehouse. Use as a context manager: `with Warehouse(folder) as warehouse: ...`.

    Attributes:
        folder: the warehouse's folder.
        con: the DuckDB connection, its schema in place.
    """

    def __init__(
        self, folder: Path, settings: WarehouseSettings | None = None, note_run: Callable[["Warehouse"], None] | None = None
    ) -> None:
        """Open the live database, creating it when it is missing.

        Args:
            folder: the warehouse's folder.
            settings: memory limit and the like; defaults when absent.
            note_run: called inside every transaction, before its writes: notes the run that writes.

        Raises:
            PermissionError: the folder cannot be written.
            WarehouseBusyError: another process has the file open.
            DiskFullError: there is no room for it.
            DamagedDatabaseError: it is not what was written.
            IOException: the file cannot be read.
        """
        self.folder = folder
        self._note_run = note_run
        limits = settings or WarehouseSettings()
        _require_writable(folder)
        with faults.writing(folder):
            if not (folder / DATABASE).exists():
                _create(folder)
            options = {
                "memory_limit": limits.memory_limit,
                "temp_directory": str(folder / "temp"),
                "autoinstall_known_extensions": False,
                "autoload_known_extensions": False,
            }
            super().__init__(duckdb.connect(config=options))
            try:
                attach(self.con, folder / DATABASE)
                self.con.execute("USE alphatoken")
                migrate.ensure_schema(self.con)
            except duckdb.IOException as error:
                self.con.close()
                if "Could not set lock" in str(error):
                    raise WarehouseBusyError(f"{folder / DATABASE} is open in another process: {error}") from error
                raise
            except BaseException:
                self.con.close()
                raise

    def __enter__(self) -> "Warehouse":
        return self

    def __exit__(self, *_: object) -> None:
        self.con.close()

    @contextmanager
    def scratch(self, name: str) -> Generator[Path]:
        """Give an empty folder beside what DuckDB spills; what a killed process left in it goes, and in the end all of it.

        Yields:
            the folder.
        """
        path = self.folder / "temp" / name
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(parents=True)
        try:
            yield path
        finally:
            shutil.rmtree(path)

    @contextmanager
    def transaction(self) -> Generator[None]:
        """Everything in the block is committed together, or nothing is."""
        self.con.execute("BEGIN")
        try:
            if self._note_run is not None:
                self._note_run(self)
            yield
        except BaseException:
            with suppress(duckdb.Error):  # after a full disk there may be none left to roll back, which must not hide the cause
                self.con.execute("ROLLBACK")
            raise
        self.con.execute("COMMIT")

    def insert(self, name: str, incoming: object, /, **parameters: Any) -> None:
        """Execute an SQL file that reads the table `incoming`: an Arrow table or a Polars frame."""
        with self.incoming(incoming):
            self.run(name, **parameters)

    def join(self, name: str, incoming: object, /, **parameters: Any) -> list[tuple[Any, ...]]:
        """Execute an SQL file that reads the table `incoming`, and fetch its rows."""
        with self.incoming(incoming):
            rows: list[tuple[Any, ...]] = self.run(name, **parameters).fetchall()
        return rows

    def join_frame(self, name: str, incoming: object, /, **parameters: Any) -> pl.DataFrame:
        """Execute an SQL file that reads the table `incoming`, and fetch its rows as a frame."""
        with self.incoming(incoming):
            return self.frame(name, **parameters)

    @contextmanager
    def incoming(self, table: object) -> Generator[None]:
        """Let the SQL files that are executed in the block read a table, Arrow's or Polars', as `incoming`.

        Yields:
            nothing.
        """
        self.con.complete()
        self.con.register("incoming", table)
        try:
            yield
            self.con.complete()
        finally:
            with suppress(duckdb.TransactionException):  # an aborted transaction refuses, and must not hide its cause
                self.con.unregister("incoming")

    def point(self, name: str, value: str) -> bool:
        """Make something current.

        Returns:
            whether that was a change; nothing is written otherwise.
        """
        if self.pointer(name) == value:
            return False
        self.run("runs/delete_pointer", name=name)
        self.run("runs/insert_pointer", name=name, value=value)
        return True


def attach(con: duckdb.DuckDBPyConnection, path: Path, name: str = "alphatoken", *, read_only: bool = False) -> None:
    """Attach a database file: for writing, creating it where it is missing, or read-only."""
    quoted = str(path).replace("'", "''")
    how = "READ_ONLY, " if read_only else ""
    con.execute(f"ATTACH '{quoted}' AS {name} ({how}ROW_GROUP_SIZE {_ROW_GROUP_SIZE})")  # DDL takes no parameters


def _create(folder: Path) -> None:
    """Make the live file beside its place and move it there whole: a process killed in between would leave a file that nobody can open."""
    partial = folder / f".{DATABASE}.partial"
    for left in folder.glob(f"{partial.name}*"):  # of a killed process: the file, its log
        left.unlink()
    with duckdb.connect() as con:
        attach(con, partial)
        con.execute("USE alphatoken")
        migrate.ensure_schema(con)
    durable.sync(partial)
    partial.replace(folder / DATABASE)
    durable.sync(folder)


def _require_writable(folder: Path) -> None:
    """Make a warehouse's folder.

    Raises:
        PermissionError: it cannot be made or written; the message says what to do.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PermissionError(f"the warehouse folder {folder} cannot be made: {error}; set warehouse.path to a writable folder") from error
    if not os.access(folder, os.W_OK):
        raise PermissionError(f"the warehouse folder {folder} is not writable; set warehouse.path to another folder or change its rights")


@contextmanager
def writer_lock(folder: Path, timeout_s: float, purpose: str) -> Generator[None]:
    """Hold the writer's lock for the time of the block.

    The lock is released by the operating system when the process ends, however it ends.

    Args:
        folder: the warehouse's folder.
        timeout_s: how long to wait for another holder, in seconds.
        purpose: what the lock is for; told to whoever waits.

    Yields:
        nothing.

    Raises:
        PermissionError: the folder cannot be written.
        WarehouseBusyError: the lock was not free in time; the message names the holder.
        DiskFullError: the block found no room.
        DamagedDatabaseError: the block found the live file damaged.
        OSError: the lock's file cannot be written.
    """
    _require_writable(folder)
    path = folder / "writer.lock"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        deadline = time.monotonic() + max(timeout_s, 1.0)  # a reader that looks who writes holds the lock for an instant
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise WarehouseBusyError(
                        f"another run is writing {folder}: {path.read_text() or 'unknown holder'}; waited {timeout_s:g} s. "
                        "Let it finish, or raise warehouse.lock_timeout_s"
                    ) from None
                time.sleep(0.2)
        holder = {"pid": os.getpid(), "host": socket.gethostname(), "purpose": purpose, "since": datetime.now(UTC).isoformat()}
        os.ftruncate(descriptor, 0)
        try:
            os.pwrite(descriptor, json.dumps(holder).encode(), 0)
        except OSError as error:
            if not faults.no_space(error):  # on a full disk the lock holds without a name: pruning must be possible
                raise
        with faults.writing(folder):
            yield
    finally:
        os.close(descriptor)


def current_writer(folder: Path) -> str | None:
    """Describe who holds the writer's lock; None when it is free."""
    path = folder / "writer.lock"
    if not path.is_file():
        return None
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = json.loads(path.read_text() or "{}")
            return f"{holder.get('purpose', 'a run')} (process {holder.get('pid', 'unknown')})"
    return None
