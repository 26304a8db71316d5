"""Laws of warehouse/stream.py: documented order, cursors, shards, labels and counts equal to the store's."""

from itertools import islice

import duckdb
import numpy as np
import pytest

from tests.warehouse.ids import filled, full, short
from warehouse.connect import DATABASE, Warehouse
from warehouse.release import write_release
from warehouse.stream import Cursor, MaskedStream, open_stream

NUM_EXAMPLES = 23
MULTIPLICITIES = {2: 3, 7: 2}


def make_rows():
    """(example_id, branch, sequence_id, token_ids, response_positions, keep, multiplicity) of each sequence, in an order of its own."""
    generator = np.random.default_rng(0)
    rows = []
    for number in generator.permutation(NUM_EXAMPLES).tolist():
        length = int(generator.integers(1, 12))
        positions = list(range(0 if number % 4 == 0 else length // 2, length))  # every fourth has no prompt: position 0 is a response token
        keep = [number != 6 and bool(generator.random() < 0.6) for _ in positions]  # nothing is kept of number 6
        if number == 4:
            keep[0] = True  # kept, and yet without a loss
        token_ids = generator.integers(1, 1000, length).tolist()
        rows.append((f"e{number:02}", "sft", f"s{number}-sft", token_ids, positions, keep, MULTIPLICITIES.get(number, 1)))
    # Two examples may share a sequence.
    rows.append(("e99", "sft", *rows[0][2:6], 1))
    return rows


def source_of(example_id):
    """Two sources, and rows without one."""
    return {"1": "books", "2": "code"}.get(example_id[-1])


ROWS = make_rows()
EXPECTED = [row for row in sorted(ROWS, key=lambda row: row[:2]) for _ in range(row[-1])]
"""The order before shuffling, as documented."""


def write(folder, rows, drop_flags_of=None):
    with Warehouse(folder) as warehouse:
        con = warehouse.con
        con.execute("INSERT INTO record.scorings (scoring_id, tokenization_id) VALUES ('scoring', 'tokens'), ('other', 'others')")
        con.execute(
            "INSERT INTO record.masks (mask_id, policy, scoring_id, snapshot_id) VALUES "
            "('mask', 'mine', 'scoring', 'now'), ('all', 'full', 'scoring', 'now'), ('none', 'mine', 'scoring', 'empty')"
        )
        sequences = {row[2]: row for row in rows}
        for example_id, multiplicity in sorted({(row[0], row[-1]) for row in rows} | {("unusable", 1)}):
            con.execute(
                "INSERT INTO record.snapshot_examples (snapshot_id, example_id, multiplicity, source) VALUES ('now', $1, $2, $3)",
                [full(example_id), multiplicity, source_of(example_id)],
            )
            con.execute(
                "INSERT INTO record.snapshot_examples (snapshot_id, example_id, multiplicity) VALUES ('before', $1, 9)", [full(example_id)]
            )
        links = "INSERT INTO record.example_sequences (tokenization_id, example_id, branch, sequence_id) VALUES ($1, $2, $3, $4)"
        con.execute(links, ["tokens", full("unusable"), "sft", None])
        for example_id, branch, sequence_id, *_ in rows:
            con.execute(links, ["tokens", full(example_id), branch, full(sequence_id)])
            con.execute(links, ["others", full(example_id), branch, full(f"other-{sequence_id}")])
        for sequence_id, (_, _, _, token_ids, positions, keep, _) in sequences.items():
            con.execute("INSERT INTO record.sequences VALUES ($1, $2, $3, [])", [full(sequence_id), token_ids, positions])
            con.execute("INSERT INTO record.sequences VALUES ($1, [1, 2], [1], [])", [full(f"other-{sequence_id}")])
            flags = "INSERT INTO record.mask_values (mask_id, sequence_id, keep) VALUES ($1, $2, $3)"
            con.execute(flags, ["all", full(sequence_id), [True] * len(positions)])
            if sequence_id != drop_flags_of:
                con.execute(flags, ["mask", full(sequence_id), keep])
    return duckdb.connect(str(folder / DATABASE), read_only=True)


@pytest.fixture(scope="module")
def con(tmp_path_factory):
    with write(tmp_path_factory.mktemp("warehouse"), ROWS) as connection:
        yield connection


@pytest.fixture(scope="module")
def copies(tmp_path_factory):
    """A place for the flat copy, shared by tests that make many streams."""
    return tmp_path_factory.mktemp("copies")


def make(con, mask_id="mask", *, batch_size=5, seed=7, **shard):
    return MaskedStream(con, mask_id, batch_size=batch_size, seed=seed, **shard)


def ids_of(batches):
    return [sequence_id for batch, _ in batches for sequence_id in short(batch.sequence_ids)]


def same(one, other):
    arrays = all(np.array_equal(getattr(one, name), getattr(other, name)) for name in ("input_ids", "attention_mask", "labels"))
    return arrays and one.sequence_ids == other.sequence_ids and one.num_supervised == other.num_supervised


def test_the_order_is_the_documented_permutation_of_the_sorted_and_repeated_sequences(con):
    stream = make(con)
    assert stream.num_sequences == len(EXPECTED)
    assert stream.num_batches == -(-len(EXPECTED) // 5)
    for epoch in range(3):
        permutation = np.random.Generator(np.random.Philox(key=np.array([7, epoch], dtype=np.uint64))).permutation(len(EXPECTED))
        batches = list(stream.batches(Cursor(epoch, 0), epochs=epoch + 1))
        assert ids_of(batches) == [EXPECTED[i][2] for i in permutation]
        assert [len(batch.sequence_ids) for batch, _ in batches] == [5] * (len(EXPECTED) // 5) + [len(EXPECTED) % 5]


def test_the_order_is_reproducible_and_depends_on_the_seed_and_the_epoch(con):
    assert ids_of(make(con).batches(epochs=2)) == ids_of(make(con).batches(epochs=2))
    first, second = (ids_of(make(con).batches(Cursor(epoch, 0), epochs=epoch + 1)) for epoch in (0, 1))
    assert sorted(first) == sorted(second)
    assert first != second
    assert first != ids_of(make(con, seed=8).batches(epochs=1))


@pytest.mark.parametrize("batch_size", [1, 5, 1000])
def test_every_cursor_resumes_where_the_uninterrupted_stream_goes_on(con, batch_size):
    stream = make(con, batch_size=batch_size)
    whole = list(stream.batches(epochs=3))
    assert len(whole) == 3 * stream.num_batches
    for number, (_, cursor) in enumerate(whole, start=1):
        assert cursor == Cursor(*divmod(number, stream.num_batches))
        resumed = make(con, batch_size=batch_size) if number % 7 == 0 else stream  # a new process now and then
        rest = list(resumed.batches(cursor, epochs=3))
        for (batch, after), (expected, expected_after) in zip(rest, whole[number:], strict=True):
            assert same(batch, expected)
            assert after == expected_after


def test_without_a_number_of_epochs_the_stream_is_endless(con):
    stream = make(con)
    assert len(list(islice(stream.batches(), 5 * stream.num_batches))) == 5 * stream.num_batches


@pytest.mark.parametrize("batch_size", [1, 3, 40])
@pytest.mark.parametrize("world_size", range(1, 9))
def test_the_shards_together_are_the_whole_stream_once(con, copies, batch_size, world_size):
    def batches(size, rank, world_size):
        return list(make(con, batch_size=size, rank=rank, world_size=world_size, release_folder=copies).batches(epochs=2))

    whole = batches(batch_size * world_size, 0, 1)
    ranks = [batches(batch_size, rank, world_size) for rank in range(world_size)]
    assert {len(batches) for batches in ranks} == {len(whole)}
    for expected, *parts in zip(whole, *ranks, strict=True):
        assert {cursor for _, cursor in parts} == {expected[1]}
        assert sorted(ids_of(parts)) == sorted(short(expected[0].sequence_ids))
        assert sum(batch.num_supervised for batch, _ in parts) == expected[0].num_supervised
        sizes = [len(batch.sequence_ids) for batch, _ in parts]
        assert max(sizes) - min(sizes) <= 1
        assert max(sizes) <= batch_size


def test_a_rank_without_sequences_gets_a_row_of_filler_that_supervises_nothing(con):
    world_size = len(EXPECTED) - 1  # one sequence is left for the second global batch
    first, second = make(con, batch_size=1, rank=1, world_size=world_size).batches(epochs=1)
    assert len(first[0].sequence_ids) == 1
    batch = second[0]
    assert (batch.sequence_ids, batch.num_supervised) == ((), 0)
    assert batch.input_ids.tolist() == [[0]]
    assert batch.attention_mask.tolist() == [[1]]
    assert batch.labels.tolist() == [[-100]]


@pytest.mark.parametrize("mask_id", ["mask", "all"])
def test_padding_is_on_the_right_and_labels_are_what_the_store_keeps(con, mask_id):
    rows = {row[2]: row for row in ROWS}
    for batch, _ in make(con, mask_id).batches(epochs=1):
        width = max(len(rows[sequence_id][3]) for sequence_id in short(batch.sequence_ids))
        assert batch.input_ids.shape == batch.attention_mask.shape == batch.labels.shape == (len(batch.sequence_ids), width)
        assert {array.dtype for array in (batch.input_ids, batch.attention_mask, batch.labels)} == {np.dtype(np.int64)}
        for row, sequence_id in enumerate(short(batch.sequence_ids)):
            _, _, _, token_ids, positions, keep, _ = rows[sequence_id]
            padding = width - len(token_ids)
            kept = {p for p, flag in zip(positions, keep, strict=True) if flag or mask_id == "all"}
            assert batch.input_ids[row].tolist() == token_ids + [0] * padding
            assert batch.attention_mask[row].tolist() == [1] * len(token_ids) + [0] * padding
            assert batch.labels[row].tolist() == [t if p in kept else -100 for p, t in enumerate(token_ids)] + [-100] * padding


@pytest.mark.parametrize("mask_id", ["mask", "all"])
def test_counts_of_supervised_tokens_equal_the_stores_long_rows(con, mask_id):
    flags = (
        "SELECT record.hex_id(kept.sequence_id) AS sequence_id, unnest(response_positions) AS position, unnest(keep) AS keep "
        "FROM record.mask_values AS kept JOIN record.sequences USING (sequence_id) WHERE mask_id = $1"
    )
    per_sequence = dict(
        con.execute(f"SELECT sequence_id, count(*) FILTER (keep AND position > 0) FROM ({flags}) GROUP BY ALL", [mask_id]).fetchall()
    )
    stream = make(con, mask_id)
    batches = [batch for batch, _ in stream.batches(epochs=1)]
    for batch in batches:
        assert batch.num_supervised == sum(per_sequence[sequence_id] for sequence_id in batch.sequence_ids)
        assert batch.num_supervised == (batch.labels[:, 1:] != -100).sum()
    assert stream.num_supervised_tokens == sum(batch.num_supervised for batch in batches)
    assert stream.num_supervised_tokens == sum(per_sequence[full(row[2])] for row in EXPECTED)


def test_duplicates_count_and_position_0_does_not(con):
    stream = make(con)
    sequence_ids = ids_of(stream.batches(epochs=1))
    assert all(sequence_ids.count(f"s{number}-sft") >= multiplicity for number, multiplicity in MULTIPLICITIES.items())
    labelled = sum(int((batch.labels != -100).sum()) for batch, _ in stream.batches(epochs=1))
    at_0 = sum(int((batch.labels[:, 0] != -100).sum()) for batch, _ in stream.batches(epochs=1))
    assert at_0 > 0
    assert stream.num_supervised_tokens == labelled - at_0
    assert make(con, rank=1, world_size=3).num_supervised_tokens == stream.num_supervised_tokens


def test_a_sequence_of_which_nothing_is_kept_stays_in_its_place(con):
    batch = next(batch for batch, _ in make(con, batch_size=1).batches(epochs=1) if short(batch.sequence_ids) == ("s6-sft",))
    assert batch.num_supervised == 0
    assert (batch.labels == -100).all()


def test_arrays_belong_to_the_consumer(con):
    stream = make(con, batch_size=1000)
    (first, _), (second, _) = (next(stream.batches()) for _ in range(2))
    before = first.input_ids.copy(), first.labels.copy()
    for array in (first.input_ids, first.attention_mask, first.labels):
        assert array.flags.owndata
        assert array.flags.writeable
        assert not any(np.shares_memory(array, other) for other in (second.input_ids, second.attention_mask, second.labels))
        array[:] = -1
    assert np.array_equal(second.input_ids, before[0])
    assert np.array_equal(second.labels, before[1])
    assert same(second, next(stream.batches())[0])


def test_the_stream_outlives_the_connection(tmp_path):
    with write(tmp_path, ROWS) as connection:
        stream = make(connection)
    assert sorted(ids_of(stream.batches(epochs=1))) == sorted(row[2] for row in EXPECTED)


def test_an_unknown_mask_is_refused_with_the_known_ones(con):
    with pytest.raises(ValueError, match=r"no mask nix .*all \(full\), mask \(mine\)"):
        make(con, "nix")


def test_a_mask_without_sequences_is_refused(con):
    with pytest.raises(ValueError, match="no sequences"):
        make(con, "none")


def weighted(path, weight):
    """Give the mask soft weights by an expression of `keep`."""
    with duckdb.connect(str(path / DATABASE)) as writer:
        writer.execute(filled(f"UPDATE record.mask_values SET weight = {weight} WHERE mask_id = 'mask'"))


def test_soft_weights_come_with_the_kept_tokens_and_no_other(tmp_path):
    write(tmp_path, ROWS).close()
    weighted(tmp_path, "list_transform(keep, lambda kept, i: CASE WHEN kept THEN 1 / (i + 1) ELSE 0.25 END)")  # 0.25: not kept, so nothing
    rows = {row[2]: row for row in ROWS}
    with duckdb.connect(str(tmp_path / DATABASE), read_only=True) as connection:
        stream = make(connection)
        assert (stream.has_weights, make(connection, "all").has_weights) == (True, False)
        for folder in (None, tmp_path, tmp_path):  # in memory, written beside the release, mapped
            for batch, _ in make(connection, release_folder=folder).batches(epochs=1):
                assert batch.weights.dtype == np.float32
                assert batch.weights.shape == batch.labels.shape
                for row, sequence_id in enumerate(short(batch.sequence_ids)):
                    _, _, _, ids, positions, keep, _ = rows[sequence_id]
                    expected = {p: np.float32(1 / (i + 2)) for i, (p, kept) in enumerate(zip(positions, keep, strict=True)) if kept}
                    assert batch.weights[row].tolist() == [expected.get(p, 0.0) for p in range(batch.labels.shape[1])], ids
                assert set(batch.tensors()) == {"input_ids", "attention_mask", "labels", "num_supervised", "weights"}
        assert all("weights" not in batch.tensors() for batch, _ in make(connection, "all").batches(epochs=1))


@pytest.mark.parametrize(
    "weight", ["[1.0]", "list_transform(keep, lambda kept: -1)", "list_transform(keep, lambda kept: 'nan'::FLOAT)", "CASE WHEN sequence_id = 'id:s7-sft' THEN NULL ELSE list_transform(keep, lambda kept: 1) END"]
)  # fmt: skip
def test_weights_that_do_not_fit_the_flags_are_refused(tmp_path, weight):
    write(tmp_path, ROWS).close()
    weighted(tmp_path, weight)
    with (
        duckdb.connect(str(tmp_path / DATABASE), read_only=True) as connection,
        pytest.raises(ValueError, match="soft weights that do not fit"),
    ):
        make(connection)


def test_a_mask_that_leaves_a_sequence_undecided_is_refused(tmp_path):
    with write(tmp_path, ROWS, drop_flags_of="s7-sft") as connection:
        undecided = rf"{full('s7-sft')} \(example {full('e07')}, sft\)"
        with pytest.raises(ValueError, match=rf"mask mask does not decide on 1 sequences.*{undecided}"):
            make(connection)
        make(connection, "all")


@pytest.mark.parametrize("keep", [[], [True, None], [True, False, True]])
def test_flags_that_do_not_fit_the_response_are_refused(tmp_path, keep):
    with write(tmp_path, [("e", "sft", "s", [5, 6, 7], [1, 2], keep, 1)]) as connection, pytest.raises(ValueError, match="response tokens"):
        make(connection)


@pytest.mark.parametrize("arguments", [{"batch_size": 0}, {"rank": 2, "world_size": 2}, {"rank": -1}, {"seed": -1}, {"seed": 2**64}])
def test_numbers_out_of_range_are_refused(con, arguments):
    with pytest.raises(ValueError, match="stream: "):
        make(con, **arguments)


@pytest.mark.parametrize("cursor", [Cursor(-1, 0), Cursor(0, -1), Cursor(0, 1000)])
def test_a_cursor_outside_of_an_epoch_is_refused(con, cursor):
    with pytest.raises(ValueError, match="no place in this stream"):
        next(make(con).batches(cursor))


# ---- token budgets, sources


@pytest.mark.parametrize(
    "settings", [{"batch_tokens": 24}, {"batch_tokens": 24, "bucket_window": 8}, {"batch_size": 3, "bucket_window": 8}]
)
@pytest.mark.parametrize("world_size", [1, 3])
def test_budgets_and_buckets_deliver_every_sequence_and_resume_at_every_cursor(con, settings, world_size):
    def stream(rank):
        return MaskedStream(con, "mask", seed=7, rank=rank, world_size=world_size, **settings)

    ranks = [list(stream(rank).batches(epochs=2)) for rank in range(world_size)]
    num_first = stream(0).num_batches_in(0)
    for epoch, steps in ((0, slice(0, num_first)), (1, slice(num_first, None))):
        delivered = [batches[steps] for batches in ranks]
        assert {len(batches) for batches in delivered} == {stream(0).num_batches_in(epoch)}
        assert sorted(name for batches in delivered for name in ids_of(batches)) == sorted(row[2] for row in EXPECTED)
        supervised = sum(batch.num_supervised for batches in delivered for batch, _ in batches)
        assert supervised == stream(0).num_supervised_tokens == stream(0).supervised_tokens_in(epoch)
    if "batch_tokens" in settings:
        assert all(batch.input_ids.size <= 24 for batches in ranks for batch, _ in batches)
    resumed = stream(0)
    for number, (_, cursor) in enumerate(ranks[0][:-1], start=1):
        batch, after = next(resumed.batches(cursor))
        assert same(batch, ranks[0][number][0])
        assert after == ranks[0][number][1]


def test_a_stream_of_budgets_has_no_one_number_of_batches(con):
    with pytest.raises(ValueError, match="num_batches_in"):
        _ = MaskedStream(con, "mask", seed=0, batch_tokens=20).num_batches


def test_weights_go_by_the_sources_of_the_examples_and_supervised_tokens_follow(con):
    stream = MaskedStream(con, "mask", seed=3, batch_size=4, source_weights={None: 0, "books": 1, "code": 3})
    source = {row[2]: source_of(row[0]) for row in ROWS if row[0] != "e99"}
    for epoch in range(3):
        batches = list(stream.batches(Cursor(epoch, 0), epochs=epoch + 1))
        sources = [source[name] for name in ids_of(batches)]
        assert len(sources) == len(EXPECTED)
        assert None not in sources
        assert abs(sources.count("code") - 0.75 * len(EXPECTED)) < 1
        assert stream.supervised_tokens_in(epoch) == sum(batch.num_supervised for batch, _ in batches)


def test_streams_with_equal_places_have_equal_identities_and_others_have_others(con):
    made = [
        make(con), make(con, seed=8), make(con, batch_size=6), make(con, "all"), make(con, world_size=2), make(con, bucket_window=4),
        make(con, source_weights={None: 1, "books": 1, "code": 1}), MaskedStream(con, "mask", seed=7, batch_tokens=5),
    ]  # fmt: skip
    assert len({stream.identity for stream in made}) == len(made)
    assert make(con, rank=1, world_size=2).identity == make(con, world_size=2).identity


# ---- the flat copy beside a release


@pytest.fixture
def released(tmp_path):
    """A warehouse with one release."""
    folder = tmp_path / "warehouse"
    write(folder, ROWS).close()
    with Warehouse(folder) as warehouse:
        warehouse.con.execute("INSERT INTO record.pointers VALUES ('mask:mine', 'mask'), ('mask:full', 'all')")
    release, _ = write_release(folder, 1)
    return folder, release


def opened_stream(folder, policy="mine"):
    return open_stream(folder, policy, seed=7, batch_size=5)


def test_the_copy_is_made_once_and_gives_the_same_batches(released, con, monkeypatch):
    folder, release = released
    in_memory = make(con)
    expected = list(in_memory.batches(epochs=2))
    first = list(opened_stream(folder).batches(epochs=2))
    assert sorted(path.name for path in (release.folder / "streams").iterdir()) == [".lock", "mask"]
    monkeypatch.setattr("warehouse.sequences._read", lambda *_: pytest.fail("read again"))
    second = list(opened_stream(folder).batches(epochs=2))
    for (batch, cursor), (one, at_one), (two, at_two) in zip(expected, first, second, strict=True):
        assert same(batch, one)
        assert same(batch, two)
        assert cursor == at_one == at_two
        assert two.input_ids.flags.writeable
    assert opened_stream(folder).num_supervised_tokens == in_memory.num_supervised_tokens


@pytest.mark.parametrize("name", ["keep.npy", "sequence_ids.arrow", "manifest.json"])
def test_a_damaged_copy_is_made_again(released, name):
    folder, release = released
    before = list(opened_stream(folder).batches(epochs=1))
    file = release.folder / "streams" / "mask" / name
    if name == "manifest.json":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:-1])
    (release.folder / "streams" / ".mask.partial").mkdir()  # of a process killed on its way
    for (one, _), (other, _) in zip(before, opened_stream(folder).batches(epochs=1), strict=True):
        assert same(one, other)
    assert sorted(path.name for path in (release.folder / "streams").iterdir()) == [".lock", "mask"]


def test_where_no_copy_can_be_kept_the_stream_lives_in_memory_and_says_so(released, con, told):
    folder, release = released
    (release.folder / "streams").write_text("a file is in the way")
    for (one, _), (other, _) in zip(make(con).batches(epochs=1), opened_stream(folder).batches(epochs=1), strict=True):
        assert same(one, other)
    assert "this stream lives in memory" in told.text


def test_masks_are_found_by_policy_and_an_unknown_one_is_refused(released):
    folder, _ = released
    assert opened_stream(folder, "full").num_supervised_tokens > opened_stream(folder, "mine").num_supervised_tokens
    with pytest.raises(ValueError, match="no mask of policy 'nix'; it has full, mine; run `alphatoken mask"):
        opened_stream(folder, "nix")


def test_a_pruned_release_does_not_take_a_running_stream_with_it(released):
    folder, release = released
    batches = opened_stream(folder).batches(epochs=1)
    rest_of_another = list(opened_stream(folder).batches(epochs=1))
    next(batches)
    with Warehouse(folder) as warehouse:
        warehouse.con.execute("INSERT INTO record.pointers VALUES ('mask:more', 'mask')")
    write_release(folder, 1)
    assert not release.folder.exists()
    for (one, _), (other, _) in zip(batches, rest_of_another[1:], strict=True):
        assert same(one, other)
