"""Laws of tasks/ranks.py: who is who among processes, they train the same, and no launcher's wish is dropped without a word."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tasks import ranks


def test_a_process_alone_is_the_first_of_one(monkeypatch):
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert (ranks.rank(), ranks.world_size()) == (0, 1)


def test_a_launcher_says_which_process_this_is(monkeypatch):
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "8")
    assert (ranks.rank(), ranks.world_size()) == (3, 8)


TWO = """
import sys
from models.settings import ModelSettings
from tasks import ranks

settings = ModelSettings(reference="unused", device="cpu")
ranks.require_same("has training A before it", settings)
print("agreed", flush=True)
try:
    ranks.require_same(f"has training {'AB'[ranks.rank()]} before it", settings)
finally:
    ranks.leave()
"""


@pytest.mark.timeout(300)
def test_processes_that_are_about_to_train_different_things_all_stop_and_say_so():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    running = [
        subprocess.Popen(
            [sys.executable, "-c", TWO], cwd=Path(__file__).parents[2], env=os.environ | common | {"RANK": number, "LOCAL_RANK": number},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for number in "01"
    ]  # fmt: skip
    for one in running:
        out, err = one.communicate(timeout=250)
        assert (one.returncode, out) == (1, "agreed\n")
        assert "do not agree: process 0 has training A before it; process 1 has training B before it. " in err
        assert "start all of them again" in err


def test_a_process_alone_has_nobody_to_agree_with(monkeypatch):
    from models.settings import ModelSettings

    monkeypatch.delenv("WORLD_SIZE", raising=False)
    ranks.require_same("anything", ModelSettings(reference="unused", device="cpu"))


@pytest.mark.parametrize("kind", ["FSDP", "DEEPSPEED", "MEGATRON_LM"])
def test_sharded_weights_are_refused_before_anything_is_loaded(call, valued_once, monkeypatch, kind):
    monkeypatch.setenv(f"ACCELERATE_USE_{kind}", "true")
    monkeypatch.setattr("tasks.training.load_start", lambda *_: pytest.fail("a model was loaded"))
    with pytest.MonkeyPatch.context() as patch:
        from tests.flows import world

        world.unplug(patch.setattr)
        status, _, err = call("train", valued_once.config)
    assert status == 1
    assert f"ACCELERATE_USE_{kind} is set" in err
    assert "Launch it with data parallelism alone" in err


@pytest.mark.parametrize("said", ["false", "0", ""])
def test_a_wish_that_was_not_made_is_not_refused(monkeypatch, said):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", said)
    ranks.refuse_sharded()
