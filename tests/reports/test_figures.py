"""Laws of reports/figures.py: pictures count every token once, in the bin that its value belongs to; kept ones by the mask."""

import numpy as np
import pytest

from reports.figures import NUM_BINS, figures
from tests.reports import pages
from tests.warehouse import written
from tests.warehouse.ids import full
from warehouse.read import Reader


@pytest.fixture(scope="module")
def reader(pairs):
    with Reader(pairs) as reader:
        yield reader


@pytest.fixture(scope="module")
def content(reader):
    return figures(reader)


def test_a_histogram_counts_every_value_in_its_bin_and_the_kept_ones(reader, content):
    for column in content["columns"]:
        name = column["name"]
        rows = reader.sql(
            f'SELECT v."{name}" AS value, m.keep FROM token_values AS v JOIN token_masks AS m USING (sequence_id, position) '
            f"WHERE m.policy = 'default' AND v.\"{name}\" IS NOT NULL"
        )
        values, keep = rows["value"].to_numpy().astype(float), rows["keep"].to_numpy()
        edges = [np.sign(bound) * np.sqrt(abs(bound)) for bound in (column["low"], column["high"])]
        bins = (
            np
            .floor((np.sign(values) * np.sqrt(np.abs(values)) - edges[0]) / (edges[1] - edges[0]) * NUM_BINS)
            .clip(0, NUM_BINS - 1)
            .astype(int)
        )
        told = next(policy for policy in content["policies"] if policy["policy"] == "default")["histograms"][name]
        assert told["num_tokens"] == np.bincount(bins, minlength=NUM_BINS).tolist() == content["histograms"][name]["num_tokens"]
        assert told["num_kept"] == np.bincount(bins[keep], minlength=NUM_BINS).tolist()
        assert told["num_outside"] == int(((values < column["low"]) | (values > column["high"])).sum())
        assert content["histograms"][name]["num_kept"] == [0] * NUM_BINS
        assert column["num_values"] == len(values)


def test_the_range_holds_98_percent_of_the_sizes_and_0(reader, content):
    assert [column["name"] for column in content["columns"]] == [
        "adapt_direct",
        "adapt_causal",
        "stab_direct",
        "stab_causal",
        "loss",
        "ref_loss",
        "entropy",
    ]
    for column in content["columns"]:
        sizes = reader.sql(f'SELECT abs("{column["name"]}") AS size FROM token_values')["size"].drop_nulls().to_numpy()
        assert 0.975 <= (sizes <= column["high"]).mean() <= 1.0
        assert column["low"] == (-column["high"] if column["lowest"] < 0 else 0)
    assert content["columns"][0]["num_null"] == 2


def test_the_head_counts_what_has_values(content):
    head = content["head"]
    num_tokens = sum(len(pages.response(n, branch)) for n in range(pages.NUM_EXAMPLES) for branch in ("chosen", "rejected"))
    assert (head["num_examples"], head["num_sequences"], head["num_tokens"]) == (45, 90, num_tokens)
    assert (head["scoring_id"], head["scoring_model"], head["reference_model"], head["stability_is_zero"]) == (
        "new",
        "warm-up",
        "base",
        False,
    )
    assert head["warehouse_name"] == "wh"


def test_kept_shares_trainings_and_drift_are_there(content):
    default = next(policy for policy in content["policies"] if policy["policy"] == "default")
    assert {row["source"] for row in default["kept_by_source"]} == {"web", "code", None}
    assert sum(row["num_kept"] for row in default["kept_by_position_decile"]) == default["num_kept"]
    assert [row["policy"] for row in content["trainings"]] == ["default", "full", "default"]
    assert [row["on_current_mask"] for row in content["trainings"]] == [True, True, False]
    assert content["curves"]["metric"].count("target_loss") == 6
    assert content["drift"]["scoring_before"] == "old"
    assert {row["column"]: row["spearman"] for row in content["drift"]["rows"]}["loss"] == pytest.approx(1.0)


def test_values_of_one_sign_zeros_and_a_scoring_that_tells_nothing_can_be_pictured(tmp_path):
    with Reader(written.make(tmp_path / "wh")) as reader:
        columns = {column["name"]: column for column in figures(reader)["columns"]}
        assert (columns["stab_causal"]["low"], columns["stab_causal"]["high"]) == (0, 1)  # all are 0
        assert (columns["loss"]["low"], columns["loss"]["high"]) == (0, 3)
        assert figures(reader)["head"]["stability_is_zero"] is None


def test_without_a_policy_all_tokens_are_pictured(tmp_path):
    from warehouse.connect import Warehouse
    from warehouse.release import write_release

    folder = pages.make(tmp_path / "wh", num_examples=3)
    with Warehouse(folder) as warehouse, warehouse.transaction():
        warehouse.con.execute("DELETE FROM record.pointers WHERE name LIKE 'mask:%'").fetchall()
    write_release(folder, 2)
    with Reader(folder) as reader:
        content = figures(reader)
    assert content["policies"] == []
    bins = content["histograms"]["loss"]
    assert (sum(bins["num_tokens"]), bins["num_kept"]) == (content["head"]["num_tokens"], [0] * NUM_BINS)


@pytest.fixture(scope="module")
def told_apart(tmp_path_factory):
    """Pairs that the scoring model stands to differently: the reference's losses of chosen responses grow from pair to pair."""
    from warehouse.connect import Warehouse
    from warehouse.release import write_release

    folder = pages.make(tmp_path_factory.mktemp("apart") / "wh", num_examples=9)
    more = "UPDATE record.signal_values SET loss = list_transform(loss, lambda x: x + $more) "
    which = "WHERE signals_id = 'R' AND sequence_id = $id::UUID"
    with Warehouse(folder) as warehouse, warehouse.transaction():
        for number in range(9):
            warehouse.con.execute(more + which, {"more": number - 4, "id": full(f"e{number:02d}-chosen")}).fetchall()
        warehouse.point("beta", "0.01")
    write_release(folder, 2)
    with Reader(folder) as reader:
        yield reader


def test_every_pair_is_pictured_once_with_its_margin_and_weight(told_apart):
    pairs = figures(told_apart)["pairs"]
    view = told_apart.sql("SELECT margin, weight FROM pairs")
    assert view["margin"].n_unique() == 9
    for column, name in zip(pairs["columns"], ("margin", "weight"), strict=True):
        assert column["name"] == f"pair_{name}"
        assert column["mean"] == pytest.approx(view[name].mean(), rel=1e-5)
        assert (column["lowest"], column["highest"]) == (view[name].min(), view[name].max())
        bins = pairs["histograms"][column["name"]]
        assert sum(bins["num_tokens"]) == sum(bins["num_kept"]) == 9
    assert pairs["columns"][0]["positive_share"] == pytest.approx(4 / 9)
    assert (pairs["columns"][1]["low"], pairs["columns"][1]["high"]) == (0, 0.01)  # β
    right = sum(bins_of(pairs, "pair_margin")[NUM_BINS // 2 + 1 :])
    assert right == 4
    assert sum(row["num_pairs"] for row in pairs["margins_by_source"]) == 9


def bins_of(pairs, name):
    return pairs["histograms"][name]["num_tokens"]


def test_kept_shares_by_branch_are_those_of_the_masks(content, reader):
    default = next(policy for policy in content["policies"] if policy["policy"] == "default")
    expected = reader.sql(
        "SELECT branch, count(*), sum(keep::INTEGER) FROM token_masks WHERE policy = 'default' GROUP BY branch ORDER BY branch"
    ).rows()
    assert [(row["branch"], row["num_tokens"], row["num_kept"]) for row in default["kept_by_branch"]] == expected


def test_single_responses_have_no_part_of_pairs(tmp_path):
    with Reader(pages.make(tmp_path / "wh", branches=("sft",), num_examples=3)) as reader:
        assert figures(reader)["pairs"] is None
