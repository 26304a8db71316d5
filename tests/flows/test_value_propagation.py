"""Laws of the flows under the estimator `value_propagation` and of its policy `paper`."""

import json
import math

import numpy as np
import pytest

from models.settings import Paper
from tests.flows.world import Project, stored, without_prefect
from warehouse.policies import BUILT_IN

PROPAGATION = (
    "scoring.estimator=value_propagation",
    "scoring.propagation={last_blocks: 1, window: 4, fisher_sequences: 9, fisher_prompt_tokens: 8, fisher_sampled_tokens: 6}",
)


@pytest.fixture(scope="module")
def propagated_once(template, tmp_path_factory):
    made = Project.copy_of(template, tmp_path_factory.mktemp("propagated") / "project")
    with without_prefect():
        made.value(*PROPAGATION)
    return made


@pytest.fixture
def propagated(propagated_once, tmp_path):
    with without_prefect():
        yield Project.moved(propagated_once, tmp_path / "propagated")


def artefacts(project):
    return {kind: project.warehouse / path for kind, path in project.live("SELECT kind, path FROM record.artifacts")}


def test_a_second_run_writes_nothing(propagated):
    before = propagated.bytes_of_warehouse()
    again = propagated.value(*PROPAGATION)
    assert (again.counts["score"]["num_tokens"], again.counts["directions"]["num_made"], again.wrote_release) == (0, 0, False)
    assert propagated.bytes_of_warehouse() == before


def test_stored_values_are_those_of_each_sequence_alone(propagated_once):
    from models.directions import load_tensors
    from models.propagation import PropagationScorer
    from models.reference import load_model, resolve_device
    from models.settings import PropagationSettings

    found = artefacts(propagated_once)
    model = load_model(found["warmup"], resolve_device("cpu"))
    directions = {name: load_tensors(found[name]) for name in ("adapt", "stab")}
    assert (
        set(directions["adapt"]) == set(directions["stab"]) == {n for n, p in model.named_parameters() if "layers.1." in n and p.dim() == 2}
    )
    scorer = PropagationScorer(model, directions, PropagationSettings(last_blocks=1, window=4))
    rows = propagated_once.sql(
        "SELECT token_ids, response_positions, adapt_direct, adapt_causal, stab_direct, stab_causal, loss, adapt_prompt_context "
        "FROM record.value_lists ORDER BY sequence_id LIMIT 6"
    )
    for token_ids, positions, *lists, context in rows:
        alone = scorer.score([token_ids], [positions])[0]
        expected = (alone.direct["adapt"], alone.causal["adapt"], alone.direct["stab"], alone.causal["stab"], alone.loss)
        for value, exact in zip(lists, expected, strict=True):
            np.testing.assert_allclose(np.array(value, dtype=float), exact, rtol=0, atol=1e-5 * np.abs(exact).max())
            assert np.abs(exact).max() > 0
        assert context is None  # prompt tokens have no value of their own


def test_stability_is_token_level_fisher_times_drift_on_continued_training_prompts(propagated_once):
    from models.directions import load_tensors
    from models.reference import float32_parameters, load_model, resolve_device
    from models.settings import PropagationSettings
    from models.token_fisher import continue_prompts, token_fisher
    from tasks.propagation import training_prompts

    found, cpu = artefacts(propagated_once), resolve_device("cpu")
    rows = propagated_once.sql("SELECT DISTINCT sequence_id, token_ids, response_positions FROM sequences")
    settings = PropagationSettings(last_blocks=1, fisher_sequences=9, fisher_prompt_tokens=8, fisher_sampled_tokens=6)
    prompts = training_prompts(rows, 9)
    assert len(prompts) == 9
    reference = load_model(propagated_once.model, cpu)
    stab, warm, cold = load_tensors(found["stab"]), float32_parameters(load_model(found["warmup"], cpu)), float32_parameters(reference)
    fisher = token_fisher(reference, continue_prompts(reference, prompts, settings), list(stab), 1, 256)
    for name, tensor in stab.items():
        expected = fisher[name] * (warm[name] - cold[name])
        np.testing.assert_allclose(tensor, expected, rtol=1e-4, atol=1e-6 * float(expected.abs().max()))
    ((said,),) = propagated_once.sql("SELECT settings FROM scorings WHERE is_current")
    assert json.loads(said)["fisher"]["num_texts"] == 9
    assert json.loads(said)["propagation"]["window"] == 4
    assert set(found) == {"warmup", "token_fisher", "adapt", "stab"}  # the Fisher of `exact` is not made


def test_signals_and_warm_up_are_kept_when_the_estimator_changes(valued):
    before = stored(valued)["signal_values"]
    done = valued.value(*PROPAGATION)
    assert done.counts["directions"]["num_made"] == 3  # the token-level Fisher and both directions
    assert stored(valued)["signal_values"] == before
    assert valued.value().counts["score"]["num_tokens"] == 0  # and back, all values are there


def test_policy_paper_keeps_the_better_half_of_each_response_by_the_sum_of_equation_12(propagated_once):
    assert (BUILT_IN["paper"].keep, BUILT_IN["paper"].weights["stab_causal"]) == (0.5, 1.5)
    rows = propagated_once.sql(
        """
        SELECT list(keep ORDER BY position), list([adapt_direct, adapt_causal, stab_direct, stab_causal] ORDER BY position)
        FROM (SELECT DISTINCT sequence_id, position, keep, adapt_direct, adapt_causal, stab_direct, stab_causal
            FROM token_values JOIN token_masks USING (sequence_id, position) WHERE policy = 'paper')
        GROUP BY sequence_id
        """
    )
    assert len(rows) == 40
    for kept, components in rows:
        phi = np.array(components, dtype=float) @ [1.0, 1.0, 1.5, 1.5]
        assert sum(kept) == math.ceil(0.5 * len(phi))  # the end of turn is a token like any other
        assert set(np.flatnonzero(kept)) == set(np.argsort(-phi, kind="stable")[: sum(kept)])


def test_policy_paper_is_written_for_its_estimator_alone_and_refuses_another(valued, propagated_once):
    assert {row[0] for row in propagated_once.sql("SELECT DISTINCT policy FROM masks")} == {"default", "full", "paper", "random"}
    assert {row[0] for row in valued.sql("SELECT DISTINCT policy FROM masks")} == {"default", "full", "random"}
    message = (
        r"policy 'paper' is for values of the estimator 'value_propagation', but the current scoring is by 'exact'; set scoring.estimator"
    )
    with pytest.raises(ValueError, match=message):
        valued.mask(policy="paper")
    assert {m["policy"] for m in valued.mask().counts["masks"]} == {"default", "full", "random"}  # none breaks
    with pytest.raises(ValueError, match=message):
        valued.mask(*PROPAGATION)  # values by another estimator than the configuration asks for


def test_status_tells_what_the_estimator_needs(valued, propagated):
    from tasks import status
    from tasks.settings import load
    from warehouse.read import Reader

    with Reader(valued.warehouse) as reader:
        told = dict(status.plan(load(valued.config, PROPAGATION), reader))
    assert told["directions"] == "adaptation direction, token-level Fisher, stability direction"
    assert told["mask paper"] == "to be written"
    with Reader(propagated.warehouse) as reader:
        told = dict(status.plan(load(propagated.config, PROPAGATION), reader))
    assert (told["directions"], told["score"], told["mask paper"]) == ("nothing to make", "nothing: 0 tokens", "unchanged")


def test_more_blocks_than_the_model_has_and_adapters_are_refused_before_anything_is_made(project):
    with pytest.raises(ValueError, match=r"scoring.propagation.last_blocks is 3, but the model has 2 blocks"):
        project.value("scoring.estimator=value_propagation")
    with pytest.raises(ValueError, match=r"'value_propagation'.*the scoring model is an adapter; set scoring.estimator to 'exact'"):
        project.value(*PROPAGATION, "scoring.warmup.lora={}")
    assert project.live("SELECT count(*) FROM record.artifacts") == [(0,)]


def test_defaults_are_the_papers():
    from models.settings import PropagationSettings

    settings = PropagationSettings()
    assert (settings.last_blocks, settings.window) == (Paper.LAST_BLOCKS, Paper.WINDOW) == (3, 32)
    assert (settings.fisher_sequences, settings.fisher_prompt_tokens, settings.fisher_sampled_tokens) == (1000, 256, 128)
