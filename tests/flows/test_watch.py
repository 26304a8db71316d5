"""Laws of flows/watch.py: whole changes are told, once each, and a look that fails ends nothing."""

import pytest

from flows import watch
from tasks.settings import build


@pytest.fixture
def config(tmp_path):
    """Four files, one for each kind of data."""
    names = ("train", "validation", "evaluation", "retention")
    for name in names:
        (tmp_path / f"{name}.txt").write_text(name)
    return build({"data": {name: f"{name}.txt" for name in names}, "model": {"reference": "m"}}, tmp_path, "")


class Stop:
    """Stands for the event that ends a watch: between two looks it does the next thing, and ends when there is none."""

    def __init__(self, *things):
        self._things = list(things)

    def wait(self, _):
        if self._things:
            self._things.pop(0)()
            return False
        return True


def nothing():
    pass


def paths(found):
    return [path.rsplit("/", 1)[1] for path, *_ in found]


@pytest.mark.parametrize("name", ["train", "validation", "evaluation", "retention"])
def test_a_change_of_any_file_is_told_once_when_it_is_whole(config, name):
    told = []
    file = config.base / f"{name}.txt"
    half, whole = (lambda text=text: file.write_text(text) for text in ("half", "the whole"))
    watch.watch(config, 1, Stop(nothing, half, whole, nothing, nothing), told.append)
    assert [paths(one) for one in told] == [["evaluation.txt", "retention.txt", "train.txt", "validation.txt"]]
    assert (str(file), len("the whole")) in [one[:2] for one in told[0]]


def test_looks_that_fail_are_told_once_in_a_row_and_the_watch_goes_on(config, monkeypatch, told):
    original, looks, found = watch.look, [], []

    def look(config):
        looks.append("look")
        if len(looks) in {2, 3, 6}:
            raise PermissionError(f"look {len(looks)}")
        return original(config)

    monkeypatch.setattr(watch, "look", look)

    def change():
        (config.base / "train.txt").write_text("another")

    watch.watch(config, 1, Stop(change, nothing, nothing, nothing, nothing, nothing), found.append)
    assert len(looks) == 7
    assert len(found) == 1
    assert [message.split("(")[1].split(")")[0] for message in told.messages] == ["look 2", "look 6"]


def test_a_watch_whose_first_look_fails_tells_what_it_finds_later(config, monkeypatch):
    original, looks, found = watch.look, [], []

    def look(config):
        looks.append("look")
        if len(looks) == 1:
            raise OSError("a network disk is away")
        return original(config)

    monkeypatch.setattr(watch, "look", look)
    watch.watch(config, 1, Stop(nothing, nothing, nothing), found.append)
    assert len(found) == 1
