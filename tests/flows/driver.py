"""A process that forks a child for every job, so that a job may be killed for real and costs no imports of its own.

The parent imports, and computes nothing: no thread pool exists yet when it forks.
"""

import importlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


class Driver:
    """The parent, as the tests see it."""

    def __init__(self, log: Path) -> None:
        self._log = log.open("ab")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.flows.driver"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )
        self._log_path = log

    def __enter__(self) -> "Driver":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.stdin.close()
        self._process.wait()
        self._log.close()

    def run(self, job: str, **arguments: Any) -> Any:
        """Do a job to its end.

        Returns:
            what it returned.
        """
        answer = self._ask(job, arguments)
        assert answer["status"] == 0, f"{job} {arguments} ended with {answer['status']}; see\n{self._log_path.read_text()[-3000:]}"
        return answer["result"]

    def run_killed(self, job: str, **arguments: Any) -> None:
        """Do a job that must be killed on its way."""
        answer = self._ask(job, arguments)
        assert answer["status"] == -signal.SIGKILL, (
            f"{job} {arguments} was not killed but ended with {answer}\n{self._log_path.read_text()[-3000:]}"
        )

    def _ask(self, job: str, arguments: dict[str, Any]) -> dict[str, Any]:
        self._process.stdin.write(json.dumps({"job": job, "arguments": arguments}) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())


def _value(folder: str, overrides: list[str] | None = None, point: str | None = None, number: int = 1, shard: int = 12) -> Any:
    """Run `value_tokens`; commit a shard every `shard` sequences; be killed at the `number`-th passing of a point."""
    from tasks import scoring
    from tests.flows.world import Project

    scoring._SHARD_SEQUENCES = shard
    if point is not None:
        POINTS[point](_Countdown(number))
    return Project(Path(folder)).value(*(overrides or [])).counts


def _train(folder: str, overrides: list[str] | None = None, point: str | None = None, number: int = 1) -> Any:
    """Run `train_masked`."""
    from tests.flows.world import Project

    if point is not None:
        POINTS[point](_Countdown(number))
    return Project(Path(folder)).train(*(overrides or [])).checkpoint


def _rounds(folder: str, overrides: list[str] | None = None, point: str | None = None, number: int = 1) -> Any:
    """Run `rounds`, two of them."""
    from flows.rounds import rounds
    from tests.flows.world import Project

    if point is not None:
        POINTS[point](_Countdown(number))
    return [one.training.checkpoint for one in rounds(str(Project(Path(folder)).config), list(overrides or []), 2)]


JOBS: dict[str, Callable[..., Any]] = {"value": _value, "train": _train, "rounds": _rounds}


class _Countdown:
    """Kills this process at the n-th call."""

    def __init__(self, number: int) -> None:
        self._left = number

    def __call__(self) -> None:
        self._left -= 1
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


def _before(owner: Any, name: str, when: Callable[..., bool] = lambda *_, **__: True) -> Callable[[_Countdown], None]:
    """Make a point: the start of a function's calls."""

    def install(count: _Countdown) -> None:
        original = getattr(owner(), name)

        def counted(*arguments: Any, **named: Any) -> Any:
            if when(*arguments, **named):
                count()
            return original(*arguments, **named)

        setattr(owner(), name, counted)

    return install


def _after(owner: Any, name: str, when: Callable[..., bool] = lambda *_, **__: True) -> Callable[[_Countdown], None]:
    """Make a point: the end of a function's calls."""

    def install(count: _Countdown) -> None:
        original = getattr(owner(), name)

        def counted(*arguments: Any, **named: Any) -> Any:
            result = original(*arguments, **named)
            if when(*arguments, **named):
                count()
            return result

        setattr(owner(), name, counted)

    return install


def _half_copied(count: _Countdown) -> None:
    """Make a point: a release whose file is copied by half."""
    from warehouse import release

    original = release._copy

    def copy(source: Path, target: Path) -> None:
        content = source.read_bytes()
        target.write_bytes(content[: len(content) // 2])
        count()
        original(source, target)

    release._copy = copy


def _module(name: str) -> Callable[[], Any]:
    return lambda: sys.modules[name]


def _scorer() -> Any:
    return sys.modules["models.scoring"].Scorer


POINTS: dict[str, Callable[[_Countdown], None]] = {
    # while values are computed
    "artifact made, not noted": _before(_module("tasks.artifacts"), "_settle"),
    "plan not stored": _before(lambda: Path, "replace", lambda path, _: path.name == ".plan.json.partial"),
    "batch": _before(_scorer, "score"),
    "part half written": _before(lambda: Path, "replace", lambda path, _: path.name.startswith(".part-")),
    "part written": _after(_module("tasks.scoring"), "write_part"),
    # around a commit
    "before commit": _after(_module("warehouse.write"), "receipt", lambda _, stage, *__: stage == "score"),
    "committed, no marker": _after(_module("tasks.scoring"), "commit_shard"),
    "marker, parts still there": _before(lambda: Path, "unlink", lambda path, **_: path.name.startswith("part-")),
    "values there, no scoring": _before(_module("warehouse.write"), "write_scoring"),
    "masks there, run open": _before(_module("warehouse.runs"), "finish"),
    "release half copied": _half_copied,
    "release not current": _before(lambda: Path, "replace", lambda path, _: path.name == ".CURRENT.partial"),
    # while training
    "training step": _before(lambda: sys.modules["tasks.progress"].Progress, "steps", lambda _, what, *__: what.startswith("training")),
    "checkpoint half saved": _before(lambda: sys.modules["transformers"].Trainer, "_save_optimizer_and_scheduler"),
    "trained, not noted": _before(_module("tasks.training"), "note_training"),
}
"""Where a job can be killed."""


IMPORTED = (
    "accelerate", "transformers", "transformers.trainer", "flows.rounds", "flows.train_masked", "flows.value_tokens", "models.batches", "models.directions",
    "models.losses", "models.reference", "models.scoring", "models.trainer", "models.training", "tests.flows.world",
)  # fmt: skip
"""Imported once, for all children."""


def _serve() -> None:
    """Fork a child for every line of standard input and tell how it ended."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a job prints goes to the log
    for line in sys.stdin:
        asked = json.loads(line)
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            _work(asked, write)
        os.close(write)
        with os.fdopen(read) as pipe:
            told = pipe.read()
        _, status = os.waitpid(child, 0)
        answers.write(json.dumps({"status": os.waitstatus_to_exitcode(status), "result": json.loads(told) if told else None}) + "\n")
        answers.flush()


def _work(asked: dict[str, Any], write: int) -> None:
    """Do a job in the child, which ends here."""
    import traceback

    from tests.flows.world import without_prefect

    status = 1
    try:
        with without_prefect():
            result = JOBS[asked["job"]](**asked["arguments"])
        os.write(write, json.dumps(result).encode())
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    os.environ |= {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    from tasks.quiet import configure

    configure()
    for name in IMPORTED:
        importlib.import_module(name)
    _serve()
