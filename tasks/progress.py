"""A progress bar on the terminal (to stderr), with rate and time left; lines now and then where stderr is no terminal."""

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

_LINE_EVERY_S = 30.0


class Progress:
    """Bars for the long stages of a run. Use as a context manager."""

    def __init__(self) -> None:
        console = Console(stderr=True)
        self._terminal = console.is_terminal
        self._bars = Bars(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"), TimeRemainingColumn(),
            console=console, transient=True, disable=not self._terminal,
        )  # fmt: skip
        self._tasks: dict[str, TaskID] = {}
        self._began: dict[str, float] = {}
        self._last_line = time.monotonic()

    def __enter__(self) -> "Progress":
        self._bars.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._bars.stop()

    def steps(self, what: str, done: int, total: int) -> None:
        """Report steps of a stage."""
        self._show(what, done, total, "")

    def tokens(self, done: int, total: int) -> None:
        """Report tokens valued."""
        elapsed = time.monotonic() - self._began.get("valuing tokens", time.monotonic())
        self._show("valuing tokens", done, total, f"{done / elapsed:,.0f} tokens/s" if elapsed > 0 else "")

    def _show(self, what: str, done: int, total: int, rate: str) -> None:
        now = time.monotonic()
        if what not in self._tasks:
            self._tasks[what] = self._bars.add_task(what, total=total, rate="")
            self._began[what] = now
        self._bars.update(self._tasks[what], completed=done, total=total, rate=rate)
        if not self._terminal and now - self._last_line >= _LINE_EVERY_S:
            self._last_line = now
            left = (now - self._began[what]) * (total - done) / max(done, 1)
            sys.stderr.write(f"{what}: {done:,} of {total:,} {rate}, about {left:,.0f} s left\n")
