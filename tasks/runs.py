"""What every task of a run shares: the configuration, the run's identity, and how the warehouse is opened for it."""

import os
import platform
import subprocess
import uuid
from dataclasses import dataclass
from datetime import datetime
from functools import cache, cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tasks.settings import Configuration
from warehouse import runs
from warehouse.connect import Warehouse

_PACKAGES = ("alphatoken", "duckdb", "numpy", "polars", "prefect", "pyarrow", "torch", "transformers")


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run.

    Attributes:
        flow: name of the flow.
        config: the resolved configuration.
        run_id: identity of the run.
        started_at: start, UTC.
    """

    flow: str
    config: Configuration
    run_id: str
    started_at: datetime

    @classmethod
    def begin(cls, flow: str, config: Configuration) -> "Run":
        """Give a run its identity; nothing is written before the run has something to write."""
        return cls(flow=flow, config=config, run_id=uuid.uuid4().hex, started_at=runs.utc_now())

    def open(self) -> Warehouse:
        """Open the warehouse for writing; the first transaction notes the run."""
        return Warehouse(self.config.warehouse_folder, self.config.warehouse, lambda w: runs.start(w, self.run_id, self.facts))

    @cached_property
    def facts(self) -> dict[str, Any]:
        """What the `runs` table keeps of a run; gathered once, as every transaction of the run asks for it (25 ms each)."""
        return {
            "flow": self.flow,
            "started_at": self.started_at,
            "configuration": self.config.as_dict(),
            "versions": {name: version(name) for name in _PACKAGES},
            "git_sha": git_sha(),
            "seed": self.config.training.seed,
            "host": {
                "name": platform.node(),
                "system": platform.platform(),
                "python": platform.python_version(),
                "num_cores": os.cpu_count(),
            },
        }


@cache
def git_sha() -> str | None:
    """Return the commit of this code, with a plus sign when files differ from it; None outside a checkout.

    Installed code may lie below another project's checkout, in its virtual environment: that commit says nothing of this code.
    """
    folder = Path(__file__).resolve().parents[1]
    try:
        top, sha, dirty = (
            _git(folder, *command) for command in (("rev-parse", "--show-toplevel"), ("rev-parse", "HEAD"), ("status", "--porcelain"))
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return sha + ("+" if dirty else "") if Path(top).resolve() == folder else None


def _git(folder: Path, *command: str) -> str:
    done = subprocess.run(["git", *command], cwd=folder, capture_output=True, text=True, check=True)  # ruff: ignore[start-process-with-partial-path]
    return done.stdout.strip()
