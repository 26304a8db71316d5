"""The score stage shared by workers: shards mapped over threads or a Ray cluster by Prefect's task runners; the caller alone commits.

A shard is a stretch of a plan's parts. Its sequences lie in a file of the plan's folder, which all workers see, and its rows come back as
parts in the same folder: no token and no value travels as an argument. A worker that dies loses its shard, which is tried again and goes
on behind the parts that are there; the batches are those of the plan, so the rows are the same bits.
"""

import json
import logging
import os
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import polars as pl
from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner
from prefect.tasks import Task

from tasks.directions import ScoringSetup
from tasks.operations import WorkerSettings
from tasks.parts import Plan, finished_parts, write_part
from tasks.score_parts import OutOfMemoryInBatchError, content_of, load_scorer, pinned_threads, score_part
from tasks.settings import Configuration

if TYPE_CHECKING:
    from tasks.score_parts import AnyScorer

logger = logging.getLogger("alphatoken")

_AHEAD = 3
"""Shards handed out at one time, per worker: the next ones wait at the worker while the oldest is committed."""


@dataclass(frozen=True)
class Shard:
    """What a worker takes at one time.

    Attributes:
        config: the configuration.
        setup: models and directions.
        folder: the plan's folder, on a disk that all workers share.
        model: scoring or reference.
        groups: groups of values and their identities.
        number: number of the first part; names the shard's files.
    """

    config: Configuration
    setup: ScoringSetup
    folder: Path
    model: str
    groups: Mapping[str, str]
    number: int

    @property
    def plan(self) -> Plan:
        """The plan as far as a worker needs it: where its parts go."""
        return Plan(self.folder, self.model, self.groups, [], 0)

    @property
    def parts_file(self) -> Path:
        """JSON: number of each part and its batches."""
        return self.folder / f"shard-{self.number:06d}.json"

    @property
    def content_file(self) -> Path:
        """Parquet: the sequences."""
        return self.folder / f"shard-{self.number:06d}.parquet"


@dataclass(frozen=True)
class ShardReceipt:
    """What a worker did.

    Attributes:
        num_sequences: sequences of the shard.
        num_tokens: their tokens.
        num_not_finite: values that came out infinite or NaN, of the parts scored now.
        num_parts: parts scored now; the others were there.
    """

    num_sequences: int
    num_tokens: int
    num_not_finite: int
    num_parts: int


_loaded: dict[Any, "AnyScorer"] = {}
"""What this worker of a cluster has loaded, by what it was loaded for: one entry, once per worker."""


def score_shard(shard: Shard) -> ShardReceipt:
    """Score a shard; this is what a worker of a cluster runs.

    Args:
        shard: what to score.

    Returns:
        what was done.
    """
    setup = shard.setup  # its folds have the same identities, and differ in their directions alone
    key = (setup.ids, setup.adapt, setup.stab, shard.model, tuple(sorted(shard.groups)))
    if key not in _loaded:
        _loaded.clear()  # the old model goes before the new one comes
        _loaded[key] = load_scorer(shard.config, setup, shard.model, shard.groups)
    return score_missing(shard, _loaded[key])


def score_missing(shard: Shard, scorer: "AnyScorer") -> ShardReceipt:
    """Score the parts of a shard that are not there yet.

    Args:
        shard: what to score.
        scorer: the model and its directions.

    Returns:
        what was done.
    """
    parts = json.loads(shard.parts_file.read_text())
    content = content_of(pl.read_parquet(shard.content_file))
    there = {number for number, _ in finished_parts(shard.plan)}
    todo = [(number, batches) for number, batches in parts if number not in there]
    bad: list[int] = []
    with pinned_threads(shard.config.workers.torch_threads):
        for number, batches in todo:
            rows = score_part(batches, shard.model, scorer, content, lambda _, not_finite: bad.append(not_finite))
            write_part(shard.plan, number, rows)
    return ShardReceipt(len(content), sum(len(one[0]) for one in content.values()), sum(bad), len(todo))


def _on_threads(config: Configuration, setup: ScoringSetup, plan: Plan) -> Callable[[Shard], ShardReceipt]:
    """Load a model per thread, one after the other: while transformers loads, it changes defaults of the whole process.

    Returns:
        what a thread runs.
    """
    idle: SimpleQueue[AnyScorer] = SimpleQueue()
    for _ in range(config.workers.num_workers):
        idle.put(load_scorer(config, setup, plan.model, plan.groups))

    def score_with_an_idle_one(shard: Shard) -> ShardReceipt:
        scorer = idle.get()
        try:
            return score_missing(shard, scorer)
        finally:
            idle.put(scorer)

    return score_with_an_idle_one


def _may_pass(task: Task[Any, Any], run: TaskRun, state: State[Any]) -> bool:
    """Decide on a retry: memory that does not suffice needs another plan, not another try.

    Returns:
        whether to try again.
    """
    error = state.result(raise_on_failure=False)
    if isinstance(error, OutOfMemoryInBatchError):
        return False
    logger.warning("%s failed and is tried again if a try is left: %s: %s", run.name, type(error).__name__, error)
    return True


def share(
    config: Configuration, setup: ScoringSetup, plan: Plan, numbers: Sequence[int], fetch: Callable[[Sequence[str]], pl.DataFrame]
) -> Iterator[ShardReceipt]:
    """Let workers score parts of a plan.

    Args:
        config: the configuration.
        setup: models and directions.
        plan: the plan.
        numbers: its parts that are to be scored.
        fetch: reads sequences, in the caller's process.

    Yields:
        a receipt per shard, in order; its parts are in the plan's folder by then.

    Raises:
        OutOfMemoryInBatchError: a batch did not fit; no worker is at work any more.
        ImportError: Ray is asked for and not installed.
    """
    workers = config.workers
    work = score_shard if workers.runner == "ray" else _on_threads(config, setup, plan)
    attempt = task(
        name="score_shard", retries=workers.retries, retry_delay_seconds=1, retry_condition_fn=_may_pass, cache_policy=NO_CACHE, persist_result=False
    )(work)  # fmt: skip
    stretches = [numbers[i : i + workers.shard_parts] for i in range(0, len(numbers), workers.shard_parts)]
    with _runner(workers) as runner:
        waiting: deque[tuple[Shard, Any]] = deque()
        try:
            for stretch in stretches:
                shard = _prepare(Shard(config, setup, plan.folder, plan.model, plan.groups, stretch[0]), plan, stretch, fetch)
                waiting.append((shard, runner.submit(attempt, {"shard": shard})))
                if len(waiting) >= _AHEAD * workers.num_workers:
                    yield _finish(waiting)
            while waiting:
                yield _finish(waiting)
        finally:
            for _, future in waiting:  # after a fault: nobody may write into the plan's folder behind our back
                future.wait()


def _prepare(shard: Shard, plan: Plan, numbers: Sequence[int], fetch: Callable[[Sequence[str]], pl.DataFrame]) -> Shard:
    """Write what a worker reads: batches of the parts, and their sequences."""
    shard.parts_file.write_text(json.dumps([(number, plan.parts[number]) for number in numbers]))
    fetch([s for number in numbers for batch in plan.parts[number] for s in batch]).write_parquet(shard.content_file)
    return shard


def _finish(waiting: deque[tuple[Shard, Any]]) -> ShardReceipt:
    """Wait for the oldest shard, and remove what it read."""
    shard, future = waiting.popleft()
    receipt: ShardReceipt = future.result()
    shard.parts_file.unlink()
    shard.content_file.unlink()
    return receipt


@contextmanager
def _runner(workers: WorkerSettings) -> Generator[TaskRunner[Any]]:
    """Start the task runner that the settings ask for, and end it with the block."""
    with ExitStack() as stack:
        if workers.runner == "threads":
            yield stack.enter_context(ThreadPoolTaskRunner(max_workers=workers.num_workers))
            return
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        try:
            from prefect_ray.context import remote_options
            from prefect_ray.task_runners import RayTaskRunner
        except ImportError as error:
            raise ImportError("workers.runner 'ray' needs prefect-ray, which is not installed: pip install 'alphatoken[ray]'") from error
        local = {"num_cpus": workers.num_workers, "include_dashboard": False, "log_to_driver": False}
        # Ray itself runs a task again whose worker died; Prefect again one that failed.
        stack.enter_context(remote_options(num_cpus=1, num_gpus=workers.gpus_per_worker, max_retries=workers.retries))
        yield stack.enter_context(RayTaskRunner(address=workers.ray_address, init_kwargs=local if workers.ray_address is None else None))
