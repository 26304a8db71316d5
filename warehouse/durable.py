"""Files that survive a loss of power: content first, then the name, then the folder that holds the name."""

import os
from pathlib import Path


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(path: Path) -> None:
    """Wait until a file, or a folder with everything below it, is on disk."""
    for below in path.rglob("*") if path.is_dir() else ():
        sync(below)
    sync(path)


def write(path: Path, content: bytes) -> None:
    """Write a file beside its place and move it there: whoever looks sees the old content or the new one, also after a loss of power."""
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
    sync(path.parent)
