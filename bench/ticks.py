"""What a run on unchanged data takes as `alphatoken serve` starts it: from the moment the server hands it out to its end.

Counted in are the run's own process, its imports, all stages, and what it tells the server; not the time that a run waits for its turn.
"""

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx

from tasks.settings import load
from warehouse.release import current_release

_PATIENCE_S = 600.0


def report(config: Path, number: int) -> None:
    """Print how long `number` runs on unchanged data took.

    Args:
        config: a configuration whose warehouse is up to date; `schedule` makes a deployment of it.
        number: how many runs, one after the other.

    Raises:
        RuntimeError: a run did not complete, or wrote a release.
    """
    folder = load(config).warehouse_folder
    before = current_release(folder).release_id
    with (
        tempfile.TemporaryDirectory() as home,
        _server(Path(home)) as (api, environment),
        _process("alphatoken", "serve", str(config), environment=environment),
    ):
        deployment = _wait(lambda: _post(f"{api}/deployments/filter", flows={"name": {"any_": ["value_tokens"]}}))[0]
        took = [_tick(api, deployment["id"]) for _ in range(number)]
    if current_release(folder).release_id != before:
        raise RuntimeError(f"the data were not unchanged: release {before} gave way to {current_release(folder).release_id}")
    told = ", ".join(f"{seconds:.1f}" for seconds in took)
    print(f"ticks of `alphatoken serve` on unchanged data, from a process's start to its end, nothing scored: {told} s\n")


def _tick(api: str, deployment_id: str) -> float:
    """Start a run and wait for its end.

    Returns:
        seconds between the states Pending, in which its process is started, and Completed.

    Raises:
        RuntimeError: the run did not complete.
    """
    run = _post(f"{api}/deployments/{deployment_id}/create_flow_run", state={"type": "SCHEDULED"})
    states = _wait(lambda: _ended(httpx.get(f"{api}/flow_run_states/", params={"flow_run_id": run["id"]}, timeout=60).json()))
    at = {state["type"]: datetime.fromisoformat(state["timestamp"].replace("Z", "+00:00")) for state in states}
    if "COMPLETED" not in at:
        raise RuntimeError(f"the run did not complete: {states[-1]}")
    return (at["COMPLETED"] - at["PENDING"]).total_seconds()


def _ended(states: list[dict[str, Any]]) -> list[dict[str, Any]] | None:
    return states if {state["type"] for state in states} & {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"} else None


@contextmanager
def _server(home: Path) -> Generator[tuple[str, dict[str, str]]]:
    """Run a Prefect server of its own on loopback."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    api = f"http://127.0.0.1:{port}/api"
    environment = os.environ | {
        "PREFECT_HOME": str(home),
        "PREFECT_API_URL": api,
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "OMP_NUM_THREADS": "1",
    }
    with _process("prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port), environment=environment):
        _wait(lambda: _is_up(api))
        yield api, environment


def _is_up(api: str) -> bool:
    try:
        return httpx.get(f"{api}/health", timeout=5).is_success
    except httpx.TransportError:
        return False


@contextmanager
def _process(*command: str, environment: dict[str, str]) -> Generator[None]:
    running = subprocess.Popen(
        [str(Path(sys.executable).parent / command[0]), *command[1:]], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield
    finally:
        running.terminate()
        running.wait(60)


def _post(url: str, **body: Any) -> Any:
    return httpx.post(url, json=body, timeout=60).raise_for_status().json()


def _wait(holds: Callable[[], Any]) -> Any:
    until = time.monotonic() + _PATIENCE_S
    while not (found := holds()):
        if time.monotonic() > until:
            raise TimeoutError(f"waited {_PATIENCE_S:g} s in vain")
        time.sleep(0.2)
    return found
