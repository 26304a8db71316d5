"""Laws of the flows on preference data: what a run stores of pairs, what each change costs, and that values are those of DPO's objective."""

import json
import math

import duckdb
import numpy as np
import pytest

from tests.flows.world import Project, purchases, stored, without_prefect, write_rows

NUM_PAIRS = 16


def as_pairs(rows, wrong):
    """A wrong response is the right one to another question; the source tells halves apart."""
    return [
        {"prompt": row["prompt"], "chosen": row["response"], "rejected": other["response"], "source": "ab"[i % 2]}
        for i, (row, other) in enumerate(zip(rows, wrong, strict=True))
    ]


@pytest.fixture(scope="module")
def made(template, tmp_path_factory):
    """A folder with pairs to train on, four to validate by; the first two share prompt and chosen response."""
    project = Project.copy_of(template, tmp_path_factory.mktemp("pairs") / "project")
    rows, wrong = purchases(21, NUM_PAIRS), purchases(22, NUM_PAIRS)
    train = as_pairs(rows, wrong)
    train[1] |= {"prompt": train[0]["prompt"], "chosen": train[0]["chosen"]}
    write_rows(project.folder / "train.jsonl", train)
    write_rows(
        project.folder / "single.jsonl", [json.loads(line) for line in (project.folder / "validation.jsonl").read_text().splitlines()]
    )
    write_rows(project.folder / "validation.jsonl", as_pairs(purchases(23, 4), purchases(24, 4)))
    settings = project.config.read_text().replace("  evaluation: evaluation.jsonl\n", "")
    assert settings != project.config.read_text()
    project.config.write_text(settings)
    return project


@pytest.fixture(scope="module")
def paired_once(made, tmp_path_factory):
    project = Project.copy_of(made.folder, tmp_path_factory.mktemp("paired") / "project")
    with without_prefect():
        project.value()
    return project


@pytest.fixture
def paired(paired_once, tmp_path):
    with without_prefect():
        yield Project.moved(paired_once, tmp_path / "paired")


def rows_of(project):
    return [json.loads(line) for line in (project.folder / "train.jsonl").read_text().splitlines()]


def scored(project, *overrides):
    """Value again; tell how many sequences were tokenized and scored, and how many artefacts made."""
    done = project.value(*overrides).counts
    return done["tokenize"]["num_tokenized"], done["score"]["num_sequences"], done["directions"]["num_made"]


# ---- what is stored


def test_a_pair_is_two_sequences_behind_one_prompt(paired_once):
    assert paired_once.sql("SELECT role, kind FROM snapshots WHERE is_current ORDER BY role") == [
        ("train", "preference"), ("validation", "preference"),
    ]  # fmt: skip
    rows = paired_once.sql(
        "SELECT example_id, list(branch ORDER BY branch), list(token_ids[:response_positions[1]]) FROM sequences GROUP BY ALL"
    )
    assert len(rows) == NUM_PAIRS
    for _, branches, (one, other) in rows:
        assert branches == ["chosen", "rejected"]
        assert one == other
    counts = "count(*), count(DISTINCT chosen_sequence_id), count(DISTINCT rejected_sequence_id)"
    assert paired_once.sql(f"SELECT {counts} FROM pairs") == [(NUM_PAIRS, NUM_PAIRS - 1, NUM_PAIRS)]


def test_margin_and_weight_are_those_of_full_sums_at_the_scoring_model(paired_once):
    losses = {
        (example, branch): (sum(own), sum(ref))
        for example, branch, own, ref in paired_once.sql("SELECT example_id, branch, list(loss::DOUBLE), list(ref_loss::DOUBLE) FROM token_values GROUP BY ALL")
    }  # fmt: skip
    rows = paired_once.sql(
        "SELECT example_id, policy_logprob_chosen, policy_logprob_rejected, ref_logprob_chosen, ref_logprob_rejected, beta, margin, weight FROM pairs"
    )
    assert len(rows) == NUM_PAIRS
    assert len({row[-1] for row in rows}) > 1
    for example, good, bad, ref_good, ref_bad, beta, margin, weight in rows:
        assert (-good, -ref_good) == pytest.approx(losses[example, "chosen"], rel=1e-12)
        assert (-bad, -ref_bad) == pytest.approx(losses[example, "rejected"], rel=1e-12)
        s = 0.1 * ((good - ref_good) - (bad - ref_bad))
        assert (beta, margin, weight) == pytest.approx((0.1, s, 0.1 / (1 + math.exp(s))), rel=1e-12)


def test_both_axes_of_both_branches_sum_to_the_inner_product_with_its_sign(paired_once):
    rows = paired_once.sql(
        """
        SELECT branch, direct, causal + prompt_context FROM (
            SELECT branch, adapt_direct AS direct, adapt_causal AS causal, adapt_prompt_context AS prompt_context FROM example_values
            UNION ALL SELECT branch, stab_direct, stab_causal, stab_prompt_context FROM example_values)
        """
    )
    assert len(rows) == 4 * NUM_PAIRS
    largest = max(abs(direct) for _, direct, _ in rows)
    for branch, direct, total in rows:
        assert direct == pytest.approx(total, rel=1e-4, abs=1e-4 * largest), branch


def test_stored_values_of_both_branches_are_those_of_the_definition_times_the_sign(paired_once):
    from models.directions import load_tensors
    from models.oracle import slow_values

    model, _ = models_in_double(paired_once)
    places = dict(paired_once.live("SELECT kind, path FROM record.artifacts"))
    directions = {
        name: {key: tensor.double() for key, tensor in load_tensors(paired_once.warehouse / places[name]).items()}
        for name in ("adapt", "stab")
    }
    rows = paired_once.sql(
        """
        SELECT DISTINCT current.branch, current.token_ids, current.response_positions, adapt.direct, adapt.causal, stab.direct, stab.causal
        FROM record.current_sequences AS current
        JOIN scorings ON scorings.is_current
        JOIN record.direction_values AS adapt ON (adapt.values_id, adapt.sequence_id) = (scorings.adapt_values_id, current.sequence_id)
        JOIN record.direction_values AS stab ON (stab.values_id, stab.sequence_id) = (scorings.stab_values_id, current.sequence_id)
        ORDER BY ALL
        """
    )
    for branch, sign in (("chosen", 1), ("rejected", -1)):
        for _, token_ids, positions, *found in [row for row in rows if row[0] == branch][:2]:
            slow = slow_values(model, token_ids, positions, directions)
            expected = [
                sign * axis[positions].numpy() for name in ("adapt", "stab") for axis in (slow[name].target_T, slow[name].context_T)
            ]
            for value, exact in zip(found, expected, strict=True):
                assert np.abs(exact).max() > 0
                np.testing.assert_allclose(value, exact, rtol=0, atol=1e-4 * np.abs(exact).max(), err_msg=branch)


# ---- the objective


def models_in_double(project):
    from models.reference import load_model, resolve_device

    places = dict(project.live("SELECT kind, path FROM record.artifacts"))
    cpu = resolve_device("cpu")
    return load_model(project.warehouse / places["warmup"], cpu).double(), load_model(project.model, cpu).double()


def token_losses(model, ids):
    """Losses of tokens 1, 2, ... of one sequence."""
    import torch

    logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0].double()
    return torch.nn.functional.cross_entropy(logits[:-1], torch.tensor(ids[1:]), reduction="none")


def validation_pairs(project):
    """(chosen, rejected) of every validation pair, each (token ids, response positions)."""
    rows = project.live(
        """
        SELECT links.example_id, links.branch, sequences.token_ids, sequences.response_positions
        FROM record.snapshot_examples JOIN snapshots USING (snapshot_id) JOIN record.example_sequences AS links USING (example_id)
        JOIN record.sequences USING (sequence_id) WHERE role = 'validation' AND is_current ORDER BY ALL
        """
    )
    return [(tuple(one[2:]), tuple(other[2:])) for one, other in zip(rows[::2], rows[1::2], strict=True)]


def dpo_loss(model, reference, pairs, beta):
    """Mean over pairs of -log σ(s), term by term."""
    import torch

    losses = []
    for branches in pairs:
        ratios = []
        for ids, positions in branches:
            with torch.no_grad():
                anchored = token_losses(reference, ids)
            own = token_losses(model, ids)
            ratios.append(sum(anchored[u - 1] - own[u - 1] for u in positions))
        losses.append(-torch.nn.functional.logsigmoid(beta * (ratios[0] - ratios[1])))
    return sum(losses) / len(losses)


def test_values_are_those_of_the_dpo_objective_and_tell_what_a_step_on_a_token_does_to_the_validation_loss(paired_once):
    import torch

    model, reference = models_in_double(paired_once)
    validation, beta = validation_pairs(paired_once), 0.1
    assert len(validation) == 4
    parameters = list(model.requires_grad_(True).parameters())
    loss = dpo_loss(model, reference, validation, beta)
    direction = torch.autograd.grad(loss, parameters)
    rows = paired_once.sql(
        """
        SELECT branch, token_ids, response_positions, adapt_direct, pairs.weight
        FROM record.value_lists JOIN record.current_pairs AS pairs USING (example_id)
        WHERE example_id IN (SELECT example_id FROM record.current_pairs ORDER BY example_id LIMIT 2) ORDER BY example_id, branch
        """
    )
    assert [row[0] for row in rows] == ["chosen", "rejected"] * 2
    num_compared, signs = 0, set()
    for branch, ids, positions, values, omega in rows:
        sign = 1.0 if branch == "chosen" else -1.0
        largest = max(map(abs, values))
        for u, value in list(zip(positions, values, strict=True))[::3]:
            step = [omega * sign * g for g in torch.autograd.grad(token_losses(model, ids)[u - 1], parameters)]  # of the token's own term
            exact = sum((d * g).sum() for d, g in zip(direction, step, strict=True)).item()
            assert value == pytest.approx(exact, rel=1e-3, abs=1e-4 * largest)
            if abs(exact) < 0.1 * largest:
                continue
            rate = 1e-3 / math.sqrt(sum((g**2).sum() for g in step))
            after = []
            for towards in (1, -1):
                with torch.no_grad():
                    for p, g in zip(parameters, step, strict=True):
                        p -= towards * rate * g
                    after.append(dpo_loss(model, reference, validation, beta).item())
                    for p, g in zip(parameters, step, strict=True):
                        p += towards * rate * g
            gain = (after[1] - after[0]) / (2 * rate)  # by how much a step lowers the validation loss
            assert gain == pytest.approx(value, rel=0.05, abs=2e-3 * largest)
            assert math.copysign(1, gain) == math.copysign(1, value)
            num_compared += 1
            signs.add((branch, value > 0))
    assert num_compared >= 8
    assert {branch for branch, _ in signs} == {"chosen", "rejected"}


def test_the_direction_follows_from_what_the_validation_rows_are(paired, paired_once):
    query = "SELECT settings -> '$.adapt' FROM scorings WHERE is_current"
    told = json.loads(paired_once.sql(query)[0][0])
    assert (told["objective"], told["beta"], told["num_pairs"]) == ("dpo", 0.1, 4)
    assert scored(paired, "data.validation=single.jsonl") == (0, 2 * NUM_PAIRS - 1, 1)
    told = json.loads(paired.sql(query)[0][0])
    assert (told["num_sequences"], "objective" in told) == (6, False)
    assert scored(paired, "data.validation=single.jsonl", "preference.beta=0.3") == (0, 0, 0)  # β is in no value
    assert scored(paired, "preference.beta=0.3") == (0, 2 * NUM_PAIRS - 1, 1)  # but in DPO's gradient


def test_beta_changes_what_is_read_and_no_stored_value(paired):
    before, query = stored(paired), "SELECT example_id, branch, position, adapt_direct, loss FROM token_values ORDER BY ALL"
    values, weights = paired.sql(query), dict(paired.sql("SELECT example_id, weight FROM pairs"))
    receipt = paired.mask("preference.beta=0.7").counts["masks"]
    assert {mask["policy"]: mask["written"] for mask in receipt} == {"default": True, "full": False, "random": False}
    after, again = stored(paired), dict(paired.sql("SELECT example_id, weight FROM pairs"))
    assert (after["direction_values"], after["signal_values"]) == (before["direction_values"], before["signal_values"])
    assert paired.sql("SELECT DISTINCT beta FROM pairs") == [(0.7,)]
    for (example, *_, old, loss), (*_, new, same_loss) in zip(values, paired.sql(query), strict=True):
        assert new == pytest.approx(old * again[example] / weights[example], rel=1e-5)
        assert loss == same_loss
    untouched = paired.bytes_of_warehouse()
    assert not paired.mask("preference.beta=0.7").wrote_release
    assert paired.bytes_of_warehouse() == untouched


# ---- what changes cost


def test_an_unchanged_run_writes_nothing_whatever_the_order_and_the_batches(paired):
    before = paired.bytes_of_warehouse()
    assert scored(paired) == (0, 0, 0)
    write_rows(paired.folder / "train.jsonl", rows_of(paired)[::-1])
    assert scored(paired, "scoring.batch_tokens=100", "scoring.part_tokens=1024") == (0, 0, 0)
    assert paired.bytes_of_warehouse() == before


def test_an_edited_branch_is_scored_alone_an_added_pair_twice_a_deleted_one_not_at_all(paired):
    rows, before = rows_of(paired), stored(paired)
    edited = [{**rows[0], "rejected": rows[0]["rejected"] + " hello ."}, *rows[1:]]
    write_rows(paired.folder / "train.jsonl", edited)
    assert scored(paired) == (1, 1, 0)
    write_rows(paired.folder / "train.jsonl", [*edited[:3], {**edited[3], "chosen": edited[3]["chosen"] + " hello ."}, *edited[4:]])
    assert scored(paired) == (1, 1, 0)
    write_rows(paired.folder / "train.jsonl", [*rows, *as_pairs(purchases(31, 1), purchases(32, 1))])
    assert scored(paired) == (1, 2, 0)
    write_rows(paired.folder / "train.jsonl", rows[2:])
    assert scored(paired) == (0, 0, 0)
    assert paired.sql("SELECT count(*), (SELECT count(*) FROM pairs) FROM examples") == [(NUM_PAIRS - 2, NUM_PAIRS - 2)]
    write_rows(paired.folder / "train.jsonl", rows)
    assert scored(paired) == (0, 0, 0)
    for table in ("direction_values", "signal_values"):
        assert set(map(repr, before[table])) <= set(map(repr, stored(paired)[table]))


def test_values_do_not_depend_on_batch_mates_order_or_padding(paired, paired_once):
    with duckdb.connect(str(paired.warehouse / "alphatoken.duckdb")) as con:
        for table in ("direction_values", "signal_values"):
            con.execute(f"DELETE FROM record.{table}")
    write_rows(paired.folder / "train.jsonl", rows_of(paired)[::-1])
    assert scored(paired, "scoring.batch_tokens=90", "scoring.part_tokens=200", "scoring.packing=true") == (0, 2 * NUM_PAIRS - 1, 0)
    for table in ("direction_values", "signal_values"):
        found, expected = stored(paired)[table], stored(paired_once)[table]
        assert [row[:2] for row in found] == [row[:2] for row in expected]
        for one, other in zip(found, expected, strict=True):
            for a, b in zip(one[2:4], other[2:4], strict=True):
                assert (a is None) == (b is None)  # not all that is known of the scoring model is kept of the reference
                if b is not None:
                    np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * np.abs(b).max())


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_values_and_masks_of_an_uninterrupted_one(made, driver, tmp_path):
    whole, killed = (Project.copy_of(made.folder, tmp_path / name) for name in ("whole", "killed"))
    driver.run("value", folder=str(whole.folder))
    for point, number in (
        ("artifact made, not noted", 2),
        ("batch", 3),
        ("part half written", 2),
        ("before commit", 2),
        ("values there, no scoring", 1),
    ):
        driver.run_killed("value", folder=str(killed.folder), point=point, number=number)
    driver.run("value", folder=str(killed.folder))
    assert stored(killed) == stored(whole)
    query = "SELECT * FROM pairs ORDER BY example_id"
    assert killed.sql(query) == whole.sql(query)


def test_the_papers_estimator_gives_rejected_responses_the_opposite_sign(paired):
    propagation = "scoring.propagation={last_blocks: 1, window: 4, fisher_sequences: 6, fisher_prompt_tokens: 8, fisher_sampled_tokens: 6}"
    rows = rows_of(paired)
    swapped = {**rows[2], "chosen": rows[2]["rejected"], "rejected": rows[2]["chosen"]}
    write_rows(paired.folder / "train.jsonl", [*rows, swapped])
    paired.value("scoring.estimator=value_propagation", propagation)
    values = {}
    for ids, branch, direct, causal in paired.sql(
        """
        SELECT token_ids, branch, direct, causal FROM record.current_sequences JOIN record.direction_values USING (sequence_id)
        JOIN scorings ON is_current AND values_id = adapt_values_id
        """
    ):
        values.setdefault(tuple(ids), {})[branch] = np.array([direct, causal])
    twins = [one for one in values.values() if len(one) == 2]
    assert len(twins) == 2
    for one in twins:
        assert np.abs(one["chosen"]).max() > 0
        np.testing.assert_allclose(one["chosen"], -one["rejected"], rtol=0, atol=1e-6 * np.abs(one["chosen"]).max())
    assert {row[0] for row in paired.sql("SELECT DISTINCT policy FROM masks WHERE is_current")} == {"default", "full", "paper", "random"}


# ---- masks


def kept(project, policy):
    return dict(project.sql(f"SELECT branch, avg(keep::INT) FROM token_masks WHERE policy = '{policy}' GROUP BY branch"))


def test_masks_are_made_for_each_branch_by_itself(paired):
    paired.mask(
        "policy={wide: {scope: dataset, keep: 0.4, min_kept: 0}, one: {scope: dataset, keep: 0.4, min_kept: 0, across_branches: true}}"
    )
    assert kept(paired, "wide") == pytest.approx({"chosen": 0.424, "rejected": 0.424}, abs=0.02)  # and the ends of turn
    together = kept(paired, "one")
    assert abs(together["chosen"] - together["rejected"]) > 0.05
    assert sum(together.values()) / 2 == pytest.approx(0.424, abs=0.02)


def test_a_policy_may_do_otherwise_on_one_branch(paired):
    before = dict(
        paired.sql("SELECT branch, list(keep ORDER BY example_id, position) FROM token_masks WHERE policy = 'default' GROUP BY ALL")
    )
    paired.mask("policy={default: {branches: {rejected: {keep: 0.2}}}, kept: {branches: {chosen: {select: all}}}}")
    after = dict(
        paired.sql("SELECT branch, list(keep ORDER BY example_id, position) FROM token_masks WHERE policy = 'default' GROUP BY ALL")
    )
    assert after["chosen"] == before["chosen"]
    assert kept(paired, "default")["rejected"] == pytest.approx(0.24, abs=0.03)
    assert kept(paired, "kept") == {"chosen": 1.0, "rejected": pytest.approx(0.72, abs=0.02)}


def test_status_tells_that_nothing_is_to_be_done_and_what_beta_would_change(paired):
    from tasks import status
    from tasks.settings import load
    from warehouse.read import Reader

    def told(*overrides):
        with Reader(paired.warehouse) as reader:
            return dict(status.plan(load(paired.config, overrides), reader))

    now = told()
    assert (now["directions"], now["score"], now["mask default"]) == ("nothing to make", "nothing: 0 tokens", "unchanged")
    paired.value("data.validation=single.jsonl")
    then = told("data.validation=single.jsonl", "preference.beta=0.7")
    assert (then["directions"], then["score"], then["mask default"], then["mask full"]) == (
        "nothing to make", "nothing: 0 tokens", "to be written", "unchanged",
    )  # fmt: skip
    assert told("preference.beta=0.7")["directions"] == "adaptation direction"


def test_named_queries_tell_branches_and_sources_of_pairs_apart(paired_once):
    from warehouse.read import Reader

    expected = dict(paired_once.sql("SELECT source, avg((margin > 0)::INT) FROM pairs GROUP BY source"))
    with Reader(paired_once.warehouse) as reader:
        margins = reader.named("margins_by_source")
        assert margins.select("source", "num_pairs").sort("source").rows() == [("a", NUM_PAIRS // 2), ("b", NUM_PAIRS // 2)]
        assert dict(margins.select("source", "accuracy").rows()) == pytest.approx(expected)
        for name in ("value_by_source", "kept_by_source", "end_of_turn_value", "kept_by_position_decile"):
            both, one, other = (reader.named(name, branch=branch)["num_tokens"].sum() for branch in ("all", "chosen", "rejected"))
            assert one > 0
            assert both == one + other
        assert reader.named("mask_overlap", branch="sft")["num_tokens"].to_list() == [0]


def test_an_example_is_told_with_both_branches(paired_once, capsys):
    from reports.story import print_story
    from warehouse.explain import explain
    from warehouse.read import Reader

    ((example_id,),) = paired_once.sql("SELECT min(example_id) FROM pairs")
    with Reader(paired_once.warehouse) as reader:
        story = explain(reader, example_id)
        print_story(story)
    assert set(story.values["branch"]) == {"chosen", "rejected"}
    out = capsys.readouterr().out
    for words in ("sequence (chosen)", "sequence (rejected)", "default (chosen)", "full (rejected)"):
        assert words in out
