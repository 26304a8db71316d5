"""Looks at the data files of a configuration, and sends an event when one changed: Prefect has no sensor for files."""

import logging
import threading
from collections.abc import Callable
from glob import escape, glob
from pathlib import Path

from flows.events import DATA_CHANGED, emit
from tasks.settings import Configuration
from warehouse.ingest import SourceSettings
from warehouse.readers import entries

logger = logging.getLogger("alphatoken")

Look = tuple[tuple[str, int, int], ...]
"""Path, bytes and time of change (ns) of every data file, in order."""


def look(config: Configuration) -> Look:
    """Note what the files of all data sets and of the retention text are at this moment; names of the hub have none."""
    data = config.data
    sources = [one for one in (data.train, data.validation, data.evaluation, data.retention) if one is not None]
    found = []
    for path in sorted({path for source in sources for path in _files(source, config.base)}):
        try:
            state = path.stat()
        except FileNotFoundError:  # replaced at this moment; the next look finds the new one
            continue
        found.append((str(path), state.st_size, state.st_mtime_ns))
    return tuple(found)


def _files(source: SourceSettings, base: Path) -> list[Path]:
    files: list[Path] = []
    for entry in entries(source.path):
        path = Path(entry).expanduser()
        pattern = path if path.is_absolute() else Path(escape(str(base))) / path
        found = base / path
        if found.is_file():
            files.append(found)
        elif found.is_dir():
            files += [below for below in found.rglob("*") if below.is_file()]
        else:
            files += [Path(match) for match in glob(str(pattern), recursive=True)]
    return files


def _try_to_look(config: Configuration, *, warns: bool) -> Look | None:
    """Look, or say once in a row of failures why that was not possible.

    Returns:
        what was found; None when looking failed.
    """
    try:
        return look(config)
    except OSError as error:
        if warns:
            logger.warning("the data files could not be looked at (%s); looking again until it is possible", error)
        return None


def watch(config: Configuration, every_s: float, stop: threading.Event, tell: Callable[[Look], object] | None = None) -> None:
    """Look until stopped; tell of a change when two looks found the files the same, so that none is half written.

    A look that fails, as while a folder is being replaced or a network disk is away, is as good as none: the next one may succeed.

    Args:
        config: the configuration.
        every_s: seconds between two looks.
        stop: ends it.
        tell: called with what was found; sends the event when absent.
    """
    told = last = _try_to_look(config, warns=True)
    while not stop.wait(every_s):
        found = _try_to_look(config, warns=last is not None)
        if found is not None and found == last != told:
            told = found
            if tell is not None:
                tell(found)
            else:
                emit(DATA_CHANGED, config.warehouse_folder, {"files": [path for path, *_ in found][:100]})
        last = found
