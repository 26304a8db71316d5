"""Laws of bench/kills.py: a few kills at random times do no harm, and its checks see harm where there is some."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import duckdb
import pytest

from bench.kills import STAGES
from bench.kills_check import check, rows_of
from bench.kills_jobs import JOBS

ROOT = Path(__file__).parents[2]


def test_kills_at_random_times_lose_nothing(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "bench.kills", "--kills", "3", "--examples", "40", "--seed", "1"],
        cwd=ROOT, capture_output=True, text=True, timeout=400, env={**os.environ, "TMPDIR": str(tmp_path), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert "3 kills in " in done.stdout
    assert sum(int(number) for number in re.findall(rf"^\| (?:{'|'.join(STAGES)}) \| (\d+) \|$", done.stdout, flags=re.M)) == 3


ONE_JOB = """
import sys
from pathlib import Path
from bench.kills_jobs import do_job
here = Path(sys.argv[1])
(here / "stage").write_bytes(b"begin".ljust(20))
do_job(here, 0, 12)
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The warehouse of a finished job, to be damaged by each test in a copy."""
    here = tmp_path_factory.mktemp("job")
    subprocess.run([sys.executable, "-c", ONE_JOB, str(here)], cwd=ROOT, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    return here


HARMS = {
    "a value is gone": "DELETE FROM record.direction_values WHERE rowid = (SELECT min(rowid) FROM record.direction_values)",
    "a value is there twice": "INSERT INTO record.signal_values SELECT * FROM record.signal_values LIMIT 1",
    "a value is cut": "UPDATE record.direction_values SET direct = direct[2:] WHERE rowid = (SELECT min(rowid) FROM record.direction_values)",
    "a value has no receipt": "DELETE FROM record.receipts WHERE stage = 'score'",
    "a mask has lost a row": "DELETE FROM record.mask_values WHERE rowid = (SELECT min(rowid) FROM record.mask_values)",
    "an example has lost its content": "DELETE FROM record.examples WHERE rowid = (SELECT min(rowid) FROM record.examples)",
    "a tokenized example is gone": "DELETE FROM record.example_sequences WHERE rowid = (SELECT min(rowid) FROM record.example_sequences)",
    "a pointer leads nowhere": "UPDATE record.pointers SET value = 'x' WHERE name = 'scoring'",
}


@pytest.mark.parametrize("harm", HARMS)
def test_harm_is_seen(finished, tmp_path, harm):
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(finished / "warehouse", copy)
    before = rows_of(copy)
    assert check(copy, finished / "journal") >= 6
    with duckdb.connect(str(copy / "alphatoken.duckdb")) as con:
        con.execute(HARMS[harm])
    with pytest.raises(AssertionError):
        check(copy, finished / "journal")
    if harm != "a value has no receipt":
        assert rows_of(copy) != before


def test_the_journal_is_read_up_to_a_line_that_was_cut(finished, tmp_path):
    text = (finished / "journal").read_text()
    assert {json.loads(line)[0] for line in text.splitlines()} == {"score", "tokenize"}
    (tmp_path / "journal").write_text(text + '["score", {"ad')
    assert check(finished / "warehouse", tmp_path / "journal") >= 6
    assert len(JOBS) == 3
