"""Laws of bench/warehouse.py: every part runs at a tiny size, its masks are those of plain DuckDB, and the data are those that the seed says."""

import numpy as np
import pytest

from bench.warehouse import PARTS, POLICIES, main, measure, number
from bench.warehouse_case import HEADER, Bench, Case, row
from bench.warehouse_data import shards
from bench.warehouse_limits import _LIMITS, table
from bench.warehouse_raw import MASKS, QUERIES
from warehouse.named_queries import names

TOKENS = 20_000


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return measure(Bench(tmp_path_factory.mktemp("bench"), TOKENS, least_s=0), inside=True)


def test_every_part_measures_and_the_plain_masks_keep_as_many(found):  # bench_mask compares the counts itself
    assert {f"mask: {name}" for name in POLICIES} <= set(found)
    assert set(MASKS) <= set(POLICIES)
    assert set(QUERIES) <= set(names())
    for name, case in found.items():
        assert len(case.seconds) == len(case.cpu) >= 1, name
        assert min(case.seconds) > 0
        assert case.peak_bytes > 2**20
        assert row(name, case).count("|") == HEADER.splitlines()[0].count("|")
    for name in MASKS:
        assert len(found[f"mask: {name}"].raw_seconds) == 1
    assert "one table of everything" in found["query: top_tokens"].note


def test_short_cases_are_measured_more_often(tmp_path):
    def rounds(seconds, repeats, least_s=4.0):
        case = Case()
        for _ in Bench(tmp_path, TOKENS, repeats, least_s=least_s).rounds(case):
            case.seconds.append(seconds)
            case.raw_seconds.append(seconds)
        return len(case.seconds)

    assert [rounds(3, 1), rounds(1, 1), rounds(0.01, 1), rounds(1, 3), rounds(0.01, 12), rounds(0.01, 1, 0)] == [1, 2, 9, 3, 12, 1]


def test_limits_are_told_with_what_was_measured(found):
    small, whole = (table(found, size).splitlines()[2:] for size in (TOKENS, 20_000_000))
    assert all(line.startswith(("| ratio: ", "| most memory")) for line in small)  # the others are limits at 20 million tokens
    assert len(whole) == len(small) + len(_LIMITS)
    assert sum(case.raw_seconds != [] for case in found.values()) == len(small) - 1
    for line in whole:
        assert line.count("|") == 7
        assert line.split("|")[4].strip() in ("yes", "**no**")
    slow = {"release": Case([3.1], [1.0], peak_bytes=7 * 10**9)}
    assert table(slow, 20_000_000).splitlines()[2:] == [
        "| release, s | ≤ 3 | 3.1 | **no** | 1 | yes |", "| most memory, GB (release) | ≤ 6 | 7 | **no** | 7 | **no** |",
    ]  # fmt: skip


def test_the_data_have_the_tokens_that_are_asked_for_and_come_from_their_seed_alone():
    drawn, again, other = (list(shards(TOKENS, seed)) for seed in (0, 0, 1))
    assert TOKENS <= sum(shard.num_tokens for shard in drawn) < TOKENS + 2048
    assert [shard.values for shard in drawn] == [shard.values for shard in again]
    assert drawn[0].values != other[0].values
    for shard in drawn:
        lengths = np.array([len(positions) for positions in shard.sequences.column("response_positions").to_pylist()])
        assert lengths.min() >= 2
        for name in ("adapt_direct", "loss"):
            assert [len(values) for values in shard.values.column(name).to_pylist()] == lengths.tolist()
        assert [len(values) for values in shard.reference.column("loss").to_pylist()] == lengths.tolist()


def test_sizes_are_written_short_and_parts_are_known(capsys):
    assert [number(text) for text in ("20M", "200k", "1000", "0.5M")] == [20_000_000, 200_000, 1000, 500_000]
    with pytest.raises(SystemExit):
        main(["--only", "mask"])
    told = capsys.readouterr().err
    assert all(part in told for part in PARTS)
