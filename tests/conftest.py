"""What several test modules share: a tiny model, a small data set, folders of projects made of them, and Prefect's test server.

Nothing heavy is imported before a fixture needs it: tests/models runs with torch and transformers alone.
"""

import importlib.util
import os

from tasks.quiet import configure

configure()
os.environ.setdefault("OMP_NUM_THREADS", "1")  # threads only wait for one another in models this small
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import pytest  # ruff: ignore[module-import-not-at-top-of-file] - the environment comes first

if importlib.util.find_spec("hypothesis"):
    from hypothesis import HealthCheck, settings

    # The same examples on every machine, however busy it is: a test fails for its code alone.
    settings.register_profile("steady", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("steady")


@pytest.fixture(scope="session")
def prefect_server():
    """Prefect's temporary server, one for all tests; without the heartbeat, whose thread sleeps a second in every flow run."""
    from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=120), temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
        yield


@pytest.fixture(scope="session")
def template(tmp_path_factory):
    """The folder that projects are copies of: model, data files, configuration; never valued itself."""
    from tests.flows import world

    return world.make_template(tmp_path_factory.mktemp("template"))


@pytest.fixture
def project(template, tmp_path):
    """A project of its own, nothing valued yet."""
    from tests.flows import world

    with world.without_prefect():
        yield world.Project.copy_of(template, tmp_path / "project")


@pytest.fixture(scope="session")
def valued_once(template, tmp_path_factory):
    """A project valued once; to be copied, not used."""
    from tests.flows import world

    made = world.Project.copy_of(template, tmp_path_factory.mktemp("valued") / "project")
    with world.without_prefect():
        made.value()
    return made


@pytest.fixture
def valued(valued_once, tmp_path):
    """A project of its own, valued once."""
    from tests.flows import world

    with world.without_prefect():
        yield world.Project.moved(valued_once, tmp_path / "valued")


@pytest.fixture(scope="session")
def driver(tmp_path_factory):
    """Processes that may be killed; see tests/flows/driver.py."""
    from tests.flows.driver import Driver

    with Driver(tmp_path_factory.mktemp("driver") / "log") as running:
        yield running


@pytest.fixture
def call(monkeypatch, capsys):
    """Call the command line as the shell does: (exit status, standard output, standard error)."""
    import sys

    from flows import cli

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["alphatoken", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capsys.readouterr()
        return ended.value.code or 0, out, err

    monkeypatch.setenv("COLUMNS", "300")
    return run


@pytest.fixture
def told(caplog):
    """What our log says, which goes to stderr and not to the root logger."""
    import logging

    logger = logging.getLogger("alphatoken")
    logger.addHandler(caplog.handler)
    yield caplog
    logger.removeHandler(caplog.handler)


@pytest.fixture(scope="session")
def pairs(tmp_path_factory):
    """The folder of a warehouse of preference pairs, to be read."""
    from tests.reports import pages

    return pages.make(tmp_path_factory.mktemp("pairs") / "wh")
