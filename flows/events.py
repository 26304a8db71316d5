"""Events that deployments listen to: a release was written, a data file changed, a data alert fired."""

import hashlib
import logging
from pathlib import Path
from typing import Any

from prefect.events import emit_event
from prefect.events.worker import EventsWorker
from prefect.settings import PREFECT_API_URL

from warehouse.release import current_release

logger = logging.getLogger("alphatoken")

RELEASE_WRITTEN = "alphatoken.release.written"
DATA_CHANGED = "alphatoken.data.changed"
DATA_ALERT = "alphatoken.data.alert"


def resource_of(folder: Path) -> dict[str, str]:
    """Name a warehouse for Prefect: the same folder is always the same resource."""
    digest = hashlib.blake2b(str(folder.resolve()).encode(), digest_size=6).hexdigest()
    return {"prefect.resource.id": f"alphatoken.warehouse.{digest}", "prefect.resource.name": str(folder)}


def announce_release(folder: Path) -> bool:
    """Tell the server that there is a release, once for each; without a server that others listen to, nothing is told or noted.

    Returns:
        whether it was told now.
    """
    release = current_release(folder)
    if release.announced.is_file() or not emit(RELEASE_WRITTEN, folder, {"release_id": release.release_id}):
        return False
    release.announced.touch()
    return True


def emit(event: str, folder: Path, payload: dict[str, Any]) -> bool:
    """Send an event about a warehouse, and wait until it is sent.

    Returns:
        whether there was a server to send it to.
    """
    if PREFECT_API_URL.value() is None:
        return False
    if emit_event(event, resource=resource_of(folder), payload=payload) is None:
        logger.warning("the event %s was not sent: Prefect's events are switched off; nothing that waits for it will start", event)
        return False
    EventsWorker.instance().wait_until_empty()
    return True
