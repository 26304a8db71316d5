"""Laws of the alerts of a run: a drifted update keeps its release back until it is corrected or allowed; a warning does not."""

import json

import pytest

from tests.flows.world import Project, purchases, write_rows
from warehouse.alerts import DataAlertError
from warehouse.holds import held
from warehouse.release import current_release

STRICT = ("alerts.added_psi.action=fail", "alerts.min_tokens=100", "alerts.bad_rows.limit=0.2")


def drifted(project):
    rows = [row | {"response": " ".join(["one"] * (20 + n))} for n, row in enumerate(purchases(5, 12))]
    write_rows(project.folder / "train.jsonl", [*project.train_rows(), *rows])


def last_run(project):
    query = "SELECT state, error, counts FROM record.runs ORDER BY started_at DESC LIMIT 1"
    state, error, counts = project.live(query)[0]
    return state, error, json.loads(counts)


def test_a_drifted_update_fails_and_readers_keep_the_release_before_until_it_is_corrected(valued):
    project = Project(valued.folder)
    before, rows = current_release(project.warehouse), project.train_rows()
    drifted(project)
    for _ in range(2):  # a run that finds the same state fails again: nothing slips through on the second tick
        with pytest.raises(DataAlertError, match=r"added_psi of loss is .*, limit 0\.5 .*raise the limit or run once with --set"):
            project.value(*STRICT)
        assert current_release(project.warehouse) == before
    state, error, counts = last_run(project)
    assert (state, counts["score"]["num_sequences"]) == ("failed", 12)
    assert error.startswith("DataAlertError: added_psi")
    assert "added_psi of loss" in held(project.warehouse)
    trained = project.train("training.max_steps=1")  # on the release before, and it does not release the state that is held
    assert trained.trained
    assert current_release(project.warehouse) == before

    write_rows(project.folder / "train.jsonl", rows)
    assert project.value(*STRICT).wrote_release
    assert held(project.warehouse) is None
    assert project.sql("SELECT count(*) FROM example_values") == [(40,)]
    assert project.sql("SELECT count(*) FROM trainings") == [(1,)]


def test_what_a_run_leaves_that_dies_before_its_masks_is_released_by_no_training(valued, monkeypatch):
    project = Project(valued.folder)
    before, rows = current_release(project.warehouse), project.train_rows()
    drifted(project)
    with monkeypatch.context() as dying:
        dying.setattr("warehouse.policies.write_mask", lambda *_: (_ for _ in ()).throw(RuntimeError("killed")))
        with pytest.raises(RuntimeError, match="killed"):
            project.value(*STRICT)
    assert "had compared them with this release" in held(project.warehouse)
    assert project.train("training.max_steps=1").trained
    assert current_release(project.warehouse) == before
    with pytest.raises(DataAlertError, match="added_psi of loss"):  # and the data are still compared with that release
        project.value(*STRICT)

    write_rows(project.folder / "train.jsonl", rows)
    assert project.value(*STRICT).wrote_release
    assert held(project.warehouse) is None


def test_a_drifted_update_that_only_warns_is_released_and_noted(valued, told):
    project = Project(valued.folder)
    drifted(project)
    done = project.value("alerts.min_tokens=100", "alerts.bad_rows.limit=0.2")
    assert done.wrote_release
    fired = {(one["rule"], one["what"]) for one in done.counts["alerts"]}
    assert ("added_psi", "loss") in fired
    assert "data alert: added_psi of loss" in told.text
    assert "data alert" in told.text
    assert project.value("alerts.min_tokens=100").counts["alerts"] == []


def test_ordinary_rows_raise_no_alert(valued):
    project = Project(valued.folder)
    write_rows(project.folder / "train.jsonl", [*project.train_rows(), *purchases(5, 12)])
    assert project.value(*STRICT).counts["alerts"] == []
