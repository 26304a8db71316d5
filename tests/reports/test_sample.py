"""Laws of reports/sample.py: what a page embeds is what the warehouse holds, for examples that follow from their ids alone."""

import numpy as np
import polars as pl
import pytest

from reports import sample as module
from reports.sample import sample
from tests.reports import pages
from tests.reports.test_packing import unpack
from tests.warehouse.ids import full, short
from warehouse.read import Reader

COLUMNS = ["adapt_direct", "stab_causal", "loss", "ref_loss", "margin"]


@pytest.fixture(scope="module")
def reader(pairs):
    with Reader(pairs) as reader:
        yield reader


def read(reader, num_examples=1000):
    return sample(reader, num_examples, COLUMNS, reader.frame("report/masks"))


def rows(packed):
    """A row per response token, as the page would show them."""
    sequences, values = packed["sequences"], packed["values"]
    is_response, tokens = unpack(packed["is_response"]), unpack(packed["tokens"])
    decoded = {}
    for name, one in values.items():
        codes = unpack(one["codes"])
        decoded[name] = [None if code == -32768 else one["unit"] * np.sinh(one["step"] * code) for code in codes.astype(int)]
    keeps = {policy: unpack(one) for policy, one in packed["keeps"].items()}
    found, token, response = [], 0, 0
    lists = (unpack(sequences[name]) for name in ("example", "branch", "num_tokens", "first_position"))
    for example, branch, num_tokens, first in zip(*lists, strict=True):
        for place in range(num_tokens):
            if is_response[token]:
                found.append({
                    "example_id": packed["examples"]["id"][example], "branch": sequences["branch_names"][branch], "position": int(first) + place,
                    "token": packed["vocabulary"][tokens[token]], "token_id": packed["token_ids"][tokens[token]],
                    **{name: decoded[name][response] for name in COLUMNS}, **{policy: bool(kept[response]) for policy, kept in keeps.items()},
                })  # fmt: skip
                response += 1
            token += 1
    assert (token, response) == (len(tokens), len(next(iter(decoded.values()))))
    return pl.DataFrame(found, infer_schema_length=None).sort("example_id", "branch", "position")


def test_every_token_has_the_values_and_decisions_of_the_views(reader):
    found = rows(read(reader))
    expected = reader.sql(f"""
        SELECT example_id, branch, position, token, token_id, {", ".join(COLUMNS)},
            (SELECT keep FROM token_masks AS m WHERE policy = 'default' AND m.sequence_id = v.sequence_id AND m.position = v.position) AS "default",
            (SELECT keep FROM token_masks AS m WHERE policy = 'full' AND m.sequence_id = v.sequence_id AND m.position = v.position) AS "full"
        FROM token_values AS v ORDER BY example_id, branch, position""")
    exact = ["example_id", "branch", "position", "token", "token_id", "default", "full"]
    assert found.select(exact).rows() == expected.select(exact).rows()
    assert found["token"].null_count() > 0  # ids outside the vocabulary
    for name in COLUMNS:
        assert found[name].is_null().to_list() == expected[name].is_null().to_list()
        known = expected[name].drop_nulls().to_numpy().astype(float)
        assert np.allclose(found[name].drop_nulls().to_numpy().astype(float), known, rtol=0.0051, atol=1e-4)
    assert found["adapt_direct"].null_count() == 2
    assert found["margin"].null_count() == len(found)


def test_examples_have_their_source_file_line_and_multiplicity(reader):
    examples = read(reader)["examples"]
    told = {
        id_: (examples["source_names"][source], examples["file_names"][file], line, multiplicity)
        for id_, source, file, line, multiplicity in zip(
            examples["id"], unpack(examples["source"]), unpack(examples["file"]), unpack(examples["line"]), unpack(examples["multiplicity"]), strict=True
        )
    }  # fmt: skip
    assert short(told) == {f"e{n:02d}": (["web", "code", None][n % 3], "pairs.jsonl", n + 1, 1 + n % 2) for n in range(pages.NUM_EXAMPLES)}


def test_a_larger_sample_begins_with_the_smaller_one_and_both_branches_come_along(reader):
    small, large = read(reader, 7), read(reader, 20)
    assert len(small["examples"]["id"]) == 7
    assert large["examples"]["id"][:7] == small["examples"]["id"] != sorted(small["examples"]["id"])
    assert rows(small).group_by("example_id").agg(pl.col("branch").n_unique())["branch"].to_list() == [2] * 7


def test_an_appended_example_moves_no_other(reader, tmp_path):
    with Reader(pages.make(tmp_path / "wh", num_examples=pages.NUM_EXAMPLES - 1)) as fewer:
        before = read(fewer)["examples"]["id"]
    assert before == [id_ for id_ in read(reader)["examples"]["id"] if id_ != full(f"e{pages.NUM_EXAMPLES - 1}")]


def test_of_a_long_prompt_the_end_is_embedded_and_positions_stay(reader, monkeypatch):
    whole = rows(read(reader))
    monkeypatch.setattr(module, "MAX_PROMPT_TOKENS", 2)
    cut = read(reader)
    assert rows(cut).rows() == whole.rows()
    assert set(unpack(cut["sequences"]["first_position"])) == {len(pages.PROMPT) - 2}
    assert len(unpack(cut["tokens"])) == len(whole) + 2 * 2 * pages.NUM_EXAMPLES


def test_tokens_are_numbered_by_how_often_they_occur(reader):
    numbers = unpack(read(reader)["tokens"])
    counts = np.bincount(numbers)
    assert list(counts) == sorted(counts, reverse=True)


def test_pairs_carry_their_margin_and_weight_and_single_responses_none(reader, tmp_path):
    packed = sample(reader, 5, ["loss"], reader.frame("report/masks"))["examples"]
    assert (packed["margin"], packed["weight"]) == ([0.0] * 5, [1.0] * 5)  # β = 2, and the same losses under both models
    with Reader(pages.make(tmp_path / "wh", branches=("sft",), num_examples=3)) as single:
        assert "margin" not in sample(single, 3, ["loss"], single.frame("report/masks"))["examples"]
