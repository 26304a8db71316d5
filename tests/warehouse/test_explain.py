"""Laws of warehouse/explain.py and sql/explain: a story holds all that a release knows of a token, and wrong ids are told with the nearest."""

import pytest

import warehouse as package
from tests.warehouse import written
from tests.warehouse.ids import beginning, full
from warehouse.explain import explain


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return written.make(tmp_path_factory.mktemp("explain") / "wh")


@pytest.fixture
def reader(folder):
    with package.open(folder) as opened:
        yield opened


def test_one_join_leads_from_a_kept_token_to_configuration_models_validation_set_and_code(reader):
    rows = reader.named("lineage", example_id=full("e3")).filter(position=2, keep=True).rows(named=True)
    assert len(rows) == 1
    expected = {
        "token": " 12", "policy": "default", "mask_id": "m1", "snapshot_id": "snap", "mask_run_id": "run1", "scoring_id": "new",
        "estimator": "exact", "dtype": "float32", "reference_model": "base", "reference_digest": "r0", "scoring_model": "warm-up",
        "scoring_digest": "r1", "adapt_digest": "d1", "stab_digest": "d2", "validation_snapshot_id": "val", "num_validation_examples": 7,
        "made_on_snapshot_id": "before", "scoring_run_id": "run1", "scoring_flow": "value_tokens", "scoring_configuration": '{"data": 1}',
        "git_sha": "abc123", "alphatoken_version": "0.1.0",
        "code_versions": '{"directions":2,"probe":3}',
    }  # fmt: skip
    assert {key: rows[0][key] for key in expected} == expected


def test_the_lineage_has_a_row_per_policy_and_response_token(reader):
    rows = reader.named("lineage", example_id=full("e1")).select("position", "policy", "keep").rows()
    keep = {"default": [True, False, False, True], "random": [False, True, False, True]}
    assert rows == [(2 + i, policy, keep[policy][i]) for i in range(4) for policy in ("default", "random")]


def test_a_story_tells_snapshots_sequence_values_and_places(reader):
    story = explain(reader, full("e1"))
    assert (story.example_id, story.content, story.is_current) == (full("e1"), '{"prompt": "one"}', True)
    assert story.snapshots.select("snapshot_id", "is_current", "source", "multiplicity").rows() == [
        ("snap", True, "a", 3),
        ("before", False, "b", 1),
    ]
    assert story.sequences.select("branch", "sequence_id", "num_tokens", "num_response_tokens").rows() == [("sft", full("s1"), 6, 4)]
    places = story.values.filter(column="adapt_direct").select("position", "value", "place", "num_values").rows()
    assert places == [(2, 1.0, 2, 3), (3, -1.0, 3, 3), (4, None, None, 3), (5, 2.0, 1, 3)]
    causal = story.values.filter(column="adapt_causal")["place"].to_list()
    assert causal == [3, 1, 2, 3]  # equal values share the first place
    assert len(story.values) == 4 * 7


def test_a_token_is_told_with_its_place_in_the_whole_response(reader):
    story = explain(reader, full("e1"), 3)
    assert story.values["position"].unique().to_list() == [3]
    assert story.values.filter(column="adapt_direct").select("token", "value", "place", "num_values").rows() == [(".", -1.0, 3, 3)]
    assert story.lineage.select("policy", "keep").rows() == [("default", False), ("random", True)]


def test_what_is_gone_or_was_rejected_has_a_story_without_values(reader):
    gone = explain(reader, full("gone"))
    assert (gone.is_current, gone.snapshots["snapshot_id"].to_list()) == (False, ["before"])
    assert (len(gone.sequences), len(gone.values), len(gone.lineage)) == (0, 0, 0)
    rejected = explain(reader, full("e4"))
    assert (rejected.is_current, len(rejected.values)) == (True, 0)
    assert rejected.sequences.select("sequence_id", "reason", "detail").rows() == [(None, "empty_response", "nothing to learn")]


def test_the_beginning_of_an_id_is_enough_where_it_is_the_only_one(reader):
    assert explain(reader, beginning("g")).example_id == full("gone")


@pytest.mark.parametrize(
    ("example_id", "position", "says"),
    [
        (
            beginning("goose"),
            None,
            rf"no example '676f6f7365' in release \w+; nearest is {full('gone')}, with the same 5 first characters",
        ),
        (full("e9"), None, f"nearest is {full('e1')}, with the same 3 first characters"),
        (full("x"), None, "no id begins with the same character"),
        ("", None, "there is no example ''"),
        (beginning("e"), None, f"several examples begin with '65': {', '.join(map(full, ('e1', 'e2', 'e3', 'e4')))}$"),
        (full("e1"), 1, f"position 1 of example {full('e1')} is no response token with values; they are 2 to 5$"),
        (full("e2"), 9, "they are 1 to 4$"),
        (full("gone"), 1, "it has no values in this release"),
    ],
)
def test_wrong_ids_and_positions_are_told_with_the_nearest(reader, example_id, position, says):
    with pytest.raises(ValueError, match=says):
        explain(reader, example_id, position)
