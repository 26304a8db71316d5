"""What bench/warehouse.py measures with: time and memory of a piece of work, and the rows of its table."""

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from bench.warehouse_raw import Raw
from warehouse.connect import Warehouse
from warehouse.settings import MEMORY_LIMIT, WarehouseSettings


@dataclass
class Case:
    """What was measured, one entry per repeat.

    Attributes:
        seconds: wall time of ours.
        cpu: processor time of ours, seconds.
        raw_seconds: wall time of plain DuckDB; empty where there is none.
        raw_cpu: its processor time.
        peak_bytes: most resident memory while ours ran.
        note: what else is worth telling.
        rates: amounts that limits are about, by name: tokens or examples of one repeat, bytes per token.
    """

    seconds: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    raw_seconds: list[float] = field(default_factory=list)
    raw_cpu: list[float] = field(default_factory=list)
    peak_bytes: int = 0
    note: str = ""
    rates: dict[str, float] = field(default_factory=dict)

    def ours(self, work: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        """Measure ours; returns what it returns."""
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
        result = _timed(partial(work, *arguments, **named), self.seconds, self.cpu)
        status = Path("/proc/self/status").read_text()
        self.peak_bytes = max(self.peak_bytes, 1024 * int(status.split("VmHWM:")[1].split()[0]))
        return result

    def raw(self, work: Callable[..., Any], *arguments: Any) -> Any:
        """Measure the plain counterpart; returns what it returns."""
        return _timed(partial(work, *arguments), self.raw_seconds, self.raw_cpu)


def _timed(work: Callable[[], Any], seconds: list[float], cpu: list[float]) -> Any:
    process, wall = time.process_time(), time.perf_counter()
    result = work()
    seconds.append(time.perf_counter() - wall)
    cpu.append(time.process_time() - process)
    return result


_MOST_ROUNDS = 9


@dataclass(frozen=True)
class Bench:
    """How to measure.

    Attributes:
        folder: where everything is kept.
        num_tokens: response tokens.
        repeats: how often each case is measured at least.
        memory_limit: of ours and of plain DuckDB.
        beside_raw: whether plain DuckDB is measured too.
        least_s: short cases are measured more often, until so much time was measured or nine rounds are done.
    """

    folder: Path
    num_tokens: int
    repeats: int = 1
    memory_limit: str = MEMORY_LIMIT
    beside_raw: bool = True
    least_s: float = 4.0

    def rounds(self, case: Case) -> Iterator[int]:
        """Yield the number of each round in which a case is to be measured."""
        for done in range(max(self.repeats, _MOST_ROUNDS)):
            if done >= self.repeats and sum(case.seconds) + sum(case.raw_seconds) >= self.least_s:
                return
            yield done

    def warehouse(self) -> Warehouse:
        """Open ours."""
        warehouse = Warehouse(self.folder / "warehouse", WarehouseSettings(memory_limit=self.memory_limit))
        warehouse.con.execute("SET enable_progress_bar = false")  # on in a process without a script
        return warehouse

    def raw(self) -> Raw:
        """Open the plain database."""
        return Raw(self.folder, self.memory_limit)

    @property
    def num_examples(self) -> int:
        """Examples that hold so many tokens, about."""
        return max(self.num_tokens // 250, 8)


HEADER = "| case | s | plain DuckDB, s | ratio | CPU s | plain CPU s | ratio | peak MB | |\n|---|---|---|---|---|---|---|---|---|"


def row(name: str, case: Case) -> str:
    """Write a case as a row of the table: medians."""

    def pair(ours: list[float], raw: list[float]) -> str:
        mine = statistics.median(ours)
        return f"{mine:.3f} | {statistics.median(raw):.3f} | {mine / statistics.median(raw):.2f}" if raw else f"{mine:.3f} | | "

    return (
        f"| {name} | {pair(case.seconds, case.raw_seconds)} | {pair(case.cpu, case.raw_cpu)} | {case.peak_bytes / 1e6:,.0f} | {case.note} |"
    )
