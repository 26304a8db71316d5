"""Laws of tasks/ranks.py: who is who among processes, and no launcher's wish is dropped without a word."""

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
