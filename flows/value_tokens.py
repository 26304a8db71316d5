"""The flow that values tokens: ingest → tokenize → directions → score → mask → release. Only what changed is done.

One flow and one writer: DuckDB has a single writing process, so the flow holds the writer's lock from start to end. Readers and
the training flow open releases and never wait.
"""

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from prefect import flow
from prefect.artifacts import create_markdown_artifact

from reports.summary import markdown
from tasks import stages
from tasks.runs import Run
from tasks.settings import Configuration, load
from warehouse import runs
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
        counts.update(_stages(run, refresh_scoring))
    release_id, written = counts.pop("release")
    create_markdown_artifact(key="value-tokens", markdown=markdown(counts), description="What this run did")
    return ValueSummary(run.run_id, str(folder), release_id, written, counts)


def _stages(run: Run, refresh_scoring: bool) -> dict[str, Any]:
    data = run.config.data
    train = stages.ingest(run, "train", data.train)
    validation = stages.ingest(run, "validation", data.validation)
    tokenized = stages.tokenize(run, train, data.train)
    stages.tokenize(run, validation, data.validation)
    if data.evaluation is not None:
        evaluation = stages.ingest(run, "evaluation", data.evaluation)
        stages.tokenize(run, evaluation, data.evaluation)
        stages.set_evaluation(run, validation.snapshot_id, evaluation.snapshot_id)
    setup = stages.prepare_directions(run, train.snapshot_id, validation.snapshot_id, refresh_scoring)
    scored = stages.score(run, setup, train.snapshot_id, tokenized.tokenization_id)
    masks = [stages.mask(run, name) for name in sorted(run.config.policies())]
    return {
        "ingest": asdict(train),
        "tokenize": {"num_tokenized": tokenized.num_tokenized, **tokenized.counts},
        "directions": {
            "num_made": setup.num_made,
            "stability_is_zero": setup.stability_is_zero,
            "stability_alignment": setup.described.get("stability_alignment"),
            "coverage": setup.coverage,
        },
        "score": asdict(scored),
        "masks": [asdict(m) for m in masks],
    }


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
    release_id, written = counts.pop("release")
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

    A failed run is noted with its error. What it had committed stays, and is released by the next run that completes.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
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
        if error is None:
            self._counts["release"] = stages.release(self._run)
