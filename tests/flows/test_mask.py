"""Laws of flows/value_tokens.py::mask_tokens: a mask costs SQL alone."""

import subprocess
import sys

import pytest

from tests.flows.driver import ROOT
from tests.flows.world import stored

_SCRIPT = """
import sys
from pathlib import Path
from tests.flows.world import Project, without_prefect

with without_prefect():
    done = Project(Path(sys.argv[1])).mask("policy.harsh={keep: 0.2, normalization: rank}")
assert [m["written"] for m in done.counts["masks"] if m["policy"] == "harsh"] == [True]
found = {"torch", "transformers", "accelerate"} & set(sys.modules)
assert not found, found
"""


def test_masking_loads_no_torch(valued):
    subprocess.run([sys.executable, "-c", _SCRIPT, str(valued.folder)], cwd=ROOT, check=True)
    assert valued.sql("SELECT count(*) > 0 FROM token_masks WHERE policy = 'harsh'") == [(True,)]


def test_new_policy_gets_a_mask_without_scoring(valued):
    before = stored(valued)
    done = valued.mask("policy.harsh={keep: 0.2}", policy="harsh")
    ((kept, eligible),) = valued.sql(
        """
        SELECT sum(keep::INT) - count(DISTINCT sequence_id), sum(least(ends, 0) + 1) - count(DISTINCT sequence_id)
        FROM (SELECT *, 0 AS ends FROM token_masks WHERE policy = 'harsh')
        """
    )
    assert 0.2 * eligible <= kept <= 0.2 * eligible + 40  # rounded up in each of 40 responses, ends of turn on top
    assert [m["policy"] for m in done.counts["masks"]] == ["harsh"]
    after = stored(valued)
    assert (after["direction_values"], after["signal_values"]) == (before["direction_values"], before["signal_values"])
    assert set(map(repr, before["mask_values"])) <= set(map(repr, after["mask_values"]))


def test_changed_policy_replaces_its_current_mask_and_keeps_the_others(valued):
    others = "SELECT * FROM token_masks WHERE policy = 'full' ORDER BY ALL"
    before = valued.sql(others)
    valued.mask("policy.default={keep: 0.5}")
    assert valued.sql(others) == before
    ((share,),) = valued.sql("SELECT avg(keep::INT) FROM token_masks WHERE policy = 'default'")
    assert share == pytest.approx(0.5, abs=0.05)


def test_unknown_policy_is_refused_with_the_known_and_the_nearest_named(valued):
    before = valued.bytes_of_warehouse()
    with pytest.raises(ValueError, match="there is no policy 'defualt', did you mean 'default'\\?; known are default, full, paper, random"):
        valued.mask(policy="defualt")
    assert valued.bytes_of_warehouse() == before


def test_masking_before_valuing_is_refused(project):
    with pytest.raises(OSError, match=r"there is no warehouse at .*run `alphatoken value` first, or correct warehouse.path"):
        project.mask()
    assert not project.warehouse.exists()
