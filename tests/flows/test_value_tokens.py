"""Laws of flows/value_tokens.py: what a first run stores, that an unchanged one writes nothing, and what each change costs."""

import json
import shutil

import numpy as np
import pytest

from tests.flows.world import Project, purchases, stored, write_rows

IDS = ("adapt_values_id", "stab_values_id", "signals_id", "ref_signals_id")


def current_ids(project):
    """Identities of the four groups of values of the current scoring."""
    return dict(zip(IDS, project.sql(f"SELECT {', '.join(IDS)} FROM scorings WHERE is_current")[0], strict=True))


def tokenize_by_hand(project, rows):
    """Response positions and token ids of each (prompt, response)."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(project.model)
    found = {}
    for row in rows:
        prompt, response = (tokenizer(row[k], add_special_tokens=False)["input_ids"] for k in ("prompt", "response"))
        ids = [tokenizer.bos_token_id, *prompt, *response, tokenizer.eos_token_id]
        found[row["prompt"], row["response"]] = list(enumerate(ids))[1 + len(prompt) :]
    return found


@pytest.mark.usefixtures("prefect_server")
def test_flows_work_under_prefect_and_an_unchanged_run_writes_nothing(template, tmp_path):
    project = Project.copy_of(template, tmp_path / "project")
    first = project.value()
    assert first.wrote_release
    assert first.counts["score"]["num_tokens"] == project.sql("SELECT sum(num_tokens) FROM sequences")[0][0]
    before = project.bytes_of_warehouse()
    second = project.value()
    assert (second.counts["score"]["num_tokens"], second.counts["tokenize"]["num_tokenized"], second.counts["directions"]["num_made"]) == (
        0,
        0,
        0,
    )
    assert not second.wrote_release
    assert project.mask().release_id == first.release_id
    assert project.bytes_of_warehouse() == before
    assert project.train().trained
    assert not project.train().trained
    assert project.sql("SELECT flow, state FROM runs ORDER BY started_at") == [("value_tokens", "completed"), ("train_masked", "completed")]


def test_unchanged_run_writes_nothing(project):
    project.value()
    before = project.bytes_of_warehouse()
    again = project.value()
    assert (again.counts["score"]["num_tokens"], again.counts["tokenize"]["num_tokenized"], again.wrote_release) == (0, 0, False)
    assert project.live("SELECT count(*) FROM runs") == [(1,)]
    assert project.bytes_of_warehouse() == before


def test_every_response_token_is_there_once_with_its_id_and_position(valued_once):
    expected = tokenize_by_hand(valued_once, valued_once.train_rows())
    assert valued_once.sql("SELECT count(*) FROM token_values") == [(sum(map(len, expected.values())),)]
    found = {}
    for content, position, token_id in valued_once.sql(
        "SELECT content, position, token_id FROM token_values JOIN examples USING (example_id) ORDER BY example_id, position"
    ):
        example = json.loads(content)
        found.setdefault((example["prompt"], example["response"]), []).append((position, token_id))
    assert found == expected


def test_texts_of_tokens_give_the_response_back(valued_once):
    for content, text in valued_once.sql(
        "SELECT content, string_agg(token, '' ORDER BY position) FROM token_values JOIN examples USING (example_id) GROUP BY ALL"
    ):
        assert text.strip() == json.loads(content)["response"] + "</s>"


def test_sum_of_direct_is_sum_of_causal_and_prompt_context(valued_once):
    rows = valued_once.sql(
        """
        SELECT example_id, name, direct, causal + prompt_context
        FROM (
            SELECT example_id, 'adapt' AS name, adapt_direct AS direct, adapt_causal AS causal, adapt_prompt_context AS prompt_context FROM example_values
            UNION ALL
            SELECT example_id, 'stab', stab_direct, stab_causal, stab_prompt_context FROM example_values
        )
        """
    )
    assert len(rows) == 80
    largest = {name: max(abs(row[2]) for row in rows if row[1] == name) for name in ("adapt", "stab")}
    assert min(largest.values()) > 0
    for example_id, name, direct, total in rows:
        assert direct == pytest.approx(total, rel=1e-4, abs=1e-4 * largest[name]), (example_id, name)


def test_stored_values_are_those_of_the_probe_on_each_sequence_alone(valued_once):
    from models.batches import collate
    from models.directions import load_tensors
    from models.probe import probe
    from models.reference import load_model, resolve_device

    cpu = resolve_device("cpu")
    places = dict(valued_once.live("SELECT kind, path FROM record.artifacts"))
    model = load_model(valued_once.warehouse / places["warmup"], cpu)
    reference = load_model(valued_once.model, cpu)
    directions = {name: load_tensors(valued_once.warehouse / places[name]) for name in ("adapt", "stab")}
    columns = ("adapt_direct", "adapt_causal", "stab_direct", "stab_causal", "loss", "entropy", "ref_loss")
    rows = valued_once.sql(
        f"SELECT token_ids, response_positions, {', '.join(columns)} FROM record.value_lists ORDER BY sequence_id LIMIT 8"
    )
    for token_ids, positions, *values in rows:
        batch = collate([token_ids], [positions])
        alone, at_reference = probe(model, batch, directions), probe(reference, batch, {})
        expected = [m[name] for name in ("adapt", "stab") for m in (alone.target_BT, alone.context_BT)]
        expected += [alone.loss_BT, alone.entropy_BT, at_reference.loss_BT]
        for name, value, matrix in zip(columns, values, expected, strict=True):
            exact = matrix[0, positions].numpy()
            assert np.abs(exact).max() > 0
            np.testing.assert_allclose(value, exact, rtol=0, atol=1e-5 * np.abs(exact).max(), err_msg=name)


def test_masks_of_all_policies_decide_on_every_token(valued_once):
    assert valued_once.sql("SELECT DISTINCT policy FROM token_masks ORDER BY policy") == [("default",), ("full",), ("random",)]
    assert valued_once.sql(
        "SELECT DISTINCT count(*) = (SELECT count(*) FROM token_values), count(keep) = count(*) FROM token_masks GROUP BY policy"
    ) == [(True, True)]
    shares = dict(valued_once.sql("SELECT policy, avg(keep::INT) FROM token_masks GROUP BY policy"))
    assert shares["full"] == 1
    assert shares["default"] == pytest.approx(0.72, abs=0.02)  # 70% of the tokens, and all ends of turn
    assert shares["random"] == shares["default"]


def test_rejected_rows_are_kept_with_file_line_and_reason(valued_once):
    assert valued_once.sql("SELECT stage, file, line, reason FROM rejected_rows ORDER BY line") == [
        ("ingest", "train.jsonl", 41, "missing column"),
        ("ingest", "train.jsonl", 42, "not JSON"),
    ]
    assert "one plus one" in valued_once.sql("SELECT detail FROM rejected_rows ORDER BY line")[0][0]


def reordered(project):
    project.write_train(project.train_rows()[::-1])
    return []


def renamed(project):
    (project.folder / "train.jsonl").rename(project.folder / "other.jsonl")
    return ["data.train.path=other.jsonl"]


def split(project):
    lines = (project.folder / "train.jsonl").read_text().splitlines(keepends=True)
    for name, part in (("b.jsonl", lines[:15]), ("a.jsonl", lines[15:])):
        (project.folder / name).write_text("".join(part))
    return ["data.train.path=[a.jsonl, b.jsonl]"]


def rebatched(_):
    return ["scoring.batch_tokens=128", "scoring.part_tokens=1024"]


@pytest.mark.parametrize("change", [reordered, renamed, split, rebatched])
def test_what_the_values_do_not_depend_on_changes_nothing(valued, change):
    before = valued.bytes_of_warehouse()
    overrides = change(valued)
    done = valued.value(*overrides)
    assert done.counts["score"]["num_tokens"] == 0
    assert valued.bytes_of_warehouse() == before


@pytest.mark.parametrize("key", ["note", "source"])
def test_another_column_changes_the_snapshot_and_no_value(valued, key):
    before = stored(valued)
    snapshot = valued.sql("SELECT DISTINCT snapshot_id FROM examples")
    valued.write_train([{**row, key: f"row {i}"} for i, row in enumerate(valued.train_rows())])
    done = valued.value()
    assert (done.counts["score"]["num_tokens"], done.counts["tokenize"]["num_tokenized"], done.wrote_release) == (0, 0, True)
    assert valued.sql("SELECT DISTINCT snapshot_id FROM examples") != snapshot
    after = stored(valued)
    assert (after["direction_values"], after["signal_values"]) == (before["direction_values"], before["signal_values"])
    column = "source" if key == "source" else "extra ->> '$.note'"
    assert valued.sql(f"SELECT count(DISTINCT {column}) FROM examples") == [(40,)]


def test_an_update_scores_what_changed_and_a_revert_scores_nothing(valued):
    before, values = stored(valued), valued.sql("SELECT * FROM token_values ORDER BY example_id, position")
    masks = valued.sql("SELECT policy, sequence_id, position, keep FROM token_masks ORDER BY ALL")
    rows = valued.train_rows()
    edited = [{**row, "response": row["response"] + " hello ."} for row in rows[:2]]
    now = [*edited, *rows[2:-3], *purchases(99, 7)]
    valued.write_train(now)

    done = valued.value()
    assert (done.counts["score"]["num_sequences"], done.counts["tokenize"]["num_tokenized"]) == (9, 9)
    assert done.counts["directions"]["num_made"] == 0
    after = stored(valued)
    rows_of_masks = 44 + 2 * 9  # those of `random` and `full` depend on no other sequence
    for table, new in (("direction_values", 9 * 2), ("signal_values", 9 * 2), ("mask_values", rows_of_masks)):
        assert set(map(repr, before[table])) <= set(map(repr, after[table])), table
        assert len(after[table]) == len(before[table]) + new, table
    expected = tokenize_by_hand(valued, now)
    num_tokens = sum(map(len, expected.values()))
    assert valued.sql("SELECT count(*) FROM examples") == [(44,)]
    assert valued.sql("SELECT count(*) FROM token_values") == [(num_tokens,)]
    assert valued.sql("SELECT policy, count(*) FROM token_masks GROUP BY ALL ORDER BY ALL") == [
        (policy, num_tokens) for policy in ("default", "full", "random")
    ]

    valued.write_train(rows)
    back = valued.value()
    assert (back.counts["score"]["num_sequences"], back.counts["tokenize"]["num_tokenized"]) == (0, 0)
    assert stored(valued) == after
    assert valued.sql("SELECT * FROM token_values ORDER BY example_id, position") == values
    assert valued.sql("SELECT policy, sequence_id, position, keep FROM token_masks ORDER BY ALL") == masks


def test_random_mask_of_old_rows_does_not_change_when_rows_are_added(valued):
    query = "SELECT sequence_id, position, keep FROM token_masks WHERE policy = 'random' ORDER BY ALL"
    before = valued.sql(query)
    valued.write_train([*valued.train_rows(), *purchases(99, 7)])
    valued.value()
    assert set(before) <= set(valued.sql(query))


def test_duplicate_rows_count_as_multiplicity(valued):
    rows = valued.train_rows()
    valued.write_train([*rows, rows[0], rows[0], rows[5]])
    assert valued.value().counts["score"]["num_sequences"] == 0
    assert valued.sql("SELECT multiplicity, count(*) FROM examples GROUP BY ALL ORDER BY ALL") == [(1, 38), (2, 1), (3, 1)]
    assert valued.sql("SELECT count(DISTINCT example_id), count(*) = count(DISTINCT (example_id, position)) FROM token_values") == [
        (40, True)
    ]


def changed(before, after):
    return {name for name in IDS if before[name] != after[name]}


def test_new_validation_rows_change_adaptation_alone(valued):
    before, ids = stored(valued), current_ids(valued)
    write_rows(valued.folder / "validation.jsonl", purchases(77, 5))
    done = valued.value()
    assert (done.counts["directions"]["num_made"], done.counts["score"]["num_sequences"]) == (1, 40)
    after, now = stored(valued), current_ids(valued)
    assert changed(ids, now) == {"adapt_values_id"}
    assert after["signal_values"] == before["signal_values"]
    fresh = [row for row in after["direction_values"] if row[0] == now["adapt_values_id"]]
    assert len(fresh) == 40
    assert [row for row in after["direction_values"] if row not in fresh] == before["direction_values"]


def test_order_of_validation_rows_changes_nothing(valued):
    rows = [json.loads(line) for line in (valued.folder / "validation.jsonl").read_text().splitlines()]
    before = valued.bytes_of_warehouse()
    write_rows(valued.folder / "validation.jsonl", rows[::-1])
    assert valued.value().counts["score"]["num_sequences"] == 0
    assert valued.bytes_of_warehouse() == before


def test_other_fisher_settings_change_stability_alone(valued):
    before, ids = stored(valued), current_ids(valued)
    done = valued.value("scoring.fisher.num_sequences=9")
    assert (done.counts["directions"]["num_made"], done.counts["score"]["num_sequences"]) == (3, 40)  # texts, D_S, alignment
    assert changed(ids, current_ids(valued)) == {"stab_values_id"}
    assert stored(valued)["signal_values"] == before["signal_values"]
    assert set(map(repr, before["direction_values"])) <= set(map(repr, stored(valued)["direction_values"]))
    assert valued.value().counts["score"]["num_sequences"] == 0  # the former settings: all is there


def test_another_dtype_computes_all_values_again(valued):
    ids = current_ids(valued)
    done = valued.value("scoring.dtype=bfloat16")
    assert (done.counts["directions"]["num_made"], done.counts["score"]["num_sequences"]) == (0, 40)
    assert changed(ids, current_ids(valued)) == set(IDS)
    assert valued.live("SELECT count(*) FROM record.direction_values") == [(160,)]


def test_refresh_remakes_the_artefacts_on_the_present_data(valued):
    ids = current_ids(valued)
    unchanged = valued.value(refresh=True)
    assert (unchanged.counts["directions"]["num_made"], unchanged.counts["score"]["num_sequences"]) == (5, 0)
    assert current_ids(valued) == ids  # the same data, settings and seeds make the same artefacts
    valued.write_train([*valued.train_rows(), *purchases(99, 7)])
    refreshed = valued.value(refresh=True)
    assert (refreshed.counts["directions"]["num_made"], refreshed.counts["score"]["num_sequences"]) == (5, 47)
    assert changed(ids, current_ids(valued)) == set(IDS) - {"ref_signals_id"}
    assert valued.value().counts["score"]["num_sequences"] == 0


def test_given_scoring_model_is_used_and_known_by_its_content(valued):
    ids = current_ids(valued)
    ((warmup,),) = valued.live("SELECT path FROM record.artifacts WHERE kind = 'warmup'")
    shutil.copytree(valued.warehouse / warmup, valued.folder / "checkpoint")
    done = valued.value("model.scoring=./checkpoint")
    assert (done.counts["directions"]["num_made"], done.counts["score"]["num_sequences"]) == (0, 0)
    assert current_ids(valued) == ids


def test_scoring_at_the_reference_warns_and_gives_stability_zero(project, told):
    done = project.value("scoring.warmup.steps=0")
    assert done.counts["directions"]["stability_is_zero"]
    assert "scoring.warmup.steps above 0, or give a checkpoint as model.scoring" in told.text
    assert project.sql("SELECT count(*) FROM token_values WHERE stab_direct <> 0 OR stab_causal <> 0 OR stab_direct IS NULL") == [(0,)]
    assert project.sql("SELECT count(*) FROM token_values WHERE adapt_direct = 0") == [(0,)]
    assert project.sql("SELECT count(*) FROM token_values WHERE loss <> ref_loss") == [(0,)]
    before = project.bytes_of_warehouse()
    assert project.value("scoring.warmup.steps=0").counts["score"]["num_sequences"] == 0
    assert project.bytes_of_warehouse() == before


def test_parameters_out_of_scope_change_the_directions(valued):
    ids = current_ids(valued)
    done = valued.value("scoring.scope_exclude=[model.embed_tokens.weight]")
    assert (done.counts["directions"]["num_made"], done.counts["score"]["num_sequences"]) == (3, 40)
    assert changed(ids, current_ids(valued)) == {"adapt_values_id", "stab_values_id"}


def test_validation_rows_that_are_evaluation_rows_are_refused(valued):
    release = (valued.warehouse / "releases" / "CURRENT").read_text()
    pointers = valued.live("SELECT * FROM record.pointers ORDER BY ALL")
    shutil.copy(valued.folder / "validation.jsonl", valued.folder / "evaluation.jsonl")
    valued.write_train(valued.train_rows()[:39])
    with pytest.raises(ValueError, match=r"data\.validation and data\.evaluation share 6 examples.*offset and limit"):
        valued.value()
    assert (valued.warehouse / "releases" / "CURRENT").read_text() == release
    assert valued.live("SELECT * FROM record.pointers ORDER BY ALL") == pointers
    assert "share 6 examples" in valued.live("SELECT error FROM runs WHERE state = 'failed'")[0][0]


def test_changed_tokenization_under_the_same_models_gets_a_scoring_and_masks_of_its_own(valued):
    """The values of a sequence stay; which sequences the examples became is another scoring."""
    at_reference = ("scoring.warmup.steps=0",)
    valued.value(*at_reference)
    before = valued.sql("SELECT count(*), count(DISTINCT scoring_id) FROM token_values")
    valued.value(*at_reference, "data.tokenize.max_length=40")
    ((num_values, num_scorings),) = valued.sql("SELECT count(*), count(DISTINCT scoring_id) FROM token_values")
    assert num_scorings == 1
    assert num_values < before[0][0]
    assert valued.sql("SELECT policy, count(*) FROM token_masks GROUP BY policy ORDER BY policy") == [
        (policy, num_values) for policy in ("default", "full", "random")
    ]


def test_more_rejected_examples_than_allowed_stop_the_run_also_in_tokenizing(valued):
    rows = valued.train_rows()
    valued.write_train([*rows[:30], *({**row, "response": row["response"] + " "} for row in rows[30:])])
    release = (valued.warehouse / "releases" / "CURRENT").read_text()
    with pytest.raises(ValueError, match=r"40 of 40 examples became no sequence \(40 nothing left after truncation\).*max_rejected_share"):
        valued.value("data.tokenize.max_length=2", "data.tokenize.min_prompt_tokens=16")
    assert (valued.warehouse / "releases" / "CURRENT").read_text() == release


def test_damaged_direction_is_refused(valued):
    (path,) = (valued.warehouse / "artifacts").glob("adapt-*.safetensors")
    from safetensors.torch import load_file, save_file

    save_file({name: t + 1 for name, t in load_file(path).items()}, path)
    valued.write_train([*valued.train_rows(), *purchases(5, 2)])
    with pytest.raises(ValueError, match=r"is not the direction that was pinned.*--refresh-scoring"):
        valued.value()


def test_diverged_warm_up_pins_nothing(project):
    with pytest.raises(ValueError, match="the warm-up diverged"):
        project.value("scoring.warmup.learning_rate=1.0e+30", "scoring.warmup.steps=7")
    assert not list((project.warehouse / "artifacts").glob("*"))
