"""Laws of tasks/scoring.py, tasks/parts.py and warehouse/release.py: a run that is killed anywhere goes on to the very same values."""

import json

import pytest

from tests.flows.world import Project, purchases, stored

SLOW = pytest.mark.slow  # beside the run that is killed at every turn
SCORING_POINTS = [pytest.param("batch", 1, marks=SLOW), ("part half written", 2), pytest.param("part written", 6, marks=SLOW)]
COMMIT_POINTS = [
    pytest.param("before commit", 3, marks=SLOW), pytest.param("committed, no marker", 3, marks=SLOW), ("marker, parts still there", 4),
    ("values there, no scoring", 1), ("masks there, run open", 1), pytest.param("release half copied", 1, marks=SLOW), ("release not current", 1),
]  # fmt: skip


@pytest.fixture(scope="module")
def uninterrupted(template, driver, tmp_path_factory):
    """What a run that nobody kills computes."""
    whole = Project.copy_of(template, tmp_path_factory.mktemp("whole") / "project")
    counts = driver.run("value", folder=str(whole.folder))
    assert counts["score"]["num_sequences"] == 40
    return stored(whole)


@pytest.fixture(scope="module")
def prepared(template, driver, tmp_path_factory):
    """A project whose first run was killed when the artefacts were made and nothing was scored."""
    begun = Project.copy_of(template, tmp_path_factory.mktemp("prepared") / "project")
    driver.run_killed("value", folder=str(begun.folder), point="plan not stored")
    return begun


@pytest.mark.parametrize(("point", "number"), SCORING_POINTS + COMMIT_POINTS)
def test_killed_run_goes_on_to_the_values_of_an_uninterrupted_one(prepared, driver, uninterrupted, tmp_path, point, number):
    project = Project.copy_of(prepared.folder, tmp_path / "project")
    driver.run_killed("value", folder=str(project.folder), point=point, number=number)
    driver.run("value", folder=str(project.folder))
    assert stored(project) == uninterrupted
    check_order(project)


def test_run_killed_at_every_turn_goes_on_to_the_values_of_an_uninterrupted_one(project, driver, uninterrupted):
    for point, number in (
        ("artifact made, not noted", 2), ("batch", 3), ("before commit", 1), ("committed, no marker", 1), ("part written", 2), ("release half copied", 1),
    ):  # fmt: skip
        driver.run_killed("value", folder=str(project.folder), point=point, number=number)
    driver.run("value", folder=str(project.folder))
    assert stored(project) == uninterrupted
    check_order(project)


def test_run_killed_after_its_last_values_is_marked_as_interrupted(prepared, driver, tmp_path):
    project = Project.copy_of(prepared.folder, tmp_path / "project")
    driver.run_killed("value", folder=str(project.folder), point="masks there, run open")
    driver.run("value", folder=str(project.folder))
    assert project.sql("SELECT state FROM runs WHERE state = 'running'") == []


def test_killed_run_loses_one_part_at_most(prepared, driver, tmp_path):
    project = Project.copy_of(prepared.folder, tmp_path / "project")
    driver.run_killed("value", folder=str(project.folder), point="part half written", number=7)  # the first part has number 1
    (work,) = (project.warehouse / "work").iterdir()
    plan = json.loads((work / "plan.json").read_text())
    committed = json.loads((work / "committed").read_text()) if (work / "committed").is_file() else []
    finished = len(committed) + len(list(work.glob("part-*")))
    assert (plan["model"], 0 < finished < len(plan["parts"])) == ("scoring", True)
    counts = driver.run("value", folder=str(project.folder))
    assert counts["score"]["num_sequences"] == sum(len(batch) for part in plan["parts"][finished:] for batch in part)


def test_finished_parts_are_kept_when_the_data_change_before_the_next_run(prepared, driver, tmp_path):
    project = Project.copy_of(prepared.folder, tmp_path / "project")
    driver.run_killed("value", folder=str(project.folder), point="part written", number=6, shard=8192)
    (work,) = (project.warehouse / "work").iterdir()
    parts = json.loads((work / "plan.json").read_text())["parts"][: len(list(work.glob("part-*")))]
    finished = {s for part in parts for batch in part for s in batch}
    assert finished
    rows = project.train_rows()
    project.write_train(rows[:38])
    driver.run("value", folder=str(project.folder))
    now = {s for (s,) in project.live("SELECT DISTINCT record.hex_id(sequence_id) FROM record.direction_values")}
    current = {s for (s,) in project.live("SELECT sequence_id FROM sequences")}
    assert now == finished | current
    check_order(project)


@pytest.mark.parametrize("point", [pytest.param("committed, no marker", marks=SLOW), "release half copied", "release not current"])
def test_readers_have_the_former_release_until_the_next_is_complete(valued, driver, point):
    before = valued.sql("SELECT * FROM token_values ORDER BY example_id, position")
    valued.write_train([*valued.train_rows(), *purchases(99, 7)])
    driver.run_killed("value", folder=str(valued.folder), point=point)
    assert valued.sql("SELECT * FROM token_values ORDER BY example_id, position") == before
    driver.run("value", folder=str(valued.folder))
    assert valued.sql("SELECT count(*) FROM examples") == [(47,)]
    check_order(valued)


def check_order(project):
    """No leftovers, nothing twice, and a release that says what the live file says."""
    warehouse = project.warehouse
    assert not (warehouse / "work").exists()
    assert not [p for p in warehouse.rglob("*") if ".partial" in p.name or "-partial" in p.name]
    for table, key in (
        ("direction_values", "values_id, sequence_id"), ("signal_values", "signals_id, sequence_id"), ("mask_values", "mask_id, sequence_id"),
        ("receipts", "stage, identity"), ("artifacts", "artifact_key"), ("pointers", "name"), ("masks", "mask_id"), ("runs", "run_id"),
    ):  # fmt: skip
        assert project.live(f"SELECT {key} FROM record.{table} GROUP BY ALL HAVING count(*) > 1") == []
    for table in ("receipts", "pointers", "runs", "direction_values", "mask_values"):
        query = f"SELECT * FROM record.{table} ORDER BY ALL"
        assert project.sql(query) == project.live(query)
    current = warehouse / "releases" / (warehouse / "releases" / "CURRENT").read_text()
    assert json.loads((current / "manifest.json").read_text())["num_bytes"] == (current / "alphatoken.duckdb").stat().st_size
