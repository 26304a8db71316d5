"""Laws of tasks/progress.py where stderr is no terminal: rate and time left are those of the stage as it goes on, begun anew or not."""

import pytest

from tasks import progress


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass when the test says so."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_the_time_left_counts_from_the_first_report_of_the_stage(clock, capsys):
    with progress.Progress() as told:
        told.tokens(50, 1050)
        clock[0] += 100.0
        told.tokens(550, 1050)
    assert capsys.readouterr().err == "valuing tokens: 550 of 1,050 5 tokens/s, about 100 s left\n"


def test_a_stage_that_begins_anew_is_timed_anew(clock, capsys):
    with progress.Progress() as told:
        for _ in range(2):
            told.steps("training", 1, 40)
            clock[0] += 38.0
            told.steps("training", 39, 40)
            clock[0] += 1000.0  # something else
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["training: 39 of 40, about 1 s left", "training: 1 of 40", "training: 39 of 40, about 1 s left"]
