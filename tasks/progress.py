"""A progress bar on the terminal (to stderr), with rate and time left; lines now and then where stderr is no terminal."""

import sys
import time
from dataclasses import dataclass
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
        self._stages: dict[str, _Stage] = {}
        self._last_line = time.monotonic()

    def __enter__(self) -> "Progress":
        self._bars.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._bars.stop()

    def steps(self, what: str, done: int, total: int) -> None:
        """Report steps of a stage; fewer than before, and it has begun anew, as the trainings of a study do."""
        self._show(self._stage(what, done), what, done, total, "")

    def tokens(self, done: int, total: int) -> None:
        """Report tokens valued."""
        stage = self._stage("valuing tokens", done)
        elapsed = time.monotonic() - stage.began
        self._show(stage, "valuing tokens", done, total, f"{(done - stage.first) / elapsed:,.0f} tokens/s" if elapsed > 0 else "")

    def _stage(self, what: str, done: int) -> "_Stage":
        known = self._stages.get(what)
        if known is None or done < known.done:
            bar = self._bars.add_task(what, total=None, rate="") if known is None else known.bar
            if known is not None:
                self._bars.reset(bar)
            known = self._stages[what] = _Stage(bar, time.monotonic(), done)
        known.done = done
        return known

    def _show(self, stage: "_Stage", what: str, done: int, total: int, rate: str) -> None:
        now = time.monotonic()
        self._bars.update(stage.bar, completed=done, total=total, rate=rate)
        if not self._terminal and now - self._last_line >= _LINE_EVERY_S:
            self._last_line = now
            counted = done - stage.first
            left = f", about {(now - stage.began) * (total - done) / counted:,.0f} s left" if counted else ""
            sys.stderr.write(f"{what}: {done:,} of {total:,}{f' {rate}' if rate else ''}{left}\n")


@dataclass
class _Stage:
    """A stage that is told about: its bar, and what its rate counts from (the first report, which comes when something is done)."""

    bar: TaskID
    began: float
    first: int
    done: int = 0
