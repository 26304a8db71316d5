"""Laws of warehouse/pairs.py and of pairs in the stream: branches stay together, reference log-probabilities stand where the labels do."""

import shutil

import duckdb
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.warehouse.ids import filled, full, short
from warehouse.connect import DATABASE, Warehouse
from warehouse.masked_batches import PairBatch
from warehouse.stream import Cursor, MaskedStream
from warehouse.streamed_dataset import as_dataset

NUM_PAIRS = 17
SOURCES = {0: "books", 1: "code", 2: None}


def make_rows(num_pairs=NUM_PAIRS, seed=0):
    """(example_id, multiplicity, source, branch to (sequence_id, ids, positions, keep, reference losses)) of each pair."""
    generator = np.random.default_rng(seed)
    rows = []
    for number in generator.permutation(num_pairs).tolist():
        prompt = generator.integers(1, 1000, int(generator.integers(0, 4))).tolist()
        branches = {}
        for branch in ("rejected", "chosen"):
            ids = prompt + generator.integers(1, 1000, int(generator.integers(1, 9))).tolist()
            positions = list(range(len(prompt), len(ids)))
            keep = [number % 5 != 0 and bool(generator.random() < 0.6) for _ in positions]  # of every fifth pair nothing is kept
            losses = [None if p == 0 else float(np.float32(generator.random() * 9)) for p in positions]
            branches[branch] = (f"s{number}-{branch}", ids, positions, keep, losses)
        rows.append((f"e{number:02}", 1 + 2 * (number == 3), SOURCES[number % 3], branches))
    return rows


ROWS = make_rows()
SEQUENCES = {part[0]: part for row in ROWS for part in row[3].values()}
EXPECTED = sorted(row[0] for row in ROWS for _ in range(row[1]))
PARTNERS = {row[3]["chosen"][0]: (row[0], row[3]["rejected"][0]) for row in ROWS}


def write(folder, rows=ROWS):
    with Warehouse(folder) as warehouse:
        con = warehouse.con
        con.execute(
            "INSERT INTO record.scorings (scoring_id, tokenization_id, signals_id, ref_signals_id) VALUES ('scoring', 'tokens', 'own', 'ref')"
        )
        con.execute(
            "INSERT INTO record.masks (mask_id, policy, scoring_id, snapshot_id) VALUES ('mask', 'mine', 'scoring', 'now'), ('all', 'full', 'scoring', 'now')"
        )
        for example_id, multiplicity, source, branches in rows:
            con.execute(
                "INSERT INTO record.snapshot_examples (snapshot_id, example_id, multiplicity, source) VALUES ('now', $1, $2, $3)",
                [full(example_id), multiplicity, source],
            )
            for branch, (name, ids, positions, keep, losses) in branches.items():
                con.execute(
                    "INSERT INTO record.example_sequences (tokenization_id, example_id, branch, sequence_id) VALUES ('tokens', $1, $2, $3)",
                    [full(example_id), branch, full(name)],
                )
                con.execute("INSERT INTO record.sequences VALUES ($1, $2, $3, [])", [full(name), ids, positions])
                signals = "INSERT INTO record.signal_values (signals_id, sequence_id, loss) VALUES ($1, $2, $3)"
                con.execute(signals, ["ref", full(name), losses])
                con.execute(signals, ["own", full(name), [0.5 for _ in losses]])
                for mask, flags in (("mask", keep), ("all", [True for _ in keep])):
                    con.execute(
                        "INSERT INTO record.mask_values (mask_id, sequence_id, keep) VALUES ($1, $2, $3)", [mask, full(name), flags]
                    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("warehouse")
    write(made)
    return made


@pytest.fixture(scope="module")
def con(folder):
    with duckdb.connect(str(folder / DATABASE), read_only=True) as connection:
        yield connection


@pytest.fixture(scope="module")
def copies(tmp_path_factory):
    return tmp_path_factory.mktemp("copies")


@pytest.fixture
def changed(folder, tmp_path):
    """Open a copy of the warehouse after a statement."""

    def change(statement):
        shutil.copy(folder / DATABASE, tmp_path / DATABASE)
        with duckdb.connect(str(tmp_path / DATABASE)) as writer:
            writer.execute(filled(statement))
        return duckdb.connect(str(tmp_path / DATABASE), read_only=True)

    return change


def examples_of(batch):
    """Examples of a batch's pairs; fails where a chosen response has not its own rejected one behind it."""
    names = short(batch.sequence_ids)
    assert len(names) == 2 * batch.num_pairs
    chosen, rejected = names[: batch.num_pairs], names[batch.num_pairs :]
    assert [PARTNERS[name][1] for name in chosen] == list(rejected)
    return [PARTNERS[name][0] for name in chosen]


def same(one, other):
    arrays = ("input_ids", "attention_mask", "labels", "response_labels", "ref_log_probs")
    return one.sequence_ids == other.sequence_ids and all(np.array_equal(getattr(one, name), getattr(other, name)) for name in arrays)


def test_labels_and_reference_log_probabilities_are_the_stores(con, copies):
    for release_folder in (None, copies, copies):  # in memory, written, mapped
        stream = MaskedStream(con, "mask", seed=1, batch_size=4, release_folder=release_folder)
        assert stream.num_sequences == 2 * len(EXPECTED)
        for batch, _ in stream.batches(epochs=1):
            assert isinstance(batch, PairBatch)
            assert (batch.ref_log_probs.dtype, batch.response_labels.dtype) == (np.float32, np.int64)
            for row, name in enumerate(short(batch.sequence_ids)):
                _, ids, positions, keep, losses = SEQUENCES[name]
                width = range(batch.labels.shape[1])
                kept = {p for p, flag in zip(positions, keep, strict=True) if flag}
                stored = {p: -loss for p, loss in zip(positions, losses, strict=True) if loss is not None}
                assert batch.labels[row].tolist() == [ids[p] if p in kept else -100 for p in width]
                assert batch.response_labels[row].tolist() == [ids[p] if p in stored else -100 for p in width]
                assert batch.ref_log_probs[row].tolist() == [stored.get(p, 0.0) for p in width]


SIZES = st.one_of(
    st.fixed_dictionaries({"batch_size": st.integers(1, 9), "bucket_window": st.integers(0, 20)}),
    st.fixed_dictionaries({"batch_tokens": st.integers(1, 120), "bucket_window": st.integers(0, 20)}),
)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**64 - 1), world_size=st.integers(1, 8), sizes=SIZES, epochs=st.integers(1, 3))
def test_every_pair_comes_whole_and_once_an_epoch_over_any_number_of_ranks(con, copies, seed, world_size, sizes, epochs):
    ranks = [
        MaskedStream(con, "mask", seed=seed, rank=rank, world_size=world_size, release_folder=copies, **sizes) for rank in range(world_size)
    ]
    for epoch in range(epochs):
        delivered = [list(stream.batches(Cursor(epoch, 0), epochs=epoch + 1)) for stream in ranks]
        assert {len(batches) for batches in delivered} == {ranks[0].num_batches_in(epoch)}
        batches = [batch for batches in delivered for batch, _ in batches]
        assert sorted(name for batch in batches for name in examples_of(batch)) == EXPECTED
        assert sum(batch.num_supervised for batch in batches) == ranks[0].num_supervised_tokens == ranks[0].supervised_tokens_in(epoch)
        assert all(len(batch.labels) == 2 * max(1, batch.num_pairs) for batch in batches)
        if "batch_tokens" in sizes:
            assert all(batch.num_pairs <= 1 or batch.input_ids.size <= sizes["batch_tokens"] for batch in batches)
        if "batch_size" in sizes:
            assert all(batch.num_pairs <= sizes["batch_size"] for batch in batches)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(seed=st.integers(0, 99), sizes=SIZES, data=st.data())
def test_any_cursor_goes_on_where_the_uninterrupted_stream_does(con, copies, seed, sizes, data):
    whole = list(MaskedStream(con, "mask", seed=seed, release_folder=copies, **sizes).batches(epochs=2))
    number = data.draw(st.integers(0, len(whole) - 2))
    resumed = MaskedStream(con, "mask", seed=seed, release_folder=copies, **sizes).batches(whole[number][1], epochs=2)
    for (batch, cursor), (expected, at) in zip(resumed, whole[number + 1 :], strict=True):
        assert same(batch, expected)
        assert cursor == at


def test_weights_of_sources_count_pairs(con):
    stream = MaskedStream(con, "mask", seed=3, batch_size=4, source_weights={None: 0, "books": 1, "code": 3})
    source = {row[0]: row[2] for row in ROWS}
    for epoch in range(2):
        found = [source[name] for batch, _ in stream.batches(Cursor(epoch, 0), epochs=epoch + 1) for name in examples_of(batch)]
        assert len(found) == len(EXPECTED)
        assert abs(found.count("code") - 0.75 * len(EXPECTED)) < 1
        assert None not in found


def test_filler_is_two_rows_without_a_pair(con):
    world_size = len(EXPECTED) - 1
    _, (batch, _) = MaskedStream(con, "mask", seed=1, batch_size=1, rank=1, world_size=world_size).batches(epochs=1)
    assert (batch.num_pairs, batch.sequence_ids, batch.num_supervised) == (0, (), 0)
    assert batch.attention_mask.tolist() == [[1], [1]]
    assert batch.labels.tolist() == batch.response_labels.tolist() == [[-100], [-100]]
    assert batch.ref_log_probs.tolist() == [[0], [0]]


def test_only_a_mask_of_everything_keeps_every_token(con, changed):
    assert MaskedStream(con, "all", seed=0, batch_size=4).keeps_every_token
    assert not MaskedStream(con, "mask", seed=0, batch_size=4).keeps_every_token
    with changed("UPDATE record.mask_values SET weight = list_transform(keep, lambda kept: 0.5)") as other:
        assert not MaskedStream(other, "all", seed=0, batch_size=4).keeps_every_token


def test_a_pair_without_a_branch_is_refused_by_name(changed):
    with (
        changed("UPDATE record.example_sequences SET sequence_id = NULL WHERE sequence_id = 'id:s4-chosen'") as con,
        pytest.raises(ValueError, match=rf"example {full('e04')} has no sequence of its branch 'chosen'.*rejected_rows"),
    ):
        MaskedStream(con, "mask", seed=0, batch_size=4)


def test_plain_responses_beside_pairs_are_refused(changed):
    with (
        changed("UPDATE record.example_sequences SET branch = 'sft' WHERE sequence_id = 'id:s4-chosen'") as con,
        pytest.raises(ValueError, match="both plain responses and pairs"),
    ):
        MaskedStream(con, "mask", seed=0, batch_size=4)


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM record.signal_values WHERE sequence_id = 'id:s4-chosen'",
        "UPDATE record.signal_values SET loss = NULL WHERE sequence_id = 'id:s4-chosen'",
        "UPDATE record.signal_values SET loss = loss[2:] WHERE sequence_id = 'id:s4-chosen'",
        "UPDATE record.signal_values SET loss = list_transform(loss, lambda x: 'nan'::FLOAT) WHERE sequence_id = 'id:s4-chosen'",
        "UPDATE record.signal_values SET loss = list_transform(loss, lambda x: NULL) WHERE sequence_id = 'id:s4-chosen'",
    ],
)
def test_missing_losses_of_the_reference_are_refused_by_name(changed, statement):
    with (
        changed(statement) as con,
        pytest.raises(ValueError, match=rf"missing, or not finite, for 1 sequences, the first is {full('s4-chosen')}"),
    ):
        MaskedStream(con, "mask", seed=0, batch_size=4)


def test_rows_of_a_data_set_cannot_carry_pairs(con):
    with pytest.raises(ValueError, match="pairs of responses, which rows of input_ids and labels cannot carry"):
        as_dataset(MaskedStream(con, "mask", seed=0, batch_size=4))
