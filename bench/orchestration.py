"""What Prefect costs: a whole run of `value_tokens` as the command does it, and the same functions called without Prefect.

    python -m bench.orchestration --model MODELS/stories260K --train gsm8k_train.jsonl --validation gsm8k_test.jsonl
    python -m bench.orchestration ... --rows 200 --ticks 5

Each run is a process of its own on a new warehouse, then once more on unchanged data. Both kinds run at the same time, with one thread each,
so that whatever else the machine does slows both: the differences are then of this moment, and so are the seconds of processor. `--apart`
runs them in turn. `--ticks` also times runs on unchanged data as `alphatoken serve` starts them at a server that is up.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import duckdb
import yaml

from bench import ticks

_WITHOUT = """
import sys
from tasks.quiet import configure
configure()
from tests.flows import world
with world.without_prefect():
    from flows.value_tokens import value_tokens
    value_tokens(sys.argv[1])
"""
COMMANDS = {
    "with Prefect": [str(Path(sys.executable).parent / "alphatoken"), "value"],
    "without": [sys.executable, "-c", _WITHOUT],
}


@dataclass(frozen=True)
class Cost:
    """What a run cost: seconds by the clock and of the processor, all its processes together."""

    wall_s: float
    cpu_s: float


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("model", "train", "validation"):
        parser.add_argument(f"--{name}", required=True, type=lambda path: str(Path(path).resolve()))
    parser.add_argument("--rows", type=int, help="rows of the training file; all when absent")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--unchanged-repeats", type=int, default=3)
    parser.add_argument("--apart", action="store_true", help="one kind after the other")
    parser.add_argument("--ticks", type=int, default=0, help="runs that `serve` starts on unchanged data")
    arguments = parser.parse_args()
    costs: dict[tuple[str, str], list[Cost]] = {}
    stages: dict[str, list[dict[str, float]]] = {kind: [] for kind in COMMANDS}
    load = [os.getloadavg()[0]]
    for _ in range(arguments.repeats):
        with tempfile.TemporaryDirectory() as folder:
            configs = {kind: _configuration(Path(folder) / kind.replace(" ", "-"), arguments) for kind in COMMANDS}
            for what in ("from nothing", *["unchanged"] * arguments.unchanged_repeats):
                for kind, cost in _run(configs, arguments.apart).items():
                    costs.setdefault((what, kind), []).append(cost)
                load.append(os.getloadavg()[0])
            for kind, config in configs.items():
                stages[kind].append(_stage_seconds(config))
            if arguments.ticks:
                ticks.report(configs["with Prefect"], arguments.ticks)
    _print(costs, stages)
    print(f"\nload average {min(load):.1f} to {max(load):.1f}; {arguments.repeats} run(s) from nothing, {os.cpu_count()} cores")


def _run(configs: dict[str, Path], apart: bool) -> dict[str, Cost]:
    """Run both kinds, and wait for both."""
    if apart:
        return {kind: one for kind, config in configs.items() for one in _together({kind: config}).values()}
    return _together(configs)


def _together(configs: dict[str, Path]) -> dict[str, Cost]:
    began, costs = {}, {}
    for kind, config in configs.items():
        with (config.parent / "log").open("ab") as log:
            command = [*COMMANDS[kind], str(config)]
            began[subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=log, stderr=log).pid] = kind, time.monotonic()
    while began:
        pid, status, used = os.wait4(-1, 0)  # with the processor's seconds of this child and of those it waited for
        kind, start = began.pop(pid)
        if status:
            raise RuntimeError(f"the run {kind!r} failed: {(configs[kind].parent / 'log').read_text()[-2000:]}")
        costs[kind] = Cost(time.monotonic() - start, used.ru_utime + used.ru_stime)
        print(f"{kind}: {costs[kind]}, load {os.getloadavg()[0]:.1f}", file=sys.stderr)
    return costs


def _configuration(folder: Path, arguments: argparse.Namespace) -> Path:
    settings = {
        "data": {
            "train": {"path": arguments.train, "limit": arguments.rows},
            "validation": {"path": arguments.validation, "limit": 16},
            "tokenize": {"separator": "\n"},
        },
        "model": {"reference": arguments.model},
        "scoring": {"warmup": {"steps": 10}, "fisher": {"num_sequences": 32, "num_tokens": 64}},
        "schedule": {"interval_s": 3600.0, "train": False},
    }
    folder.mkdir()
    config = folder / "alphatoken.yaml"
    config.write_text(yaml.safe_dump(settings))
    return config


def _stage_seconds(config: Path) -> dict[str, float]:
    """Read what the run from nothing noted of its stages."""
    folder = config.parent / "alphatoken-warehouse"
    database = folder / "releases" / (folder / "releases" / "CURRENT").read_text() / "alphatoken.duckdb"
    with duckdb.connect(str(database), read_only=True) as con:
        rows = con.execute("SELECT key, value::DOUBLE FROM runs, json_each(counts, '$.stage_seconds') ORDER BY started_at").fetchall()
    return dict(rows[:5])


def _print(costs: dict[tuple[str, str], list[Cost]], stages: dict[str, list[dict[str, float]]]) -> None:
    print("| run | measured | with Prefect, s | without, s | difference, s | allowed: 15 s + 1% |\n|---|---|---|---|---|---|")
    for what in ("from nothing", "unchanged"):
        for measured, unit in (("clock", "wall_s"), ("processor", "cpu_s")):
            told, plain = (statistics.median(getattr(cost, unit) for cost in costs[what, kind]) for kind in COMMANDS)
            print(f"| {what} | {measured} | {told:.1f} | {plain:.1f} | {told - plain:+.1f} | {15 + plain / 100:.1f} |")
    for name in stages["without"][0]:
        told, plain = (statistics.median(one[name] for one in stages[kind]) for kind in COMMANDS)
        print(f"| stage {name} | clock | {told:.1f} | {plain:.1f} | {told - plain:+.1f} | |")


if __name__ == "__main__":
    main()
