"""The flow that values tokens: ingest → tokenize → directions → score → mask → release. Only what changed is done.

One flow and one writer: DuckDB has a single writing process, so the flow holds the writer's lock from start to end. Readers and
the training flow open releases and never wait.
"""

import logging
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from prefect import flow

from flows.artifacts import show_failure, show_run
from flows.events import DATA_ALERT, announce_release, emit
from tasks import stages
from tasks.alerts import check_data
from tasks.runs import Run
from tasks.settings import Configuration, load
from warehouse import runs
from warehouse.alerts import DataAlertError
from warehouse.connect import DATABASE, Warehouse, writer_lock
from warehouse.release import NoReleaseError

logger = logging.getLogger("alphatoken")


@dataclass(frozen=True)
class ValueSummary:
    """What a run of `value_tokens` did.

    Attributes:
        run_id: identity of the run.
        warehouse: the warehouse's folder.
        release_id: the current release.
        wrote_release: whether the run changed anything.
        counts: what each stage did.
    """

    run_id: str
    warehouse: str
    release_id: str
    wrote_release: bool
    counts: dict[str, Any]


@flow(name="value_tokens", persist_result=False)
def value_tokens(config_path: str, overrides: Sequence[str] = (), refresh_scoring: bool = False) -> ValueSummary:
    """Value the tokens of a data set and write masks and a release.

    Args:
        config_path: the configuration file.
        overrides: `section.key=value` each.
        refresh_scoring: remake the pinned warm-up checkpoint, Fisher and directions on the present data.

    Returns:
        what was done.
    """
    run = Run.begin("value_tokens", load(Path(config_path), overrides))
    folder = run.config.warehouse_folder
    with writer_lock(folder, run.config.warehouse.lock_timeout_s, "value_tokens"), noted(run) as counts:
        _stages(run, refresh_scoring, counts)
        _check(run, counts)
    release_id, written = counts.pop("release")
    show_run(run, counts)
    announce_release(folder)
    return ValueSummary(run.run_id, str(folder), release_id, written, counts)


def _stages(run: Run, refresh_scoring: bool, counts: dict[str, Any]) -> None:
    """Do the stages in order, and note in `counts` what each did and took."""
    data, laps = run.config.data, _Laps(run, counts)
    train = stages.ingest(run, "train", data.train)
    validation = stages.ingest(run, "validation", data.validation)
    laps.note("ingest", asdict(train))
    tokenized = stages.tokenize(run, train, data.train)
    stages.tokenize(run, validation, data.validation)
    if data.evaluation is not None:
        evaluation = stages.ingest(run, "evaluation", data.evaluation)
        stages.tokenize(run, evaluation, data.evaluation)
        stages.set_evaluation(run, validation.snapshot_id, evaluation.snapshot_id)
    laps.note("tokenize", {"num_tokenized": tokenized.num_tokenized, **tokenized.counts})
    setup = stages.prepare_directions(run, train.snapshot_id, validation.snapshot_id, refresh_scoring)
    described = {
        "num_made": setup.num_made,
        "stability_is_zero": setup.stability_is_zero,
        "stability_alignment": setup.described.get("stability_alignment"),
        "coverage": setup.coverage,
    }
    laps.note("directions", described)
    laps.note("score", asdict(stages.score(run, setup, train.snapshot_id, tokenized.tokenization_id)))
    laps.note("masks", [asdict(stages.mask(run, name)) for name in sorted(run.config.policies())])


class _Laps:
    """Notes what each stage did, and the seconds it took, as soon as it is done: a failed run tells how far it came."""

    def __init__(self, run: Run, counts: dict[str, Any]) -> None:
        self._run_id, self._counts, self._last = run.run_id, counts, time.monotonic()
        counts["stage_seconds"] = {}

    def note(self, stage: str, what: Any) -> None:
        """Note a stage that has just ended."""
        now = time.monotonic()
        seconds = round(now - self._last, 3)
        self._counts["stage_seconds"][stage] = seconds
        self._counts[stage], self._last = what, now
        logger.info("stage %s: %.1f s", stage, seconds, extra={"run_id": self._run_id, "stage": stage, "seconds": seconds, "counts": what})


def _check(run: Run, counts: dict[str, Any]) -> None:
    """Compare the data with the release before, and tell others when a figure is out of order.

    Raises:
        DataAlertError: a figure is above a limit whose action is `fail`.
    """
    try:
        counts["alerts"] = check_data(run)
    except DataAlertError as error:
        emit(DATA_ALERT, run.config.warehouse_folder, {"run_id": run.run_id, "action": "fail", "message": str(error)})
        raise
    if counts["alerts"]:
        emit(DATA_ALERT, run.config.warehouse_folder, {"run_id": run.run_id, "action": "warn", "alerts": counts["alerts"]})


@flow(name="mask", persist_result=False)
def mask_tokens(config_path: str, overrides: Sequence[str] = (), policy: str | None = None) -> ValueSummary:
    """Apply policies to the stored values again; no model is loaded.

    Args:
        config_path: the configuration file.
        overrides: `section.key=value` each.
        policy: one policy; all of them when absent.

    Returns:
        what was done.

    Raises:
        NoReleaseError: there is no warehouse.
    """
    run = Run.begin("mask", load(Path(config_path), overrides))
    folder = run.config.warehouse_folder
    if not (folder / DATABASE).is_file():
        raise NoReleaseError(f"there is no warehouse at {folder}; run `alphatoken value` first, or correct warehouse.path")
    names = [policy] if policy is not None else sorted(run.config.policies())
    for name in names:
        run.config.policy_named(name)
    with writer_lock(folder, run.config.warehouse.lock_timeout_s, "mask"), noted(run) as counts:
        counts["masks"] = [asdict(stages.mask(run, name)) for name in names]
        _check(run, counts)
    release_id, written = counts.pop("release")
    announce_release(folder)
    return ValueSummary(run.run_id, str(folder), release_id, written, counts)


def close_interrupted(config: Configuration) -> None:
    """Mark runs as interrupted that a killed process left open; nothing is written where there are none."""
    if not (config.warehouse_folder / DATABASE).is_file():
        return
    with Warehouse(config.warehouse_folder, config.warehouse) as warehouse:
        if warehouse.one("runs/count_running") != (0,):
            with warehouse.transaction():
                warehouse.run("runs/close_interrupted")


class noted:  # ruff: ignore[invalid-class-name] - used as a statement
    """Notes how a run ended, if it wrote anything, and then writes the release.

    A failed run is noted with its error. What it had committed stays, and is released by the next run that completes; so is what a run
    wrote that is told to release nothing.
    """

    def __init__(self, run: Run, *, releases: bool = True, brings_data: bool = True) -> None:
        self._run, self._releases, self._brings_data = run, releases, brings_data
        self._counts: dict[str, Any] = {}

    def __enter__(self) -> dict[str, Any]:
        close_interrupted(self._run.config)
        return self._counts

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        state = "completed" if error is None else "failed"
        text = None if error is None else f"{type(error).__name__}: {error}"
        try:
            with self._run.open() as warehouse:
                runs.finish(warehouse, self._run.run_id, state, self._counts or None, text)
        except Exception as second:
            if error is None:
                raise
            logger.warning("how this run ended could not be noted (%s); the next run marks it as interrupted", second)
        if error is None and self._releases:
            self._counts["release"] = stages.release(self._run, brings_data=self._brings_data)
        elif error is not None:
            show_failure(self._run, error, self._counts)
