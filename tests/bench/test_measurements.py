"""Laws of bench/measurements.py: an interrupted bench has what it had made, and a file that is asked for must be there."""

import pytest

from bench.measurements import add, earlier


def test_what_was_made_before_an_interruption_is_there(tmp_path):
    def interrupted():
        yield {"key": "a", "value": 1.5}
        yield {"key": "b", "value": 2.5}
        raise KeyboardInterrupt

    out = tmp_path / "rows.jsonl"
    assert earlier(None, out) == []
    with pytest.raises(KeyboardInterrupt):
        add([], interrupted(), out)
    rows = earlier(None, out)
    assert rows == [{"key": "a", "value": 1.5}, {"key": "b", "value": 2.5}]
    add(rows, [{"key": "c"}], out)
    assert rows == earlier([out], None)
    with pytest.raises(FileNotFoundError):
        earlier([tmp_path / "none.jsonl"], out)
