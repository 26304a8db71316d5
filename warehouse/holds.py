"""Keeping releases back: a data alert that fails a run leaves a file with its reason; a run that finds the data in order removes it."""

from pathlib import Path

from warehouse import durable

_HELD = "held"


def hold(folder: Path, reason: str) -> None:
    """Keep further releases of a warehouse back until `unhold`."""
    durable.write(folder / _HELD, reason.encode())


def unhold(folder: Path) -> None:
    """Let releases be written again."""
    (folder / _HELD).unlink(missing_ok=True)


def held(folder: Path) -> str | None:
    """Return why releases are kept back; None where they are not."""
    path = folder / _HELD
    return path.read_text(encoding="utf-8") if path.is_file() else None
