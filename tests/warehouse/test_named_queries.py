"""Laws of warehouse/named_queries.py and sql/queries: each query on a small written-out warehouse with rows counted by hand."""

import json
import re
from pathlib import Path

import pytest

import warehouse as package
from tests.warehouse import written
from tests.warehouse.ids import short
from warehouse import named_queries
from warehouse.connect import Warehouse
from warehouse.release import write_release

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return written.make(tmp_path_factory.mktemp("named") / "wh")


@pytest.fixture
def reader(folder):
    with package.open(folder) as opened:
        yield opened


EXPECTED = {
    "kept_by_source": [
        ({}, [("a", 2, 6, 4, 4 / 6, 4 / 5), (None, 1, 4, 1, 1 / 4, 1 / 5)]),
        ({"policy": "random"}, [(None, 1, 4, 2, 2 / 4, 2 / 4), ("a", 2, 6, 2, 2 / 6, 2 / 4)]),
        ({"branch": "rejected"}, []),
    ],
    "kept_by_token_class": [
        (
            {},
            [
                ("letters", 3, 1, 1 / 3), ("digits", 2, 2, 1.0), ("special", 2, 2, 1.0),
                ("mixed", 1, 0, 0.0), ("punctuation", 1, 0, 0.0), ("white space", 1, 0, 0.0),
            ],
        ),
    ],
    "kept_by_position_decile": [({}, [(1, 3, 2, 2 / 3), (3, 2, 0, 0.0), (6, 3, 1, 1 / 3), (8, 2, 2, 1.0)])],
    "value_by_position_decile": [
        (
            {},
            [
                (1, 3, 0.0, 1.0, -1 / 3, 0.0, 4 / 3, 7 / 3, 0.5), (3, 2, -1.5, 0.0, 0.0, 0.0, 1.5, 2.5, 0.5),
                (6, 3, 3.0, 1 / 6, 1.0, 0.0, 2.0, 3.0, 0.5), (8, 2, 3.0, 0.0, 0.5, 0.0, 0.5, 1.5, 0.5),
            ],
        ),
    ],
    "value_by_source": [
        ({}, [("a", 2, 6, 6 / 5, 3.5 / 6, 4 / 6, 0.0, 10 / 6, 16 / 6, 4 / 5), (None, 1, 4, 3 / 4, 0.0, -1 / 4, 0.0, 1.0, 2.0, 2 / 4)]),
    ],
    "top_tokens": [
        ({"min_count": 1, "limit": 3}, [("<|im_end|>", 9, 1, 4.0, 0.0), ("a1", 7, 1, 3.0, 0.0), (" 12", 2, 2, 2.0, 1.0)]),
        ({"min_count": "2"}, [(" 12", 2, 2, 2.0, 1.0), (" cat", 1, 2, -0.5, 1.5)]),
        ({"min_count": 1, "limit": 1, "column": "ref_loss"}, [("\n", 4, 1, 4.0, 0.0)]),
        ({}, []),
    ],
    "bottom_tokens": [
        ({"min_count": 1, "limit": 3}, [("it's", 6, 1, -2.0, 0.0), (".", 3, 1, -1.0, 0.0), (" cat", 1, 2, -0.5, 1.5)]),
    ],
    "nothing_kept": [
        ({}, [("e2", "sft", None, 4, 1, "two")]),
        ({"policy": "random"}, [("e3", "sft", "a", 2, 0, "three")]),
        ({"limit": 0}, []),
    ],
    "end_of_turn_value": [
        ({}, [(True, 2, 1.0, 3.0, 0.0, 0.5, 0.0, 0.5, 1.5, 0.5), (False, 8, 4 / 7, 3 / 7, 3.5 / 8, 2 / 8, 0.0, 13 / 8, 21 / 8, 0.5)]),
    ],
    "mask_overlap": [
        ({}, [(10, 2, 3, 2, 3, 2 / 7, 2 / 7)]),
        ({"policy_other": "default"}, [(10, 5, 0, 0, 5, 1.0, 2.5 / 7.5)]),
    ],
    "scoring_drift": [
        (
            {},
            [
                ("adapt_direct", 3, 33 / 42, 0.5, 2 / 3, 4 / 3, 0.0),
                ("adapt_causal", 4, -0.5625 / (1.1875 * 0.6875) ** 0.5, -1 / 3, 0.5, 1.5 / 4, 1 / 4),
                ("stab_direct", 4, None, None, 0.0, 1.0, 0.0), ("stab_causal", 4, None, None, 0.0, 0.0, 0.0),
                ("loss", 4, 1.0, 1.0, 0.0, 1.5, 0.0), ("ref_loss", 4, 1.0, 1.0, 0.0, 2.5, 0.0), ("entropy", 4, None, None, 0.0, 0.5, 0.0),
            ],
        ),
    ],
    "corrupted_spans": [
        (
            {"window": 3, "share": 0.5, "min_tokens": 2},
            [("e3", "sft", "a", 1, 2, 2, 1 / 9, " cat 12"), ("e1", "sft", "a", 3, 5, 3, 2 / 27, ".\n</s>")],
        ),
        (
            {"window": 1, "share": 0.3, "min_tokens": 1},
            [("e3", "sft", "a", 2, 2, 1, 5 / 9, " 12"), ("e1", "sft", "a", 4, 4, 1, 3 / 9, "\n"), ("e2", "sft", None, 2, 2, 1, 1 / 9, "it's")],
        ),
        ({}, []),
    ],
    "stability_against_adaptation": [
        (
            {},
            [
                ("+", "+", 4, 0.4, 0.75, 9 / 4, 1.0), ("-", "-", 2, 0.2, 0.0, -2.0, -1.0), ("+", "-", 1, 0.1, 1.0, 3.0, -1.0),
                ("+", "0", 1, 0.1, 1.0, 4.0, 0.0), ("0", "+", 1, 0.1, 0.0, 0.0, 1.0), (None, "+", 1, 0.1, 0.0, None, 1.0),
            ],
        ),
    ],
    "margins_by_source": [({}, [])],  # there are no pairs; those of tests/flows/test_preferences.py have some
    "duplicates": [({}, [("e1", "a", 3, 3 / 6, "f", 1, '{"prompt": "one"}')]), ({"min_multiplicity": 4}, [])],
}  # fmt: skip
"""Query to (parameters, rows) each."""


def near(rows):
    return [tuple(pytest.approx(v, abs=1e-12) if isinstance(v, float) else v for v in row) for row in rows]


@pytest.mark.parametrize(("name", "given", "rows"), [(name, given, rows) for name, cases in EXPECTED.items() for given, rows in cases])
def test_rows_are_those_counted_by_hand(reader, name, given, rows):
    assert short(reader.named(name, **given).rows()) == near(rows)


def test_run_costs_tell_rates_and_leave_out_what_a_run_did_not_do(reader):
    rows = reader.named("run_costs").drop("started_at").rows()
    assert rows == [("run2", "mask", "running", *[None] * 8), ("run1", "value_tokens", "completed", 40.0, 3, 4, 3, 14, 10.0, 1.4, 0.25)]
    assert reader.named("run_costs", limit=1)["run_id"].to_list() == ["run2"]


OTHERWISE_TESTED = {"run_costs", "lineage", "rounds"}
"""The latter in test_explain.py."""


def test_every_query_has_expected_rows_and_a_whole_header():
    names = named_queries.names()
    assert len(names) >= 12
    assert set(names) == EXPECTED.keys() | OTHERWISE_TESTED
    for name in names:
        query = named_queries.load(name)
        assert query.purpose, name
        assert query.grain.startswith("one row"), name
        assert set(re.findall(r"\$([a-z_]+)", re.sub(r"^--.*$", "", query.sql, flags=re.MULTILINE))) == query.parameters.keys(), name


def test_the_readme_lists_exactly_the_named_queries():
    section = (ROOT / "README.md").read_text(encoding="utf-8").split("### Named queries\n")[1].split("\n## ")[0]
    listed = re.findall(r"^\| (.+?) \|", section, flags=re.MULTILINE)
    assert sorted(name for cell in listed for name in re.findall(r"`(\w+)`", cell)) == named_queries.names()


def test_queries_read_only_what_is_current_or_asked_for(reader):
    assert reader.named("scoring_drift", scoring_before="o", scoring_after="old")["mean_change"].to_list() == [0.0] * 7
    same = reader.named("scoring_drift", scoring_before="new", scoring_after="current")
    assert same["num_tokens"].to_list() == [9] + [10] * 6


def test_the_scoring_of_the_validation_set_is_no_earlier_state_of_the_training_data(tmp_path, reader):
    settings = json.dumps({"held_out_of": "new"})
    folder = written.make(tmp_path / "wh")
    with Warehouse(folder) as warehouse:
        warehouse.con.execute(
            "INSERT INTO record.scorings VALUES ('held', 'tok', 'H', 'S', 'G', 'R', ?, 'run1', TIMESTAMP '2026-03-01')", [settings]
        )
        warehouse.con.execute("INSERT INTO record.pointers VALUES ('held_out', 'held')")
    write_release(folder, 1)
    with package.open(folder) as beside:
        assert beside.named("scoring_drift").rows() == reader.named("scoring_drift").rows() != []


@pytest.mark.parametrize(
    ("name", "given", "says"),
    [
        ("lineage", {}, r"'lineage' needs example_id; it takes: example_id \(the example, whole\)"),
        ("tops", {}, "there is no query 'tops'; there are: bottom_tokens, "),
        ("../views/masks", {}, "there is no query"),
        ("kept_by_source", {"polcy": "x"}, r"'kept_by_source' does not know polcy; it takes: policy \(whose mask\), branch "),
        ("duplicates", {"a": 1}, "does not know a; it takes: min_multiplicity"),
        ("value_by_source", {"branch": "choosen"}, "there is no branch 'choosen'; there are: all, sft, chosen, rejected"),
        ("kept_by_source", {"policy": "nix"}, "no current mask of the policy 'nix'; there are: default, random$"),
        ("mask_overlap", {"policy_other": "outdated"}, "no current mask of the policy 'outdated'"),
        ("scoring_drift", {"scoring_after": "zzz"}, r"no scorings fit 'zzz'; the warehouse has, newest first: new \(current\), old"),
        ("scoring_drift", {"scoring_after": ""}, "2 scorings fit ''"),
        ("top_tokens", {"column": "lossy"}, "top_tokens.*column=lossy.*there is no column of values lossy"),
        ("bottom_tokens", {"end": "middle", "min_count": 1}, "bottom_tokens.*there is no end middle, only highest and lowest"),
        ("top_tokens", {"limit": "many"}, "top_tokens.*limit=many.*Could not convert string 'many'"),
    ],
)
def test_wrong_names_and_parameters_are_told_with_what_there_is(reader, name, given, says):
    with pytest.raises(ValueError, match=says):
        reader.named(name, **given)
