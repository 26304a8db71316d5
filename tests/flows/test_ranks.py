"""Law of `accelerate launch -m flows.cli train`: several processes make the steps of one, and the first alone writes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.flows.world import Project

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

SHORT = ("training.max_steps=6", "training.bucket_window=0")


def launch(project, server, *options, sets=()):
    """Train with two processes of gloo."""
    launcher = [
        sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2", "--num_machines", "1", "--mixed_precision", "no",
        "--dynamo_backend", "no", "--main_process_port", "0", *options, "-m", "flows.cli", "train", str(project.config),
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
@pytest.mark.parametrize("options", [(), ("--use_fsdp", "--fsdp_version", "2", "--fsdp_auto_wrap_policy", "TRANSFORMER_BASED_WRAP")])
def test_two_processes_have_the_losses_of_one(valued, tmp_path, options):
    from prefect.settings import PREFECT_API_URL

    other = Project.moved(valued, tmp_path / "other")
    valued.train(*SHORT, "training.batch_size=8")
    told = launch(other, str(PREFECT_API_URL.value()), *options, sets=("training.batch_size=4",))
    one, two = losses(valued), losses(other)
    assert [row[:2] for row in one] == [row[:2] for row in two]
    assert len(one) >= 8
    for (metric, step, expected), (*_, found) in zip(one, two, strict=True):
        assert found == pytest.approx(expected, abs=1e-5), (metric, step)
    assert told.count("trained;") == 1
    from transformers import AutoModelForCausalLM

    folder = other.sql("SELECT checkpoint FROM trainings")[0][0]
    assert AutoModelForCausalLM.from_pretrained(other.folder / folder).config.hidden_size == 32
