"""Laws of flows/prune.py and warehouse/prune.py: what goes is foretold, nothing current goes, and what went can be computed again."""
import pytest
from tests.flows.world import purchases, stored, write_rows
def test_x(valued):
    before=stored(valued)
    first=valued.live("select scoring_id from record.scorings")
    valued.write_train([*valued.train_rows()[:-5], *purchases(99, 7)])
    valued.value("scoring.fisher.num_sequences=9")
    print(valued.prune(keep_last=1))
    done=valued.prune(keep_last=1, apply=True)
    print(done)
    b=valued.bytes_of_warehouse()
    again=valued.value("scoring.fisher.num_sequences=9")
    assert not again.wrote_release
    assert b==valued.bytes_of_warehouse()
    print(valued.live("select stage,num_rows from record.receipts"))
    assert 0
