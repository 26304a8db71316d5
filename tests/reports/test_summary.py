"""Laws of reports/summary.py: every stage that a run had is told with its counts, and no other."""

import pytest

from reports.summary import markdown, rows, training_markdown, training_rows

COUNTS = {
    "ingest": {"snapshot_id": "s", "num_examples": 1200, "num_rows": 1300, "num_rejected": 3},
    "tokenize": {
        "num_tokenized": 5, "num_sequences": 1199, "num_tokens": 123456, "num_response_tokens": 45678, "num_prompts_cut": 7,
        "num_responses_cut": 8, "num_rejected": 1,
    },
    "directions": {"num_made": 2, "stability_is_zero": False},
    "score": {"num_sequences": 10, "num_tokens": 3000, "num_not_finite": 0, "seconds": 1.5},
    "masks": [
        {"policy": "default", "num_kept": 70, "num_tokens": 100, "written": True},
        {"policy": "none", "num_kept": 0, "num_tokens": 0, "written": False},
    ],
}  # fmt: skip


def score(**changes):
    ((_, text),) = rows({"score": {**COUNTS["score"], **changes}})
    return text


def test_each_stage_is_told_in_order_with_its_counts():
    assert rows(COUNTS) == [
        ("ingest", "1,200 examples from 1,300 rows, 3 rows set aside"),
        (
            "tokenize",
            "5 examples tokenized now; 1,199 sequences with 123,456 tokens, 45,678 of them response tokens; 7 prompts and 8 responses cut, "
            "1 examples rejected",
        ),
        ("directions", "2 artefacts made now"),
        ("score", "3,000 tokens of 10 sequences scored in 1.5 s, 2,000 tokens/s"),
        ("mask default", "70 of 100 response tokens kept (70.0%), written"),
        ("mask none", "0 of 0 response tokens kept (0.0%), unchanged"),
    ]


@pytest.mark.parametrize("stages", [[], ["ingest"], ["masks"], ["ingest", "tokenize"]])
def test_a_run_that_did_not_come_to_a_stage_does_not_tell_of_it(stages):
    expected = [line for line in rows(COUNTS) if line[0].split()[0].removesuffix("s") in {stage.removesuffix("s") for stage in stages}]
    assert rows({stage: COUNTS[stage] for stage in stages}) == expected


def test_nothing_scored_has_no_rate():
    assert score(num_sequences=0, num_tokens=0, seconds=0.0) == "0 tokens of 0 sequences scored in 0.0 s"


def test_an_instant_has_no_rate_either():
    assert score(seconds=0.0).startswith("3,000 tokens of 10 sequences scored in 0.0 s")


def test_alignment_of_stability_is_told_where_it_was_measured():
    aligned = {"scope": 0.98765, "all": 0.5, "num_texts": 1234, "retention_loss": 1.0}
    ((_, text),) = rows({"directions": {"num_made": 1, "stability_is_zero": False, "stability_alignment": aligned}})
    assert "stability alignment 0.988 (cosine with the retention gradient over its scope; 0.500 over all parameters; 1,234 texts)" in text
    ((_, text),) = rows({"directions": {"num_made": 1, "stability_is_zero": False, "stability_alignment": None}})
    assert "alignment" not in text


def test_values_that_are_not_finite_and_a_stability_of_zero_are_told():
    assert score(num_not_finite=1234).endswith("; 1,234 values not finite, stored as NULL")
    ((_, text),) = rows({"directions": {"num_made": 0, "stability_is_zero": True}})
    assert "STABILITY IS ZERO" in text


def test_the_markdown_table_has_a_line_per_stage():
    lines = markdown(COUNTS).splitlines()
    assert lines[:2] == ["| stage | what was done |", "|---|---|"]
    assert lines[2:] == [f"| {stage} | {text} |" for stage, text in rows(COUNTS)]


METRICS = {
    "target_loss": 1.5,
    "target_loss_before": 2.25,
    "retention_loss": 1.0,
    "retention_loss_before": 0.5,
    "supervised_tokens_per_epoch": 12345.0,
}


def test_a_training_is_told_before_and_after():
    assert training_rows(METRICS) == [
        ("target loss", "2.2500 → 1.5000 nats/token"),
        ("retention loss", "0.5000 → 1.0000 nats/token"),
        ("supervised tokens", "12,345 per epoch; every batch that the model saw was compared with the store"),
    ]
    assert training_rows({}) == []


def test_a_training_on_pairs_tells_its_margins():
    metrics = {f"{name}{when}": 0.5 for name in ("margin_accuracy", "dpo_loss", "margin") for when in ("", "_before")}
    (row,) = training_rows(metrics | {"margin_accuracy": 0.75})
    assert row == ("held-out pairs", "margin accuracy 0.5000 → 0.7500, DPO loss 0.5000 → 0.5000 nats/pair, mean margin 0.5000 → 0.5000")


@pytest.mark.parametrize("trained", [True, False])
def test_the_markdown_of_a_training_names_policy_and_whether_it_ran(trained):
    lines = training_markdown("mine", trained, METRICS).splitlines()
    assert "`mine`" in lines[0]
    assert ("not trained again" in lines[0]) is not trained
    assert len(lines) == 2 + 2 + 3
