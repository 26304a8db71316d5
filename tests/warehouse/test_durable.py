"""Laws of warehouse/durable.py: content is on disk before its name, and the name before the call returns."""

import os

import pytest

from warehouse import durable


@pytest.fixture
def calls(monkeypatch):
    """What is synced and renamed, in order, by name."""
    seen = []
    real_sync, real_rename = os.fsync, os.rename
    monkeypatch.setattr(os, "fsync", lambda fd: (seen.append(os.path.basename(os.readlink(f"/proc/self/fd/{fd}"))), real_sync(fd)))
    monkeypatch.setattr(os, "replace", lambda one, other: (seen.append(f"{one.name} -> {other.name}"), real_rename(one, other)))
    return seen


def test_a_file_is_written_then_named_then_its_folder_is_synced(tmp_path, calls):
    path = tmp_path / "pointer"
    durable.write(path, b"old")
    durable.write(path, b"new")
    assert path.read_bytes() == b"new"
    assert calls == [".pointer.partial", ".pointer.partial -> pointer", tmp_path.name] * 2
    assert [found.name for found in tmp_path.iterdir()] == ["pointer"]


def test_a_failed_write_leaves_what_was_there(tmp_path, monkeypatch):
    path = tmp_path / "pointer"
    durable.write(path, b"old")
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError("no space left on device")))
    with pytest.raises(OSError, match="no space left"):
        durable.write(path, b"new")
    assert path.read_bytes() == b"old"


def test_a_tree_is_synced_with_everything_below_it(tmp_path, calls):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "c").write_bytes(b"1")
    durable.sync_tree(tmp_path / "a")
    assert sorted(calls) == ["a", "b", "c"]
    assert calls[-1] == "a"
