"""The flow that prunes a warehouse: what nothing current needs and no rule keeps is removed, then a release is written."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from prefect import flow

from flows.value_tokens import noted
from tasks import pruning
from tasks.runs import Run
from tasks.settings import load
from warehouse.connect import DATABASE, writer_lock
from warehouse.prune import PrunePlan, PruneRules, size_of
from warehouse.release import NoReleaseError


@dataclass(frozen=True)
class PruneSummary:
    """What a run of `prune` found and did.

    Attributes:
        warehouse: the warehouse's folder.
        plan: what goes and what stays.
        releases: of the releases that go, bytes on disk by id.
        applied: whether it is gone; False after a dry run.
        num_bytes_before: size of the live file before.
        num_bytes_after: size of the live file after.
    """

    warehouse: str
    plan: PrunePlan
    releases: dict[str, int]
    applied: bool
    num_bytes_before: int
    num_bytes_after: int


@flow(name="prune", persist_result=False)
def prune_warehouse(
    config_path: str,
    overrides: Sequence[str] = (),
    keep_last: int = 3,
    older_than_days: float | None = None,
    unfinished: bool = False,
    apply: bool = False,
) -> PruneSummary:
    """Remove old scorings, masks, snapshots and what belongs to them alone; tell what would go where it is not to be applied.

    Args:
        config_path: the configuration file.
        overrides: `section.key=value` each.
        keep_last: of scorings, of the snapshots of each role and of the masks of each policy, how many of the newest stay.
        older_than_days: what is younger stays as well.
        unfinished: whether what interrupted runs left goes, too.
        apply: remove it; nothing is written otherwise.

    Returns:
        what goes.

    Raises:
        NoReleaseError: there is no warehouse.
    """
    run = Run.begin("prune", load(Path(config_path), overrides))
    rules = PruneRules(
        keep_last=keep_last, older_than_days=older_than_days, unfinished=unfinished, policies=tuple(sorted(run.config.policies()))
    )
    folder, settings = run.config.warehouse_folder, run.config.warehouse
    live = folder / DATABASE
    if not live.is_file():
        raise NoReleaseError(f"there is no warehouse at {folder}; run `alphatoken value` first, or correct warehouse.path")
    before = live.stat().st_size
    with writer_lock(folder, settings.lock_timeout_s, "prune"):
        plan, releases = pruning.foretell(run, rules)
        summary = PruneSummary(str(folder), plan, {path.name: size_of(path) for path in releases}, apply, before, before)
        if apply:
            pruning.prune_old_releases(run)  # first what needs no room, for a disk that is full
            with noted(run, brings_data=False) as counts:
                counts["prune"] = {gone.kind: gone.number for gone in (*plan.rows, *plan.files)}
                pruning.prune(run, rules)
            pruning.prune_old_releases(run)
            summary = replace(summary, num_bytes_after=live.stat().st_size)
    return summary
