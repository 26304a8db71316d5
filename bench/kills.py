"""Kills at random times: the real write paths with synthetic values, killed by SIGKILL over and over; receipts and rows checked after each kill.

Three jobs follow one another in a small warehouse: value a data set; value a changed one against another direction; prune. Whatever writes
is the pipeline's own (ingest, tokenized rows, artefacts, parts, commits, masks, runs, releases, prune, compaction); the model alone is left
out: values are a function of the tokens. Each job is killed at random times and begun again until it gets through. After every kill a
copy of the warehouse is checked: every receipt has its rows, whole, and no value, mask or snapshot is there without a receipt; the
release that readers have is whole. After every job its rows must be those of an undisturbed run.

python -m bench.kills [--kills 100] [--examples 400] [--seed 0]
"""

import argparse
import json
import os
import random
import select
import shutil
import signal
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.kills_check import check, rows_of
from bench.kills_jobs import JOBS, do_job

STAGES = ("begin", "ingest", "tokenize", "artefacts", "score", "commit", "scoring", "mask", "prune", "compact", "release")


@dataclass
class Outcome:
    """What the kills met.

    Attributes:
        stages: kills by the stage they fell in.
        num_rounds: warehouses made from nothing.
        num_checks: checks of a killed warehouse.
        num_receipts: receipts checked, over all of them.
        seconds: wall time of all.
    """

    stages: Counter[str] = field(default_factory=Counter)
    num_rounds: int = 0
    num_checks: int = 0
    num_receipts: int = 0
    seconds: float = 0.0


def kill_often(num_kills: int, num_examples: int, seed: int, folder: Path, tell: Callable[[str], None] = lambda _: None) -> Outcome:
    """Kill jobs until there were enough kills, and see the last round through.

    Args:
        num_kills: how many.
        num_examples: size of the data set.
        seed: of the times.
        folder: an empty folder to work in.
        tell: told a line per round.

    Returns:
        the outcome.

    Raises:
        AssertionError: rows are missing, broken or others than those of an undisturbed run.
    """
    began, generator, outcome = time.monotonic(), random.Random(seed), Outcome()
    whole = folder / "undisturbed"
    whole.mkdir(parents=True)
    durations, expected = [], []
    for job in range(len(JOBS)):
        start = time.monotonic()
        assert _run(whole, job, num_examples, None) is None, f"the undisturbed job {JOBS[job]!r} was killed by something else"
        durations.append(time.monotonic() - start)
        expected.append(_in_child(rows_of, whole / "warehouse"))
    while sum(outcome.stages.values()) < num_kills:
        outcome.num_rounds += 1
        here = folder / f"round-{outcome.num_rounds}"
        here.mkdir()
        for job in range(len(JOBS)):
            while True:
                enough = sum(outcome.stages.values()) >= num_kills
                stage = _run(here, job, num_examples, None if enough else generator.uniform(0, durations[job]))
                if stage is None:
                    break
                outcome.stages[stage] += 1
                outcome.num_receipts += _check_copy(here)
                outcome.num_checks += 1
            found = _in_child(rows_of, here / "warehouse")
            assert found == expected[job], (
                f"after {JOBS[job]!r} of round {outcome.num_rounds} these tables differ: {_different(found, expected[job])}"
            )
            _check_copy(here)
        shutil.rmtree(here)
        tell(f"round {outcome.num_rounds}: {sum(outcome.stages.values())} kills")
    outcome.seconds = time.monotonic() - began
    return outcome


def _different(one: dict[str, str], other: dict[str, str]) -> list[str]:
    return sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))


def _check_copy(here: Path) -> int:
    """Check a copy: looking at a database replays its log, which the next run shall do itself.

    Returns:
        number of receipts.
    """
    copy = here / "copy"
    shutil.copytree(here / "warehouse", copy) if (here / "warehouse").is_dir() else copy.mkdir()
    try:
        return int(_in_child(check, copy, here / "journal"))
    finally:
        shutil.rmtree(copy)


def _run(here: Path, job: int, num_examples: int, after_s: float | None) -> str | None:
    """Do a job in a child, which is killed after a time if it is not through by then.

    Returns:
        the stage that the kill fell in; None where the job got through.

    Raises:
        AssertionError: the job failed by itself.
    """
    stage = here / "stage"
    stage.write_bytes(b"begin".ljust(20))
    done, told = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(done)
        _work(lambda: do_job(here, job, num_examples), told)
    os.close(told)
    ready, _, _ = select.select([done], [], [], after_s)
    if not ready:
        os.kill(child, signal.SIGKILL)
    with os.fdopen(done) as pipe:
        said = pipe.read()
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    if code == -signal.SIGKILL and not said:
        return stage.read_text().strip()
    assert code in (0, -signal.SIGKILL), f"the job {JOBS[job]!r} ended with {code}"  # killed after it had said how it went, or not at all
    assert not json.loads(said)[1], f"the job {JOBS[job]!r} failed: {said}"
    return None


def _in_child(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function in a child, so that this process never has threads of DuckDB when it forks.

    Returns:
        its result, by way of JSON.

    Raises:
        AssertionError: it failed.
    """
    done, told = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(done)
        _work(lambda: function(*arguments), told)
    os.close(told)
    with os.fdopen(done) as pipe:
        said = pipe.read()
    os.waitpid(child, 0)
    result, error = json.loads(said or '[null, "it was killed"]')
    assert not error, f"{function.__name__}: {error}"
    return result


def _work(function: Callable[[], Any], told: int) -> None:
    """Tell the parent the result of a function, or its error, and end this process."""
    said: tuple[Any, str | None] = (None, None)
    try:
        said = (function(), None)
    except BaseException:
        said = (None, traceback.format_exc())
    os.write(told, json.dumps(said).encode())
    os._exit(0)


def import_all() -> None:
    """Import what the jobs need, once for all children; nothing is computed, so no thread exists when this process forks."""
    import importlib

    for name in (
        "flows.value_tokens",
        "pandas",
        "models.batches",
        "models.scoring",
        "tasks.scoring",
        "warehouse.policies",
        "warehouse.compact",
        "warehouse.prune",
    ):
        importlib.import_module(name)


def main(arguments: Sequence[str] | None = None) -> None:
    """Kill, check and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--examples", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    import_all()
    with tempfile.TemporaryDirectory(prefix="alphatoken-kills-") as folder:
        outcome = kill_often(options.kills, options.examples, options.seed, Path(folder), print)
    print("\n| stage | kills |\n|---|---|")
    for stage in STAGES:
        print(f"| {stage} | {outcome.stages[stage]} |")
    print(
        f"\n{sum(outcome.stages.values())} kills in {outcome.num_rounds} warehouses, {outcome.num_receipts} receipts checked, none without its "
        f"rows; rows of every finished job equal to those of an undisturbed run ({outcome.seconds:.0f} s)"
    )


if __name__ == "__main__":
    main()
