"""Laws of tasks/runners.py: who scores does not change a bit, workers that fail lose their shard alone, one process commits."""

import importlib.util
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tasks import runners, scoring
from tests.flows.world import Project, stored

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
@pytest.mark.parametrize("overrides", [(), ("scoring.packing=true",)])
def test_two_threads_give_the_bits_of_one_process(unscored, overrides, monkeypatch):
    project, expected = unscored
    if overrides:
        project.value(*PINNED, *overrides)
        expected = stored(project)
        project = Project.copy_of(project.folder, project.folder.with_name("again"))
        for table in ("direction_values", "signal_values"):
            forget(project, table)
    threads = set()
    original = runners.score_missing
    monkeypatch.setattr(runners, "score_missing", lambda *a: threads.add(threading.get_ident()) or original(*a))
    project.value(*PINNED, "workers.num_workers=2", *overrides)
    assert stored(project) == expected
    assert len(threads) == 2
    assert not (project.warehouse / "work").exists()


def forget(project, table):
    import duckdb

    with duckdb.connect(str(project.warehouse / "alphatoken.duckdb")) as con:
        con.execute(f"DELETE FROM record.{table}")
        con.execute("DELETE FROM record.receipts WHERE stage = 'score'")


@pytest.mark.usefixtures("prefect_server")
def test_a_shard_that_fails_is_tried_again_alone_and_its_finished_parts_are_kept(unscored, monkeypatch):
    project, expected = unscored
    tried, written = [], []
    original_score, original_write = runners.score_part, runners.write_part

    def score_part(batches, *rest):
        tried.append(batches[0][0])
        if len(tried) == 3:
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

    lengths = {f"s{n}": 10 for n in range(4)}
    plan = make_plan(tmp_path / "work", "reference", {"ref_signals": "r"}, [[s] for s in lengths], lengths, 10)
    for number in (0, 2):
        rows = pa.Table.from_pylist([{"sequence_id": f"s{number}", "loss": [1.0], "entropy": [1.0]}], schema=PART_SCHEMAS["reference"])
        write_part(plan, number, rows)
    with Warehouse(tmp_path) as warehouse:
        scoring.salvage(warehouse, plan, "run")
        assert scoring._remaining(plan) == {"s1", "s3"}
        assert json.loads((plan.folder / "committed").read_text()) == [0, 2]
        assert warehouse.con.execute("SELECT sequence_id FROM record.signal_values ORDER BY ALL").fetchall() == [("s0",), ("s2",)]


RAY_RUN = """
import os, signal, sys
from pathlib import Path
from tasks.quiet import configure
configure()
from tasks import runners
from tests.flows import world

original, fate = runners.score_shard, sys.argv[2]  # the function goes to the workers by value, with what it names

def score_shard(shard):
    mark = shard.folder.parent.parent / "killed"
    if fate == "kill" and shard.number == 1 and not mark.exists():
        mark.write_text(str(os.getpid()))
        os.kill(os.getpid(), signal.SIGKILL)
    return original(shard)

runners.score_shard = score_shard
with world.without_prefect():
    world.Project(Path(sys.argv[1])).value(*sys.argv[3:], "workers.runner=ray", "workers.num_workers=2")
"""


@needs_ray
@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.usefixtures("prefect_server")
@pytest.mark.parametrize("fate", ["live", "kill"])
def test_two_ray_workers_give_the_bits_of_one_process_also_when_one_is_killed(unscored, fate):
    from prefect.settings import PREFECT_API_URL

    project, expected = unscored
    environment = os.environ | {"PREFECT_API_URL": str(PREFECT_API_URL.value()), "RAY_USAGE_STATS_ENABLED": "0"}
    done = subprocess.run(
        [sys.executable, "-c", RAY_RUN, str(project.folder), fate, *PINNED], cwd=Path(__file__).parents[2], env=environment,
        capture_output=True, text=True, timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert (project.warehouse / "killed").is_file() == (fate == "kill")
    (project.warehouse / "killed").unlink(missing_ok=True)
    assert stored(project) == expected


def test_shared_settings_are_refused_where_they_make_no_sense():
    from tasks.operations import WorkerSettings

    with pytest.raises(ValueError, match=r"workers\.num_workers is 0"):
        WorkerSettings(num_workers=0)
    with pytest.raises(ValueError, match="go with runner 'ray' only"):
        WorkerSettings(gpus_per_worker=1)
    assert not WorkerSettings().is_shared
    assert WorkerSettings(runner="ray").is_shared
