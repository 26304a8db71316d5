"""Deployments: valuing by the clock and when data change, training on every new release; and the process that serves them.

One process registers the deployments at the Prefect server of `PREFECT_API_URL`, starts their runs, each in a process of its own, and looks
at the data files. Runs may as well be started by workers (prefect.yaml); then `watch` is what looks at the files.
"""

import contextlib
import logging
import threading
from collections.abc import Generator
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from prefect import flow
from prefect import serve as serve_deployments
from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy, State
from prefect.client.schemas.schedules import CronSchedule, IntervalSchedule
from prefect.events import DeploymentEventTrigger
from prefect.settings import PREFECT_API_URL
from prefect.states import Completed

from flows import watch as watching
from flows.events import DATA_CHANGED, RELEASE_WRITTEN, resource_of
from flows.train_masked import train_masked
from flows.value_tokens import ValueSummary, value_tokens
from tasks.changes import Changes, overrides
from tasks.quiet import configure
from tasks.settings import Configuration, ConfigurationError, load
from tasks.training import WAIT_FOR_WRITER_S, TrainingReceipt
from warehouse.connect import WarehouseBusyError

if TYPE_CHECKING:
    from prefect.deployments.runner import RunnerDeployment

logger = logging.getLogger("alphatoken")


@flow(name="value_tokens", persist_result=False)
def scheduled_value(
    config_path: str,
    changes: Changes | None = None,
    refresh_scoring: bool = False,
    when_busy: Literal["wait", "skip"] = "wait",
) -> "ValueSummary | State[Any]":
    """Value what changed, write masks and a release; the release's event starts the training.

    Args:
        config_path: the configuration file.
        changes: settings that differ from the file.
        refresh_scoring: remake the pinned artefacts on the present data.
        when_busy: wait until no other run writes, or end in the state Skipped.

    Returns:
        what was done, or the state Skipped.

    Raises:
        WarehouseBusyError: another run has been writing for a day.
    """
    configure(served=True)
    timeout_s = WAIT_FOR_WRITER_S if when_busy == "wait" else 0.0
    try:
        return value_tokens.fn(config_path, [f"warehouse.lock_timeout_s={timeout_s}", *overrides(changes)], refresh_scoring)
    except WarehouseBusyError as error:
        if when_busy == "wait":
            raise
        return Completed(name="Skipped", message=f"nothing was done: {error}")


@flow(name="train_masked", persist_result=False)
def scheduled_train(
    config_path: str,
    changes: Changes | None = None,
    policy: str | None = None,
    release_id: str | None = None,
) -> TrainingReceipt:
    """Train on a mask of the newest release; a training that was done before is not done again.

    Args:
        config_path: the configuration file.
        changes: settings that differ from the file.
        policy: whose mask; `training.policy` when absent.
        release_id: the release that started it, for the record.

    Returns:
        what was trained, or what was there.
    """
    configure(served=True)
    if release_id is not None:
        logger.info("started by release %s", release_id)
    return train_masked.fn(config_path, overrides(changes), policy)


def deployments(config_path: Path) -> "list[RunnerDeployment]":
    """Make the deployments of a configuration: `value_tokens`, and `train_masked` where `schedule.train` is set.

    Args:
        config_path: the configuration file.

    Returns:
        deployments, not yet registered. Each runs once at a time.
    """
    config = load(config_path)
    settings = config.schedule
    name = settings.name or config.base.name
    resource = {"prefect.resource.id": resource_of(config.warehouse_folder)["prefect.resource.id"]}
    strategy = ConcurrencyLimitStrategy.ENQUEUE if settings.when_busy == "wait" else ConcurrencyLimitStrategy.CANCEL_NEW
    parameters = {"config_path": str(config_path.resolve())}
    value = scheduled_value.to_deployment(
        name=name, schedules=_schedules(config), concurrency_limit=ConcurrencyLimitConfig(limit=1, collision_strategy=strategy),
        parameters=parameters | {"when_busy": settings.when_busy}, tags=["alphatoken"], description=scheduled_value.description,
        triggers=[_trigger(DATA_CHANGED, resource, {})] if settings.watch_s is not None else None,
    )  # fmt: skip
    if not settings.train:
        return [cast("RunnerDeployment", value)]
    told = parameters | {"release_id": "{{ event.payload.release_id }}"}
    train = scheduled_train.to_deployment(
        name=name, concurrency_limit=ConcurrencyLimitConfig(limit=1, collision_strategy=ConcurrencyLimitStrategy.ENQUEUE),
        parameters=parameters, tags=["alphatoken"], description=scheduled_train.description,
        triggers=[_trigger(RELEASE_WRITTEN, resource, told)],
    )  # fmt: skip
    return [cast("RunnerDeployment", value), cast("RunnerDeployment", train)]


def _schedules(config: Configuration) -> list[Any]:
    settings = config.schedule
    if settings.cron is not None:
        return [CronSchedule(cron=settings.cron, timezone=settings.timezone)]
    if settings.interval_s is not None:
        return [IntervalSchedule(interval=timedelta(seconds=settings.interval_s), timezone=settings.timezone)]
    return []


def _trigger(event: str, resource: dict[str, str], parameters: dict[str, Any]) -> DeploymentEventTrigger:
    return DeploymentEventTrigger(name=event, expect={event}, match=resource, parameters=parameters or None)


def serve(config_path: Path) -> None:
    """Register the deployments of a configuration and start their runs until this process is stopped.

    Args:
        config_path: the configuration file.

    Raises:
        ConfigurationError: there is no server, or nothing that would ever start a run.
    """
    _require_server()
    config = load(config_path)
    if config.schedule.cron is None and config.schedule.interval_s is None and config.schedule.watch_s is None:
        logger.warning("%s: schedule has neither cron, interval_s nor watch_s; runs start from Prefect's interface only", config_path)
    with _watching(config):
        serve_deployments(*deployments(config_path))


def watch(config_path: Path, stop: threading.Event | None = None) -> None:
    """Look at the data files until stopped, and send an event when one changed and is whole: two looks found it the same.

    Args:
        config_path: the configuration file; `schedule.watch_s` says how often.
        stop: ends it; None = only a signal does.

    Raises:
        ConfigurationError: there is no server, or `schedule.watch_s` is not set.
    """
    _require_server()
    config = load(config_path)
    if config.schedule.watch_s is None:
        raise ConfigurationError(f"{config_path}: schedule.watch_s is not set; give the seconds between two looks at the data files")
    watching.watch(config, config.schedule.watch_s, stop or threading.Event())


@contextlib.contextmanager
def _watching(config: Configuration) -> Generator[None]:
    """Watch beside the block, if the configuration says so."""
    if config.schedule.watch_s is None:
        yield
        return
    stop = threading.Event()
    thread = threading.Thread(target=watching.watch, args=(config, config.schedule.watch_s, stop), name="watch", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _require_server() -> None:
    if PREFECT_API_URL.value() is None:
        raise ConfigurationError(
            "deployments need a Prefect server: start one with `prefect server start --host 127.0.0.1`, and set "
            "PREFECT_API_URL=http://127.0.0.1:4200/api here and where the runs are started"
        )
