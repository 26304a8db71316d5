"""Laws of tasks/runs.py: the commit that a run notes is that of this code."""

import subprocess

import pytest

from tasks import runs


@pytest.fixture
def checkout(tmp_path):
    """A checkout with one commit."""
    for command in (("init", "-q"), ("-c", "user.name=a", "-c", "user.email=a@b", "commit", "-q", "--allow-empty", "-m", "one")):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    sha = subprocess.run(["git", "rev-parse", "HEAD"], cwd=tmp_path, check=True, capture_output=True, text=True).stdout.strip()
    return tmp_path, sha


def placed(folder, monkeypatch):
    """What `git_sha` says when the code lies in a folder."""
    (folder / "tasks").mkdir(parents=True)
    (folder / "tasks" / "runs.py").touch()
    monkeypatch.setattr(runs, "__file__", str(folder / "tasks" / "runs.py"))
    return runs.git_sha.__wrapped__()


def test_a_checkout_of_this_code_is_noted_with_its_commit_and_changes(checkout, monkeypatch):
    folder, sha = checkout
    assert placed(folder, monkeypatch) == sha + "+"  # runs.py is not in the commit
    (folder / ".git" / "info").mkdir(exist_ok=True)
    (folder / ".git" / "info" / "exclude").write_text("tasks\n")
    assert runs.git_sha.__wrapped__() == sha


def test_code_installed_below_another_checkout_has_no_commit(checkout, monkeypatch):
    assert placed(checkout[0] / ".venv" / "lib" / "site-packages", monkeypatch) is None


def test_code_outside_a_checkout_has_no_commit(tmp_path, monkeypatch):
    assert placed(tmp_path / "installed", monkeypatch) is None
