"""Laws of releases under a whole run: readers in another process never fail, never see two states at once, and nobody waits for them."""

import json
import subprocess
import sys

import pytest

from tests.flows.driver import ROOT
from tests.flows.world import purchases

READER = """
import json, select, sys
from pathlib import Path
import warehouse
from warehouse.release import opened
from warehouse.stream import open_stream

folder = Path(sys.argv[1])
QUERIES = (
    "SELECT string_agg(name || '=' || value, ' ' ORDER BY name) FROM record.pointers",
    "SELECT count(*), count(DISTINCT scoring_id), min(scoring_id), hash(list((example_id, position, adapt_direct, loss) ORDER BY example_id, position)) FROM token_values",
    "SELECT policy, mask_id, count(*), sum(keep::INT) FROM token_masks GROUP BY ALL ORDER BY ALL",
    "SELECT count(*) FROM record.receipts",
    "SELECT count(*) FROM token_values_all",
)

def ask(con):
    return repr([con.execute(query).fetchall() for query in QUERIES])

seen, rounds = [], 0
with warehouse.open(folder) as held, opened(folder) as (con, marked):  # held and marked from before the run to behind its end
    first = ask(held.con)
    assert ask(con) == first
    seen.append((held.release.release_id, first))
    print("ready", flush=True)
    while not select.select([sys.stdin], [], [], 0)[0]:
        with warehouse.open(folder) as reader:
            seen.append((reader.release.release_id, ask(reader.con)))
            assert ask(reader.con) == seen[-1][1], "an open release changed"
        assert ask(held.con) == first, "the release that is held changed"
        if rounds % 5 == 0:
            stream = open_stream(folder, "default", batch_size=8, seed=0)
            assert sum(batch.num_supervised for batch, _ in stream.batches(epochs=1)) == stream.num_supervised_tokens
        rounds += 1
    assert ask(con) == ask(held.con) == first
    assert marked.folder.is_dir()
print(json.dumps({"seen": seen, "rounds": rounds}), flush=True)
"""


@pytest.fixture
def reader(valued):
    process = subprocess.Popen(
        [sys.executable, "-c", READER, str(valued.warehouse)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "ready\n", process.stderr.read()
    yield process
    process.kill()
    process.communicate()


def test_readers_of_a_whole_run_see_one_release_at_a_time_and_hold_nobody_up(valued, reader):
    few = "warehouse.keep_releases=1"
    valued.write_train([*valued.train_rows()[:-3], *purchases(99, 7)])
    written = [valued.value(few, "scoring.fisher.num_sequences=9").release_id]
    written.append(valued.mask(few, "policy.default={keep: 0.5}").release_id)
    assert valued.prune(few, "policy.default={keep: 0.5}", keep_last=1, apply=True).plan.rows
    written.append((valued.warehouse / "releases" / "CURRENT").read_text())
    assert reader.poll() is None, reader.stderr.read()

    said, errors = reader.communicate("stop\n", timeout=120)
    assert reader.returncode == 0, errors
    told = json.loads(said.splitlines()[-1])  # DuckDB may show the progress of a query above it
    answers = dict(told["seen"])
    assert told["rounds"] >= 1
    assert set(answers) <= {told["seen"][0][0], *written}
    assert len({tuple(one) for one in told["seen"]}) == len(answers), "one release gave two answers"
    assert len(set(answers.values())) == len(answers), "two releases gave the same answer, so the comparison says nothing"
    left = {path.name for path in (valued.warehouse / "releases").iterdir()} - {"CURRENT"}
    assert left == {told["seen"][0][0], written[-1]}  # the one that a living reader named, and the last
    valued.prune(few, apply=True)
    assert {path.name for path in (valued.warehouse / "releases").iterdir()} == {"CURRENT", written[-1]}
