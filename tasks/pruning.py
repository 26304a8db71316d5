"""The Prefect tasks of the `prune` flow."""

from pathlib import Path

from tasks.runs import Run
from tasks.stages import once
from warehouse import prune as pruning
from warehouse.compact import compact
from warehouse.release import outdated, prune_releases


@once
def foretell(run: Run, rules: pruning.PruneRules) -> tuple[pruning.PrunePlan, list[Path]]:
    """Find what a pruning would remove; nothing is written.

    Returns:
        (the plan, folders of the releases that would go).
    """
    folder = run.config.warehouse_folder
    with run.open() as warehouse:
        found = pruning.plan(warehouse, rules)
    releases = outdated(folder, run.config.warehouse.keep_releases, num_to_come=1 if found.rows else 0)
    return found, [release.folder for release in releases]


@once
def prune(run: Run, rules: pruning.PruneRules) -> pruning.PrunePlan:
    """Remove what goes, and give the room back where it is a good part of the file."""
    with run.open() as warehouse:
        found = pruning.plan(warehouse, rules)
        pruning.remove(warehouse, found, run.run_id)
    compact(run.config.warehouse_folder, run.config.warehouse)
    return found


@once
def prune_old_releases(run: Run) -> None:
    """Remove the releases beyond the configured number, also where no new one was written."""
    prune_releases(run.config.warehouse_folder, run.config.warehouse.keep_releases)
