"""The task that compares what a run made with the release before it: warnings become an artifact, a failure keeps the release back."""

import logging
from typing import Any

from prefect.artifacts import create_table_artifact

from tasks.runs import Run
from tasks.stages import once
from warehouse.alerts import DataAlertError, Finding, compare
from warehouse.connect import Warehouse
from warehouse.holds import hold, unhold
from warehouse.queries import Queries
from warehouse.release import NoReleaseError, is_released, opened

logger = logging.getLogger("alphatoken")


@once
def check_data(run: Run) -> list[dict[str, Any]]:
    """Compare the warehouse as it is with the current release, by the rules of `alerts`.

    Returns:
        the figures above their limits, as rows; none where nothing changed since the release.

    Raises:
        DataAlertError: a figure is above a limit whose action is `fail`; the release stays back until a run finds the data in order.
    """
    with run.open() as warehouse:
        if is_released(warehouse):
            unhold(run.config.warehouse_folder)
            return []
        found = _compare(warehouse, run)
    if found:
        create_table_artifact(key="data-alerts", table=[one.as_row() for one in found], description=_description(found))
    fired = [one for one in found if one.fired]
    for one in fired:
        logger.warning("data alert: %s", one)
    failed = [one for one in fired if one.action == "fail"]
    if failed:
        text = "; ".join(map(str, failed))
        hold(run.config.warehouse_folder, text)
        raise DataAlertError(
            f"{text}. Values and masks are stored, but no release is written: readers and trainings keep the one before. Look at the added "
            "rows and correct them; or, if the data are as they should be, raise the limit or run once with --set alerts.RULE.action=warn"
        )
    unhold(run.config.warehouse_folder)
    return [one.as_row() for one in fired]


def _compare(warehouse: Warehouse, run: Run) -> list[Finding]:
    try:
        with opened(run.config.warehouse_folder) as (con, _):
            return compare(warehouse, Queries(con), run.config.alerts)
    except NoReleaseError:
        return compare(warehouse, None, run.config.alerts)


def _description(found: list[Finding]) -> str:
    fired = [one for one in found if one.fired]
    if not fired:
        return f"All {len(found)} figures of the data are in order."
    return "\n\n".join(["**Data alert.** Compared with the release before:", *(f"- {one}" for one in fired)])
