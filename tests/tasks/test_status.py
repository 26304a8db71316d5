"""Laws of tasks/status.py: what it says the next run would do is what that run does; it writes nothing."""

import re
import shutil

import pytest

from tasks import status
from tasks.settings import load
from tests.flows.world import purchases, write_rows
from warehouse.read import Reader


def told(project, *overrides):
    """The plan, stage to sentence."""
    with Reader(project.warehouse) as reader:
        return dict(status.plan(load(project.config, overrides), reader))


def number(text, pattern):
    found = re.search(pattern, text)
    return int(found[1].replace(",", "")) if found else 0


def unchanged(_):
    return []


def updated(project):
    rows = project.train_rows()
    project.write_train([{**rows[0], "response": "hello ."}, *rows[1:-2], *purchases(99, 7)])
    return []


def revalidated(project):
    write_rows(project.folder / "validation.jsonl", purchases(77, 5))
    return []


def reevaluated(project):
    write_rows(project.folder / "evaluation.jsonl", purchases(78, 5))
    return []


def refished(_):
    return ["scoring.fisher.num_sequences=9"]


def refished_as_in_the_paper(_):
    return ["scoring.stability.form=fisher_drift"]


def rescoped(_):
    return ["scoring.stability.scope_exclude=['*norm*']"]


def resourced(_):
    return ["scoring.fisher.source=prompts"]


def unretained(_):
    return ["data.retention=null"]


def retyped(_):
    return ["scoring.dtype=bfloat16"]


def at_reference(_):
    return ["scoring.warmup.steps=0"]


def rewarmed(_):
    return ["scoring.warmup.steps=3"]


def retokenized(_):
    return ["data.tokenize.separator=' hello '"]


def renoted(project):
    project.write_train([{**row, "note": "new"} for row in project.train_rows()])
    return []


def repoliced(_):
    return ["policy.harsh={keep: 0.2}"]


def templated(_):
    return ["data.tokenize.chat_template=chatml"]


def with_signals(_):
    return ["scoring.signals=[margin]"]


def reestimated(_):
    return ["scoring.estimator=value_propagation", "scoring.propagation.last_blocks=1", "scoring.propagation.fisher_sequences=4"]


def perturbed(source, target):
    """Copy a model with other weights."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(source, target)
    tensors = load_file(target / "model.safetensors")
    save_file({name: t * 1.01 for name, t in tensors.items()}, target / "model.safetensors", {"format": "pt"})


def with_another_model(project):
    perturbed(project.model, project.folder / "other")
    return ["model.reference=other"]


def with_a_checkpoint(project):
    perturbed(project.model, project.folder / "checkpoint")
    return ["model.scoring=./checkpoint"]


CHANGES = [
    unchanged, updated, revalidated, reevaluated, refished, refished_as_in_the_paper, rescoped, resourced, unretained, retyped,
    at_reference, rewarmed, retokenized, renoted, repoliced, templated, with_signals, reestimated, with_another_model, with_a_checkpoint,
]  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_next_run_does_what_status_says(valued, change):
    overrides = change(valued)
    before = valued.bytes_of_warehouse()
    plan = told(valued, *overrides)
    assert valued.bytes_of_warehouse() == before
    before, rows_before = sequences(valued), values(valued)
    evaluation = valued.live("SELECT value FROM record.pointers WHERE name = 'evaluation'")
    done = valued.value(*overrides).counts

    same_evaluation = valued.live("SELECT value FROM record.pointers WHERE name = 'evaluation'") == evaluation
    assert (plan["ingest, evaluation set"] == "unchanged") == same_evaluation
    assert number(plan["tokenize"], r"([\d,]+) examples") == sequences(valued) - before
    made = [] if plan["directions"] == "nothing to make" else plan["directions"].split(", ")
    assert len(made) == done["directions"]["num_made"]
    said = dict(zip(GROUPS, (number(plan["score"], rf"[:,] {name} ([\d,]+)") for name in GROUPS), strict=True))
    assert max(said.values()) == done["score"]["num_sequences"]
    rows_after = values(valued)
    ids = valued.sql("SELECT adapt_values_id, stab_values_id, signals_id, ref_signals_id FROM scorings WHERE is_current")[0]
    assert said == {name: rows_after[one] - rows_before.get(one, 0) for name, one in zip(GROUPS, ids, strict=True)}
    assert (plan["score"] == "nothing: 0 tokens") == (done["score"]["num_tokens"] == 0)
    for mask in done["masks"]:
        assert plan[f"mask {mask['policy']}"] == ("to be written" if mask["written"] else "unchanged")


GROUPS = ("adaptation", "stability", "signals", "reference signals")


def values(project):
    """Count the rows of values by identity."""
    return dict(
        project.live(
            "SELECT values_id, count(*) FROM record.direction_values GROUP BY ALL UNION ALL SELECT signals_id, count(*) FROM record.signal_values GROUP BY ALL"
        )
    )


def sequences(project):
    """Count tokenized examples under all tokenizations."""
    return project.live("SELECT count(DISTINCT (tokenization_id, example_id)) FROM record.example_sequences")[0][0]


def test_bad_rows_beyond_the_allowed_share_do_not_stop_status(valued):
    (valued.folder / "train.jsonl").write_text('{"prompt": "a", "response": "b"}\n' + "no JSON\n" * 3)
    assert "3 bad rows" in told(valued)["ingest"]
    assert "1 new and 40 removed examples" in told(valued)["ingest"]


def test_a_changed_evaluation_set_is_told(valued):
    (valued.folder / "evaluation.jsonl").write_text("".join((valued.folder / "evaluation.jsonl").read_text().splitlines(keepends=True)[2:]))
    plan = told(valued)
    assert plan["ingest, evaluation set"] == "0 new and 2 removed examples, 6 as before; 0 bad rows"
    assert (plan["tokenize"], plan["ingest"][:33]) == ("0 examples", "0 new and 0 removed examples, 40 ")


def test_pinned_artefacts_tell_how_far_the_data_moved(valued):
    valued.write_train([*valued.train_rows()[:-1], *purchases(99, 7)])
    valued.value()
    with Reader(valued.warehouse) as reader:
        lines = dict(status.pinned(reader))
    assert lines.pop("scope") == "100.0% of the parameters covered by adaptation, 100.0% by stability"
    assert set(lines) == {"warmup", "texts", "adapt", "stab", "alignment"}
    assert all(text.endswith("since then 7 examples added, 1 removed") for text in lines.values())


def test_stability_zero_is_told(valued):
    with Reader(valued.warehouse) as reader:
        assert not status.stability_is_zero(reader)
    valued.value("scoring.warmup.steps=0")
    with Reader(valued.warehouse) as reader:
        assert status.stability_is_zero(reader)
    for setting in ("scoring.warmup.steps", "model.scoring"):
        assert setting in status.STABILITY_HINT


def test_tokens_to_score_and_their_cost_are_told(valued):
    plan = told(valued, "scoring.dtype=bfloat16")
    ((num_tokens,),) = valued.sql("SELECT sum(num_tokens) FROM sequences")
    assert number(plan["score"], r"about ([\d,]+) tokens,") == num_tokens
    assert re.search(r"about [\d,]+ s at [\d,]+ tokens/s", plan["score"])
