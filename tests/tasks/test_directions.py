"""Laws of tasks/directions.py: artefacts are made once, known by their content, and made again only where they must be."""

import json
import shutil

import pytest

from tests.flows.world import purchases, stored

KINDS = ("warmup", "fisher", "adapt", "stab")


def artefacts(project):
    return {kind: (digest, path) for kind, digest, path in project.live("SELECT kind, content_digest, path FROM record.artifacts")}


def test_each_artefact_is_named_by_its_content_and_lies_in_the_warehouse(valued_once):
    found = artefacts(valued_once)
    assert set(found) == set(KINDS)
    for kind, (digest, path) in found.items():
        assert path == f"artifacts/{kind}-{digest[:16]}" + ("" if kind == "warmup" else ".safetensors")
        assert (valued_once.warehouse / path).exists()
    assert {p.name for p in (valued_once.warehouse / "artifacts").iterdir()} == {path.split("/")[1] for _, path in found.values()}


def test_artefacts_are_pinned_not_made_again_for_new_rows(valued):
    before = artefacts(valued)
    valued.write_train([*valued.train_rows(), *purchases(99, 7)])
    assert valued.value().counts["directions"]["num_made"] == 0
    assert artefacts(valued) == before


@pytest.mark.parametrize("kind", KINDS)
def test_artefact_that_is_gone_is_made_again_with_the_same_content(valued, told, kind):
    before, values = artefacts(valued), stored(valued)
    path = valued.warehouse / before[kind][1]
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    done = valued.value()
    assert f"the {kind} at {path} is gone; making it again" in told.text
    assert (done.counts["directions"]["num_made"], done.counts["score"]["num_sequences"]) == (1, 0)
    assert artefacts(valued) == before
    assert path.exists()
    assert stored(valued) == values


def test_what_a_killed_run_left_of_an_artefact_is_not_used(project, valued_once):
    left = project.warehouse / "artifacts" / ".warmup-partial"
    left.mkdir(parents=True)
    (left / "config.json").write_text("{}")
    (left / "stray.safetensors").write_text("")
    project.value()
    assert artefacts(project) == artefacts(valued_once)
    assert not left.exists()


def test_scoring_says_what_it_was_made_of(valued_once):
    ((settings,),) = valued_once.sql("SELECT settings FROM scorings WHERE is_current")
    said, found = json.loads(settings), artefacts(valued_once)
    assert {kind: said[kind]["digest"] for kind in ("adapt", "stab", "fisher")} == {
        kind: found[kind][0] for kind in ("adapt", "stab", "fisher")
    }
    assert said["scoring"] == {"name": "warm-up", "digest": said["scoring"]["digest"]}
    assert said["reference"]["digest"] != said["scoring"]["digest"]
    assert said["adapt"]["covered_parameters"] == pytest.approx(1)
    assert said["adapt"]["num_sequences"] == 6
    assert min(said[kind]["norm"] for kind in ("adapt", "stab", "fisher")) > 0


def test_norm_and_content_of_a_direction_are_those_of_its_file(valued_once):
    from models.directions import content_digest, load_tensors

    ((settings,),) = valued_once.sql("SELECT settings FROM scorings WHERE is_current")
    for kind in ("adapt", "stab", "fisher"):
        digest, path = artefacts(valued_once)[kind]
        tensors = load_tensors(valued_once.warehouse / path)
        assert content_digest(tensors) == digest
        assert json.loads(settings)[kind]["norm"] == pytest.approx(sum(float((t.double() ** 2).sum()) for t in tensors.values()) ** 0.5)


def test_warm_up_is_a_training_on_all_sequences_of_the_snapshot(valued_once):
    from models.reference import float32_parameters, load_model, resolve_device
    from models.settings import WarmupSettings
    from models.training import fit

    rows = valued_once.live("SELECT DISTINCT sequence_id, token_ids, response_positions FROM sequences ORDER BY sequence_id")
    assert len(rows) == 40
    cpu = resolve_device("cpu")
    expected = fit(load_model(valued_once.model, cpu), [row[1:] for row in rows], WarmupSettings(steps=6, batch_size=8, learning_rate=3e-3))
    found = load_model(valued_once.warehouse / artefacts(valued_once)["warmup"][1], cpu)
    for name, tensor in float32_parameters(expected).items():
        assert tensor.equal(float32_parameters(found)[name]), name


def test_stability_is_fisher_times_drift(valued_once):
    from models.directions import load_tensors
    from models.reference import float32_parameters, load_model, resolve_device

    cpu, found = resolve_device("cpu"), artefacts(valued_once)
    fisher, stab = (load_tensors(valued_once.warehouse / found[kind][1]) for kind in ("fisher", "stab"))
    theta, reference = (float32_parameters(load_model(f, cpu)) for f in (valued_once.warehouse / found["warmup"][1], valued_once.model))
    assert set(fisher) == set(stab) == set(theta)
    for name in stab:
        assert stab[name].equal(fisher[name] * (theta[name] - reference[name]))
        assert bool(stab[name].any()), name


def test_pattern_that_matches_no_parameter_is_refused(valued):
    with pytest.raises(ValueError, match=r"scoring.scope_exclude: pattern 'embeddings\.\*' matches none of"):
        valued.value("scoring.scope_exclude=[embeddings.*]")
