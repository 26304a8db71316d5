"""Laws of warehouse/streamed_dataset.py: the stream's rows in the stream's order, resumed without replay, refused elsewhere."""

from itertools import islice

import pytest

from tests.warehouse.test_stream import ROWS, make, write
from warehouse.stream import Cursor, MaskedStream
from warehouse.streamed_dataset import as_dataset


@pytest.fixture(scope="module")
def con(tmp_path_factory):
    with write(tmp_path_factory.mktemp("warehouse"), ROWS) as connection:
        yield connection


def rows_of(stream, **where):
    """What the data set must give: the batches' rows without padding."""
    rows = []
    for batch, _ in stream.batches(**where):
        for ids, mask, labels, _ in zip(batch.input_ids, batch.attention_mask, batch.labels, batch.sequence_ids, strict=False):
            rows.append({"input_ids": ids[mask == 1].tolist(), "labels": labels[mask == 1].tolist()})
    return rows


@pytest.mark.parametrize("rank", range(3))
def test_rows_are_those_of_the_stream(con, rank):
    stream = make(con, rank=rank, world_size=3)
    dataset = as_dataset(stream, epochs=2)
    assert list(dataset) == list(dataset) == rows_of(stream, epochs=2)
    assert dataset.column_names == ["input_ids", "labels"]
    assert list(as_dataset(stream, Cursor(1, 1), epochs=2)) == rows_of(stream, cursor=Cursor(1, 1), epochs=2)
    assert list(as_dataset(stream, Cursor(1, 0), epochs=1)) == []


def test_a_state_goes_on_behind_the_last_row_and_produces_no_row_before(con, monkeypatch):
    made = []
    original = MaskedStream._batch

    def counted(self, rows):
        made.append(len(rows))
        return original(self, rows)

    monkeypatch.setattr(MaskedStream, "_batch", counted)
    stream = make(con)
    expected = rows_of(stream, epochs=2)
    for number in (0, 1, 4, 5, 6, len(expected) // 2, len(expected) // 2 + 1, len(expected) - 1, len(expected)):
        dataset = as_dataset(stream, epochs=2)
        assert list(islice(dataset, number)) == expected[:number]
        again = as_dataset(stream, epochs=2)
        again.load_state_dict(dataset.state_dict())
        made.clear()
        assert list(again) == expected[number:]
        assert sum(made) <= len(expected) - number + 4  # the rest of its batch of five, and nothing earlier


def test_a_state_of_another_stream_is_refused(con):
    other = as_dataset(make(con, seed=8))
    other.load_state_dict(as_dataset(make(con)).state_dict())
    with pytest.raises(ValueError, match="resume with the same mask, seed"):
        next(iter(other))


def test_operations_of_datasets_work_on_it_and_workers_are_refused(con):
    stream = make(con)
    dataset = as_dataset(stream, epochs=1)
    lengths = [len(row["input_ids"]) for row in rows_of(stream, epochs=1)]
    assert [row["n"] for row in dataset.map(lambda row: {"n": len(row["input_ids"])})] == lengths
    assert len(list(dataset.skip(3).take(4))) == 4
    with pytest.raises((ValueError, IndexError)):
        list(dataset.shard(2, 0))
