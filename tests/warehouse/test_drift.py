"""Laws of the query scoring_drift: what it tells of two scorings is what plain Python computes of the values that both have."""

import numpy as np
import pytest

from tests.warehouse.ids import full, short
from warehouse.connect import Warehouse
from warehouse.read import Reader
from warehouse.release import write_release

NAMES = [f"s{i}" for i in range(8)]
ONLY_EARLIER = ["s8", "s9"]
SCORINGS = {"one": ("A1", "S", "G1", "R"), "two": ("A2", "S", "G2", "R")}
"""Both share the values towards stability and of the reference."""


def lists(generator, names):
    """Values of few bits, so that each has a key of its own, with a NULL here and there."""
    drawn = {name: (generator.integers(-30, 30, generator.integers(1, 6)) / 8).tolist() for name in names}
    return {name: [None if generator.random() < 0.1 else x for x in values] for name, values in drawn.items()}


def like(generator, values):
    return {name: [float(x) for x in generator.integers(1, 40, len(one)) / 8] for name, one in values.items()}


@pytest.fixture(scope="module", params=["sft", "pairs"])
def world(request, tmp_path_factory):
    """A released warehouse, and its values: of the column and the scoring, name of the sequence to its list."""
    folder, generator = tmp_path_factory.mktemp("drift") / "wh", np.random.Generator(np.random.Philox(1))
    every = [*NAMES, *ONLY_EARLIER]
    base = lists(generator, every)
    stored = {"S": (like(generator, base), like(generator, base)), "R": (like(generator, base),)}
    for number, names in (("1", every), ("2", NAMES)):
        of_these = {name: base[name] for name in names}
        stored[f"A{number}"] = (of_these if number == "1" else like(generator, of_these), like(generator, of_these))
        stored[f"G{number}"] = (like(generator, of_these),)
    with Warehouse(folder) as warehouse, warehouse.transaction():
        con = warehouse.con
        for values_id, columns in stored.items():
            for name in columns[0]:
                if values_id[0] in "AS":
                    con.execute(
                        "INSERT INTO record.direction_values VALUES (?, ?, ?, ?, 0)", [values_id, full(name), *(c[name] for c in columns)]
                    )
                else:
                    con.execute(
                        "INSERT INTO record.signal_values (signals_id, sequence_id, loss) VALUES (?, ?, ?)",
                        [values_id, full(name), columns[0][name]],
                    )
        for scoring_id, ids in SCORINGS.items():
            con.execute("INSERT INTO record.scorings VALUES (?, ?, ?, ?, ?, ?, '{}', 'run', now())", [scoring_id, f"tok{scoring_id}", *ids])
            for number, name in enumerate(every if scoring_id == "one" else NAMES):
                branch = "sft" if request.param == "sft" else ("chosen", "rejected")[number % 2]
                links = [(f"e{number // 2 if branch != 'sft' else number}", name)]
                links += [("e9", name)] if number < 2 else []  # an example that shares its sequences with the first
                for example, sequence in links:
                    con.execute(
                        "INSERT INTO record.example_sequences VALUES (?, ?, ?, ?, 0, 0, NULL, NULL)",
                        [f"tok{scoring_id}", full(example), branch, full(sequence)],
                    )
        con.execute("INSERT INTO record.pointers VALUES ('scoring', 'two'), ('beta', '0.5')")
        weights = short(con.execute("SELECT scoring_id, record.hex_id(example_id), weight FROM record.pairs_all").fetchall())
    assert len({weight for _, _, weight in weights}) == (8 if request.param == "pairs" else 0), "the weights differ"
    write_release(folder, 1)
    with Reader(folder) as reader:
        yield reader, stored, {(scoring, example): weight for scoring, example, weight in weights}


def moved(world, column):
    """The values of both scorings that `column` tells of, as float32."""
    _, stored, weights = world
    group, place = {
        "adapt_direct": (0, 0),
        "adapt_causal": (0, 1),
        "stab_direct": (1, 0),
        "stab_causal": (1, 1),
        "loss": (2, 0),
        "ref_loss": (3, 0),
    }[column]
    pairs = []
    for number, name in enumerate(NAMES):
        one, two = (stored[SCORINGS[scoring][group]][place][name] for scoring in ("one", "two"))
        for x, y in zip(one, two, strict=True):
            if x is not None and y is not None:
                weight = [weights.get((s, f"e{number // 2}"), 1) if group < 2 else 1 for s in ("one", "two")]
                pairs.append((np.float32(weight[0] * x), np.float32(weight[1] * y)))
    return np.array(pairs, np.float64).T


def middle_ranks(values):
    return [(values < x).sum() + (values <= x).sum() for x in values]


@pytest.mark.parametrize("column", ["adapt_direct", "adapt_causal", "stab_direct", "stab_causal", "loss", "ref_loss"])
def test_the_query_tells_what_plain_python_computes(world, column):
    found = {row["column"]: row for row in world[0].named("scoring_drift", scoring_before="one", scoring_after="two").rows(named=True)}
    assert set(found) == {"adapt_direct", "adapt_causal", "stab_direct", "stab_causal", "loss", "ref_loss"}
    old, new = moved(world, column)
    row = found[column]
    assert row["num_tokens"] == len(old) > 15
    assert row["pearson"] == pytest.approx(np.corrcoef(old, new)[0, 1], abs=1e-9)
    assert row["spearman"] == pytest.approx(np.corrcoef(middle_ranks(old), middle_ranks(new))[0, 1], abs=1e-9)
    assert row["mean_change"] == pytest.approx(np.abs(new - old).mean(), rel=1e-6)
    assert row["mean_size"] == pytest.approx(np.abs(old).mean(), rel=1e-6)
    assert row["changed_sign_share"] == pytest.approx((np.sign(old) != np.sign(new)).mean())


def test_of_many_sequences_those_with_the_lowest_ids_are_compared(world):
    found = world[0].named("scoring_drift", scoring_before="one", scoring_after="two", max_sequences=3)
    losses = world[1]["G1"][0]
    expected = sum(x is not None for name in NAMES[:3] for x in losses[name])
    assert found.filter(column="loss")["num_tokens"].to_list() == [expected]


def test_values_that_are_all_but_equal_have_no_correlation_of_ranks(tmp_path):
    with Warehouse(tmp_path / "wh") as warehouse, warehouse.transaction():
        for values_id in ("A", "S"):
            near = [10 + i / 65536 for i in range(20)]
            warehouse.con.execute("INSERT INTO record.direction_values VALUES (?, ?, ?, ?, 0)", [values_id, full("s"), near, near])
        for signals_id in ("G", "R"):
            warehouse.con.execute(
                "INSERT INTO record.signal_values (signals_id, sequence_id, loss) VALUES (?, ?, ?)", [signals_id, full("s"), near]
            )
        warehouse.con.execute("INSERT INTO record.scorings VALUES ('one', 'tok', 'A', 'S', 'G', 'R', '{}', 'run', now())")
        warehouse.con.execute("INSERT INTO record.pointers VALUES ('scoring', 'one')")
    write_release(tmp_path / "wh", 1)
    with Reader(tmp_path / "wh") as reader:
        found = reader.named("scoring_drift", scoring_before="one", scoring_after="one")
    assert found["pearson"].to_list() == pytest.approx([1.0] * 6)
    assert found["spearman"].to_list() == [None] * 6
