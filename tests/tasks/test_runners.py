"""Laws of tasks/runners.py: who scores does not change a bit, workers that fail lose their shard alone, one process commits."""

import importlib.util
import itertools
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from tasks import runners, scoring
from tests.flows.world import Project, stored
from tests.warehouse.ids import full, short

PINNED = ("workers.torch_threads=1", "workers.shard_parts=1", "scoring.part_tokens=256")

needs_ray = pytest.mark.skipif(importlib.util.find_spec("prefect_ray") is None, reason="needs pip install 'alphatoken[ray]'")


@pytest.fixture(scope="module")
def serial(template, tmp_path_factory):
    """A project valued by one process, its scoring alone undone: models and directions are the same for all who copy it."""
    import duckdb

    from tests.flows import world

    project = Project.copy_of(template, tmp_path_factory.mktemp("serial") / "project")
    with world.without_prefect():
        project.value(*PINNED)
    expected = stored(project)
    with duckdb.connect(str(project.warehouse / "alphatoken.duckdb")) as con:
        for table in ("direction_values", "signal_values", "mask_values", "masks", "scorings"):
            con.execute(f"DELETE FROM record.{table}")
        con.execute("DELETE FROM record.receipts WHERE stage IN ('score', 'mask')")
        con.execute("DELETE FROM record.pointers WHERE name = 'scoring' OR name LIKE 'mask:%'")
    return project, expected


@pytest.fixture
def unscored(serial, tmp_path):
    from tests.flows import world

    with world.without_prefect():
        yield Project.moved(serial[0], tmp_path / "unscored"), serial[1]


@pytest.mark.usefixtures("prefect_server")
@pytest.mark.parametrize("overrides", [(), pytest.param(("scoring.packing=true",), marks=pytest.mark.slow)])
def test_two_threads_give_the_bits_of_one_process(unscored, overrides, monkeypatch):
    project, expected = unscored
    if overrides:
        project.value(*PINNED, *overrides)
        expected = stored(project)
        project = Project.copy_of(project.folder, project.folder.with_name("again"))
        for table in ("direction_values", "signal_values"):
            forget(project, table)
    threads, both = {"reference": set(), "scoring": set()}, threading.Barrier(2, timeout=120)
    original = runners.score_missing

    def score_missing(shard, scorer):
        if threading.get_ident() not in threads[shard.model]:
            threads[shard.model].add(threading.get_ident())
            both.wait()  # nobody goes on alone: both work on every plan
        return original(shard, scorer)

    monkeypatch.setattr(runners, "score_missing", score_missing)
    project.value(*PINNED, "workers.num_workers=2", *overrides)
    assert stored(project) == expected
    assert {model: len(them) for model, them in threads.items()} == {"reference": 2, "scoring": 2}
    assert not (project.warehouse / "work").exists()


def forget(project, table):
    import duckdb

    with duckdb.connect(str(project.warehouse / "alphatoken.duckdb")) as con:
        con.execute(f"DELETE FROM record.{table}")
        con.execute("DELETE FROM record.receipts WHERE stage = 'score'")


@pytest.mark.usefixtures("prefect_server")
def test_a_shard_that_fails_is_tried_again_alone_and_its_finished_parts_are_kept(unscored, monkeypatch, told):
    project, expected = unscored
    tried, written, numbers = [], [], itertools.count(1)
    original_score, original_write = runners.score_part, runners.write_part

    def score_part(batches, *rest):
        tried.append(batches[0][0])
        if next(numbers) == 3:  # one call alone, whatever the threads do between two lines
            raise OSError("the network is away")
        return original_score(batches, *rest)

    def write_part(plan, number, rows):
        written.append((plan.model, number))
        return original_write(plan, number, rows)

    monkeypatch.setattr(runners, "score_part", score_part)
    monkeypatch.setattr(runners, "write_part", write_part)
    project.value(*PINNED, "workers.num_workers=2", "workers.shard_parts=3")
    assert stored(project) == expected
    assert len(written) == len(set(written))  # no part was scored twice
    assert len(tried) == len(written) + 1
    retried = [message for message in told.messages if "tried again" in message]
    assert retried == ["score_shard failed and is tried again if a try is left: OSError: the network is away"]


@pytest.mark.usefixtures("prefect_server")
def test_lack_of_memory_at_a_worker_halves_the_batches(unscored, monkeypatch, told):
    project, _ = unscored
    original = runners.score_part

    def score_part(batches, *rest):
        if any(len(batch) > 2 for batch in batches):
            raise runners.OutOfMemoryInBatchError("no memory")
        return original(batches, *rest)

    monkeypatch.setattr(runners, "score_part", score_part)
    project.value(*PINNED, "workers.num_workers=2")
    assert project.sql("SELECT count(*) FROM example_values") == [(40,)]
    assert "going on with batches of" in told.text


def test_a_killed_shared_run_goes_on_with_the_parts_that_are_there_in_any_order(tmp_path):
    import pyarrow as pa

    from tasks.parts import make_plan, write_part
    from warehouse.connect import Warehouse
    from warehouse.write import PART_SCHEMAS

    lengths = {full(f"s{n}"): 10 for n in range(4)}
    plan = make_plan(tmp_path / "work", "reference", {"ref_signals": "r"}, [[s] for s in lengths], lengths, 10, 10)
    for number in (0, 2):
        rows = pa.Table.from_pylist(
            [{"sequence_id": full(f"s{number}"), "loss": [1.0], "entropy": [1.0]}], schema=PART_SCHEMAS["reference"]
        )
        write_part(plan, number, rows)
    with Warehouse(tmp_path) as warehouse:
        scoring.salvage(warehouse, plan, "run")
        assert scoring._remaining(plan) == {full("s1"), full("s3")}
        assert json.loads((plan.folder / "committed").read_text()) == [0, 2]
        committed = warehouse.con.execute("SELECT record.hex_id(sequence_id) FROM record.signal_values ORDER BY ALL").fetchall()
        assert short(committed) == [("s0",), ("s2",)]


def test_a_worker_loads_again_for_another_direction_under_the_same_identities(monkeypatch):
    """The folds of a validation set have the identities in common."""
    loaded = []
    monkeypatch.setattr(runners, "_loaded", {})
    monkeypatch.setattr(runners, "load_scorer", lambda config, setup, model, groups: loaded.append(setup.adapt) or setup.adapt)
    monkeypatch.setattr(runners, "score_missing", lambda shard, scorer: scorer)
    for adapt in ("one", "one", "other"):
        setup = SimpleNamespace(ids="the same", adapt=Path(adapt), stab=Path("stab"))
        assert runners.score_shard(runners.Shard(None, setup, Path(), "scoring", {"adapt": "A"}, 0)) == Path(adapt)
    assert loaded == [Path("one"), Path("other")]


RAY_RUN = """
import os, signal, sys, time
from pathlib import Path
from tasks.quiet import configure
configure()
from tasks import runners
from tests.flows import world

original, fate = runners.score_shard, sys.argv[2]  # the function goes to the workers by value, with what it names

def score_shard(shard):
    import json
    from tasks import runners as here  # this worker's, which is another process
    diary, me, shard_name = shard.folder.parent.parent / "diary", os.getpid(), f"{shard.model}/{shard.number}"
    write = here.write_part

    def tell(what):
        with (diary / f"{me}.txt").open("a") as file:  # a file per process: nobody writes between another's letters
            file.write(f"{what} {shard_name} {me}\\n")

    def write_part(plan, number, rows):
        write(plan, number, rows)
        tell(f"wrote-{number}")
        if fate == "kill" and shard.number == 0 and number == 0 and not (diary / f"killed-{shard.model}").exists():
            (diary / f"killed-{shard.model}").write_text(str(me))
            os.kill(me, signal.SIGKILL)

    tell("began")
    there = lambda: [line for file in diary.glob("*.txt") for line in file.read_text().splitlines() if line.startswith(f"began {shard.model}/")]
    while len({line.split()[-1] for line in there()}) < 2:  # the first shard waits for a second worker, so that both work
        time.sleep(0.05)
    here.write_part = write_part
    try:
        return original(shard)
    finally:
        here.write_part = write

runners.score_shard = score_shard
with world.without_prefect():
    world.Project(Path(sys.argv[1])).value(*sys.argv[3:], "workers.runner=ray", "workers.num_workers=2", "workers.shard_parts=3")
"""


@needs_ray
@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.usefixtures("prefect_server")
@pytest.mark.parametrize("fate", ["live", "kill"])
def test_two_ray_workers_give_the_bits_of_one_process_also_when_one_is_killed_in_the_middle_of_a_shard(unscored, fate):
    from prefect.settings import PREFECT_API_URL

    project, expected = unscored
    diary = project.warehouse / "diary"
    diary.mkdir()
    environment = os.environ | {
        "PREFECT_API_URL": str(PREFECT_API_URL.value()),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_raylet_start_wait_time_s": "600",
    }
    done = subprocess.run(
        [sys.executable, "-c", RAY_RUN, str(project.folder), fate, *PINNED], cwd=Path(__file__).parents[2], env=environment,
        capture_output=True, text=True, timeout=1500,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert stored(project) == expected
    lines = [tuple(line.split()) for file in diary.glob("*.txt") for line in file.read_text().splitlines()]
    for model in ("reference", "scoring"):
        workers_of_first = [pid for what, shard, pid in lines if (what, shard) == ("began", f"{model}/0")]
        written = [(what, shard) for what, shard, _ in lines if what.startswith("wrote") and shard.startswith(model)]
        # Another worker took what the killed one had: the living one, or a new one.
        assert len({pid for _, shard, pid in lines if shard.startswith(model)}) >= 2
        assert len(written) == len(set(written)) >= 3  # what the killed worker had written is there, and nobody scored it again
        assert len(workers_of_first) == len(set(workers_of_first)) == (1 if fate == "live" else 2)
        if fate == "kill":
            assert (diary / f"killed-{model}").read_text() in workers_of_first


def test_shared_settings_are_refused_where_they_make_no_sense():
    from tasks.operations import WorkerSettings

    with pytest.raises(ValueError, match=r"workers\.num_workers is 0"):
        WorkerSettings(num_workers=0)
    with pytest.raises(ValueError, match="go with runner 'ray' only"):
        WorkerSettings(gpus_per_worker=1)
    assert not WorkerSettings().is_shared
    assert WorkerSettings(runner="ray").is_shared
