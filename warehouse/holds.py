"""Keeping releases back: a file with the reason, from before new values become current until a run has found the data in order.

A data alert that fails a run leaves it there.
"""

from pathlib import Path

from warehouse import durable
from warehouse.connect import Warehouse

_HELD = "held"
_UNCHECKED = (
    "a run moved on to other values and ended before it had compared them with this release; `alphatoken value CONFIG` or `alphatoken mask CONFIG` "
    "goes on"
)


def hold(folder: Path, reason: str) -> None:
    """Keep further releases of a warehouse back until `unhold`."""
    durable.write(folder / _HELD, reason.encode())


def hold_until_checked(warehouse: Warehouse, scoring_id: str, snapshot_id: str) -> None:
    """Keep releases back where another scoring or snapshot is about to become the current one, until the data have been compared.

    What a run leaves that dies before its masks are made is no state for readers; a training or a pruning would release it.
    """
    pointers = warehouse.pointers()
    if (pointers.get("scoring"), pointers.get("snapshot")) != (scoring_id, snapshot_id) and held(warehouse.folder) is None:
        hold(warehouse.folder, _UNCHECKED)


def unhold(folder: Path) -> None:
    """Let releases be written again."""
    (folder / _HELD).unlink(missing_ok=True)


def held(folder: Path) -> str | None:
    """Return why releases are kept back; None where they are not."""
    path = folder / _HELD
    return path.read_text(encoding="utf-8") if path.is_file() else None
