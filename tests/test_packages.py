"""Law of constraints.txt: every package that an install with all extras brings is pinned, at a version that pyproject.toml allows."""

import re
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
EXTRAS = tuple(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"])


def plain(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def pins():
    lines = [line.split("==") for line in (ROOT / "constraints.txt").read_text().split()]
    return {plain(name): version for name, version in lines}


def declared(extra):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return [Requirement(one) for one in project["dependencies"] + project["optional-dependencies"][extra]]


def brought(requirements):
    """All that pip would install for these: what the installed packages say of themselves."""
    found, waiting = set(), [(one, extra) for one in requirements for extra in (one.extras or {""})]
    while waiting:
        one, extra = waiting.pop()
        if (plain(one.name), extra) in found:
            continue
        found.add((plain(one.name), extra))
        for text in metadata.requires(one.name) or ():
            further = Requirement(text)
            if further.marker is None or further.marker.evaluate({"extra": extra}):
                waiting += [(further, e) for e in {"", *further.extras}]
    return {name for name, _ in found}


@pytest.mark.parametrize("extra", EXTRAS)
def test_all_that_an_extra_brings_is_pinned(extra):
    try:
        names = brought(declared(extra))
    except metadata.PackageNotFoundError as missing:
        pytest.skip(f"{missing.name} is not installed: pip install -e '.[{extra}]' -c constraints.txt")
    of_torch = {name for name in names if name == "setuptools" or name.startswith(("nvidia-", "cuda-", "triton"))}  # as its wheel has it
    assert sorted(names - set(pins()) - of_torch) == []


@pytest.mark.parametrize("extra", EXTRAS)
def test_pins_are_within_the_declared_ranges(extra):
    pinned = pins()
    assert [str(one) for one in declared(extra) if not one.specifier.contains(pinned[plain(one.name)])] == []
