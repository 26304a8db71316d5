"""Laws of flows/serve.py against a real Prefect server on loopback: schedules, events, one writer, alerts, workers. Slow: `make test-slow`.

What happens is told by the server and by the warehouse; each step waits for a state, never for a time.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
import pytest
import yaml

from tests.flows.world import Project, purchases
from warehouse.connect import writer_lock

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

ROOT = Path(__file__).parents[2]
PATIENCE_S = 600.0
"""How long a step may take at most on a machine that does much else."""


class Server:
    """A Prefect server with a home of its own, and what the tests ask it."""

    def __init__(self, home: Path, port: int) -> None:
        self.api = f"http://127.0.0.1:{port}/api"
        self.environment = os.environ | {
            "PREFECT_HOME": str(home), "PREFECT_API_URL": self.api, "PREFECT_SERVER_ANALYTICS_ENABLED": "false", "DO_NOT_TRACK": "1",
            "PREFECT_LOGGING_LEVEL": "INFO", "PREFECT_LOGGING_TO_API_ENABLED": "true", "PREFECT_LOGGING_EXTRA_LOGGERS": "alphatoken",
            "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT),
        }  # fmt: skip
        self.home = home

    @contextmanager
    def process(self, *command: str, **environment: str):
        """Run a program of the environment until the block ends; its children end with it."""
        with (self.home / f"{command[0]}.log").open("ab") as log:
            running = subprocess.Popen(
                [str(Path(sys.executable).parent / command[0]), *command[1:]], cwd=ROOT, env=self.environment | environment,
                stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
            try:
                yield running
            finally:
                for sent in (signal.SIGINT, signal.SIGKILL):
                    try:
                        os.killpg(running.pid, sent)
                        running.wait(30)
                    except (ProcessLookupError, subprocess.TimeoutExpired):
                        continue

    def prefect(self, *arguments: str, **environment: str) -> str:
        """Run a command of Prefect's to its end."""
        command = [str(Path(sys.executable).parent / "prefect"), "--no-prompt", *arguments]
        done = subprocess.run(command, cwd=ROOT, env=self.environment | environment, capture_output=True, text=True, timeout=PATIENCE_S)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def ask(self, path: str, **body):
        """Post to the server's API."""
        answers = iter(lambda: httpx.post(f"{self.api}/{path}", json=body, timeout=60), None)
        answer = wait_for(lambda: (one := next(answers)).status_code != 503 and one, path)  # SQLite is locked now and then
        return answer.raise_for_status().json()

    def has(self, name: str) -> list[dict]:
        """Find deployments by `flow/name`."""
        flow, _, own = name.partition("/")
        return self.ask("deployments/filter", deployments={"name": {"any_": [own]}}, flows={"name": {"any_": [flow]}})

    def deployment(self, name: str) -> dict:
        """Find a deployment by `flow/name`."""
        (found,) = self.has(name)
        return found

    def start(self, name: str, **parameters) -> str:
        """Start a run of a deployment beside its schedule."""
        own = self.deployment(name)
        body = {"parameters": own["parameters"] | parameters, "state": {"type": "SCHEDULED"}}
        return self.ask(f"deployments/{own['id']}/create_flow_run", **body)["id"]

    def runs(self, name: str) -> list[dict]:
        """List the runs of a deployment, the earliest first."""
        flow_runs = {"deployment_id": {"any_": [self.deployment(name)["id"]]}}
        return self.ask("flow_runs/filter", flow_runs=flow_runs, sort="EXPECTED_START_TIME_ASC", limit=200)

    def run(self, run_id: str) -> dict:
        """Read a run."""
        return httpx.get(f"{self.api}/flow_runs/{run_id}", timeout=60).raise_for_status().json()

    def ended(self, *run_ids: str) -> list[dict]:
        """Wait for the ends of runs."""
        wait_for(lambda: all(self.run(one)["state_type"] in {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"} for one in run_ids), run_ids)
        return [self.run(one) for one in run_ids]


def wait_for(holds, what, patience_s=PATIENCE_S):
    """Ask until something holds, and return it."""
    until = time.monotonic() + patience_s
    while not (found := holds()):
        assert time.monotonic() < until, f"waited {patience_s:g} s in vain for {what}"
        time.sleep(0.5)
    return found


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    one = Server(tmp_path_factory.mktemp("prefect"), port)

    def is_up():
        try:
            return httpx.get(f"{one.api}/health", timeout=5).json()
        except httpx.HTTPError:
            return False

    with one.process("prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)):
        wait_for(is_up, "the server")
        yield one


def scheduled_project(template, folder, **schedule):
    """Make a project with a schedule, a patient writer's lock and a short training."""
    project = Project.copy_of(template, folder)
    settings = project.settings()
    settings["schedule"] = schedule
    settings["training"]["max_steps"] = 2
    settings["alerts"] = {"bad_rows": {"limit": 0.1}}
    project.config.write_text(yaml.safe_dump(settings))
    return project


def append(project, rows):
    """Append rows: a new file takes the place of the old at once."""
    fresh = project.folder / ".train.partial"
    fresh.write_text((project.folder / "train.jsonl").read_text() + "".join(json.dumps(row) + "\n" for row in rows))
    fresh.replace(project.folder / "train.jsonl")


def scored(project):
    """Sequences that each run of value_tokens scored, of those that wrote something and ended."""
    if not (project.warehouse / "releases" / "CURRENT").is_file():
        return []
    query = "SELECT counts ->> '$.score.num_sequences' FROM runs WHERE flow = 'value_tokens' AND state = 'completed' ORDER BY started_at"
    return [int(row[0]) for row in project.sql(query)]


def completed(server, name):
    return [one for one in server.runs(name) if one["state_name"] == "Completed"]


def test_an_interval_scores_what_is_new_and_each_release_starts_the_training(server, template, tmp_path):
    project = scheduled_project(template, tmp_path / "interval", interval_s=20)
    with server.process("alphatoken", "serve", str(project.config)):
        wait_for(lambda: scored(project), "the first scheduled run")
        first = wait_for(lambda: completed(server, "train_masked/interval"), "the training that the first release starts")
        assert [one["created_by"]["type"] for one in first] == ["AUTOMATION"]
        assert scored(project) == [40]

        append(project, purchases(77, 1))
        wait_for(lambda: len(scored(project)) == 2, "the scheduled run that finds the appended row")
        assert scored(project) == [40, 1]
        both = wait_for(
            lambda: (found := completed(server, "train_masked/interval")) and len(found) == 2 and found,
            "the training on the second release",
        )
        releases = [one["parameters"]["release_id"] for one in both]
        assert len(set(releases)) == 2
        assert project.sql("SELECT count(*) FROM trainings") == [(2,)]

        num_done = len(completed(server, "value_tokens/interval"))
        ticks = wait_for(
            lambda: (found := completed(server, "value_tokens/interval")) and len(found) > num_done and found, "a tick on unchanged data"
        )
        assert scored(project) == [40, 1]
        assert len(completed(server, "train_masked/interval")) == 2
        sys.stderr.write(f"\nvalue_tokens, seconds per run: {[round(one['total_run_time'], 1) for one in ticks]}\n")

        value_id = server.deployment("value_tokens/interval")["id"]
        httpx.post(f"{server.api}/deployments/{value_id}/pause_deployment", timeout=60).raise_for_status()
        assert server.deployment("value_tokens/interval")["paused"]
        httpx.post(f"{server.api}/deployments/{value_id}/resume_deployment", timeout=60).raise_for_status()
        assert not server.deployment("value_tokens/interval")["paused"]


def test_a_changed_file_two_runs_at_once_a_busy_writer_and_an_alert(server, template, tmp_path):
    project = scheduled_project(template, tmp_path / "watched", watch_s=0.5, train=False)
    name = "value_tokens/watched"
    with server.process("alphatoken", "serve", str(project.config)):
        wait_for(lambda: server.has(name), "the deployment")

        pair = [server.start(name), server.start(name)]
        ended = server.ended(*pair)
        assert [one["state_name"] for one in ended] == ["Completed", "Completed"]
        one, other = sorted(ended, key=lambda run: run["start_time"])
        assert one["end_time"] <= other["start_time"]  # the second waited for its turn
        assert scored(project) == [40]

        append(project, purchases(78, 1))
        wait_for(lambda: len(scored(project)) == 2, "the run that the changed file starts")
        assert scored(project) == [40, 1]
        wait_for(lambda: all(run["state_type"] != "RUNNING" for run in server.runs(name)), "the end of that run")

        with writer_lock(project.warehouse, 60.0, "a run of somebody else"):
            (skipped,) = server.ended(server.start(name, when_busy="skip"))
        assert skipped["state_name"] == "Skipped"
        assert "a run of somebody else" in skipped["state"]["message"]

        before = (project.warehouse / "releases" / "CURRENT").read_text()
        drifted = [row | {"response": " ".join(["one"] * (20 + n))} for n, row in enumerate(purchases(79, 12))]
        (project.folder / "drifted.jsonl").write_text("".join(json.dumps(row) + "\n" for row in drifted))
        changes = {
            "data": {"train": {"path": ["train.jsonl", "drifted.jsonl"]}},
            "alerts": {"added_psi": {"action": "fail"}, "min_tokens": 100},
        }
        (failed,) = server.ended(server.start(name, changes=changes))
        assert failed["state_name"] == "Failed"
        assert "added_psi of loss" in failed["state"]["message"]
        assert (project.warehouse / "releases" / "CURRENT").read_text() == before
        shown = server.ask("artifacts/filter", artifacts={"flow_run_id": {"any_": [failed["id"]]}})
        assert {"data-alerts", "run-failed"} <= {one["key"] for one in shown}


def test_a_worker_runs_the_deployments_of_prefect_yaml(server, template, tmp_path):
    project = scheduled_project(template, tmp_path / "worker")
    server.prefect("work-pool", "create", "--type", "process", "alphatoken")
    server.prefect("deploy", "--all", ALPHATOKEN_CONFIG=str(project.config))
    run_id = server.start("value_tokens/worker")
    with server.process("prefect", "worker", "start", "--pool", "alphatoken", "--type", "process"):
        assert [one["state_name"] for one in server.ended(run_id)] == ["Completed"]
        trained = wait_for(lambda: completed(server, "train_masked/worker"), "the training that the release starts")
        assert trained[0]["parameters"]["config_path"] == str(project.config)
    assert scored(project) == [40]


def test_a_command_that_is_told_to_stop_leaves_no_process_behind(template, tmp_path):
    project = Project.copy_of(template, tmp_path / "stopped")
    environment = {name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"} | {
        "PREFECT_HOME": str(tmp_path / "home")
    }
    command = [str(Path(sys.executable).parent / "alphatoken"), "value", str(project.config)]
    running = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for(lambda: (project.warehouse / "alphatoken.duckdb").exists(), "the first stage")  # the temporary server is up by then
    others = psutil.Process(running.pid).children(recursive=True)
    assert others
    running.terminate()
    assert running.wait(PATIENCE_S) != 0
    assert psutil.wait_procs(others, timeout=PATIENCE_S)[1] == []
