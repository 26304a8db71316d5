"""The log of runs: a row appears with the first thing a run writes, and tells at its end what became of it."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from warehouse.connect import Warehouse


def utc_now() -> datetime:
    """Return the present time, UTC, without a zone, as the store keeps it."""
    return datetime.now(UTC).replace(tzinfo=None)


def start(warehouse: Warehouse, run_id: str, facts: Mapping[str, Any]) -> None:
    """Note that a run writes, once per run, inside a transaction. Runs that a killed process left open are marked as interrupted.

    Args:
        warehouse: the open warehouse.
        run_id: identity of the run.
        facts: flow, configuration, versions, git_sha, seed, host, started_at.
    """
    if warehouse.one("runs/count_run", run_id=run_id) != (0,):
        return
    warehouse.run("runs/close_interrupted")
    warehouse.run(
        "runs/insert_run",
        run_id=run_id,
        flow=facts["flow"],
        started_at=facts["started_at"],
        configuration=json.dumps(facts["configuration"], sort_keys=True),
        versions=json.dumps(facts["versions"], sort_keys=True),
        git_sha=facts["git_sha"],
        seed=facts["seed"],
        host=json.dumps(facts["host"], sort_keys=True),
    )


def finish(warehouse: Warehouse, run_id: str, state: str, counts: Mapping[str, Any] | None, error: str | None) -> bool:
    """Note how a run ended.

    Returns:
        whether the run had written anything; if not, nothing is written now either.
    """
    if warehouse.one("runs/count_run", run_id=run_id) == (0,):
        return False
    with warehouse.transaction():
        warehouse.run(
            "runs/finish_run", run_id=run_id, state=state, finished_at=utc_now(), counts=json.dumps(counts) if counts else None, error=error
        )
    return True
