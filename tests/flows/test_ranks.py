"""Law of training on several processes: several processes make the steps of one, and the first alone writes."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.flows.world import Project

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

SHORT = ("training.max_steps=6", "training.bucket_window=0")


def launch(project, server, *sets):
    """Train with two processes of gloo: what `accelerate launch` does on GPUs (for CPUs it wants mpirun)."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    launcher = [
        sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_addr", "127.0.0.1", "--master_port", str(port),
        "-m", "flows.cli", "train", str(project.config),
    ]  # fmt: skip
    for one in (*SHORT, *sets):
        launcher += ["--set", one]
    done = subprocess.run(
        launcher, cwd=Path(__file__).parents[2], env=os.environ | {"PREFECT_API_URL": server, "OMP_NUM_THREADS": "1"}, capture_output=True,
        text=True, timeout=1000,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


def losses(project):
    query = "SELECT metric, step, value FROM training_metrics JOIN trainings USING (training_id) WHERE metric LIKE '%loss' ORDER BY ALL"
    return project.sql(query)


@pytest.mark.usefixtures("prefect_server")
def test_two_processes_have_the_losses_of_one(valued, tmp_path):
    from prefect.settings import PREFECT_API_URL

    other = Project.moved(valued, tmp_path / "other")
    valued.train(*SHORT, "training.batch_size=8")
    told = launch(other, str(PREFECT_API_URL.value()), "training.batch_size=4")
    one, two = losses(valued), losses(other)
    assert [row[:2] for row in one] == [row[:2] for row in two]
    assert len(one) >= 8
    for (metric, step, expected), (*_, found) in zip(one, two, strict=True):
        assert found == pytest.approx(expected, abs=1e-5), (metric, step)
    assert told.count("trained;") == 1
    assert other.sql("SELECT count(*) FROM trainings") == [(1,)]
    from transformers import AutoModelForCausalLM

    folder = other.sql("SELECT checkpoint FROM trainings")[0][0]
    assert AutoModelForCausalLM.from_pretrained(other.folder / folder).config.hidden_size == 32
