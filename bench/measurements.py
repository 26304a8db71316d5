"""Measurements that outlive an interrupted bench: JSON lines, one row each, appended as they are made."""

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

Row = dict[str, Any]
"""A measurement."""


def earlier(read: Iterable[Path] | None, out: Path | None) -> list[Row]:
    """Read the measurements of earlier runs: of the files asked for, or of the one that goes on, if it is there.

    Returns:
        the measurements.

    Raises:
        FileNotFoundError: a file that was asked for is not there.
    """
    if read is None:
        read = [out] if out is not None and out.is_file() else []
    return [json.loads(line) for path in read for line in path.read_text(encoding="utf-8").splitlines()]


def add(rows: list[Row], made: Iterable[Row], out: Path | None) -> None:
    """Add measurements to those there are, and to a file, as soon as each is made.

    Args:
        rows: what there is; grows.
        made: makes the measurements, one after the other.
        out: the file; None for none.
    """
    for row in made:
        rows.append(row)
        if out is not None:
            with out.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
        sys.stderr.write(f"\r{len(rows)} measured: {row.get('key', '')}          ")
    sys.stderr.write("\n")
