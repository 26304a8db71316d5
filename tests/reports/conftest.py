"""What the tests of reports share: a warehouse of pairs, made once."""

import pytest


@pytest.fixture(scope="session")
def pairs(tmp_path_factory):
    """The folder of a warehouse of preference pairs, to be read."""
    from tests.reports import pages

    return pages.make(tmp_path_factory.mktemp("pairs") / "wh")
