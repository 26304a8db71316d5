"""Laws of tasks/directions.py, tasks/adaptation.py and tasks/artifacts.py: artefacts are made once, known by their content, and made again only where they must be."""

import json
import shutil

import pytest

from models.settings import CODE_VERSIONS
from tests.flows.world import purchases, stored

KINDS = ("warmup", "adapt", "texts", "stab", "alignment")
SUFFIXES = {"warmup": "", "texts": ".json", "alignment": ".json"}
FISHER = "scoring.stability.form=fisher_drift"


def artefacts(project):
    return {kind: (digest, path) for kind, digest, path in project.live("SELECT kind, content_digest, path FROM record.artifacts")}


def test_each_artefact_is_named_by_its_content_and_lies_in_the_warehouse(valued_once):
    found = artefacts(valued_once)
    assert set(found) == set(KINDS)
    for kind, (digest, path) in found.items():
        assert path == f"artifacts/{kind}-{digest[:16]}" + SUFFIXES.get(kind, ".safetensors")
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


def test_a_warm_up_that_was_altered_is_refused_and_made_again_by_a_refresh(valued):
    from safetensors.torch import load_file, save_file

    before, values = artefacts(valued), stored(valued)
    weights = valued.warehouse / before["warmup"][1] / "model.safetensors"
    whole = weights.read_bytes()
    save_file({name: t * 1.01 for name, t in load_file(weights).items()}, weights, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=rf"is not the warm-up that was pinned: .* expected {before['warmup'][0]}; .*--refresh-scoring"):
        valued.value()
    assert valued.value(refresh=True).counts["directions"]["num_made"] == len(KINDS)
    assert weights.read_bytes() == whole
    assert (artefacts(valued), stored(valued)) == (before, values)
    assert {p.name for p in (valued.warehouse / "artifacts").iterdir()} == {path.split("/")[1] for _, path in before.values()}


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
    assert {kind: said[kind]["digest"] for kind in ("adapt", "stab", "texts")} == {
        kind: found[kind][0] for kind in ("adapt", "stab", "texts")
    }
    assert said["scoring"] == {"name": "warm-up", "digest": said["scoring"]["digest"]}
    assert said["reference"]["digest"] != said["scoring"]["digest"]
    assert said["adapt"]["covered_parameters"] == pytest.approx(1)
    assert said["code_versions"] == {name: CODE_VERSIONS[name] for name in ("directions", "fisher", "probe", "train")}
    versions = dict(valued_once.live("SELECT kind, (settings ->> '$.code_version')::INT FROM record.artifacts"))
    assert versions == {
        "warmup": CODE_VERSIONS["train"], "texts": CODE_VERSIONS["fisher"],
        **dict.fromkeys(("adapt", "stab", "alignment"), CODE_VERSIONS["directions"]),
    }  # fmt: skip
    assert said["adapt"]["num_sequences"] == 6
    assert min(said[kind]["norm"] for kind in ("adapt", "stab")) > 0
    assert said["texts"]["num_texts"] == 8
    for kind in ("adapt", "stab"):
        shares = list(said[kind]["energy_shares"].values())
        assert 0.5 < sum(shares) < 1 + 1e-9, kind  # of the ten largest of twenty tensors
        assert len(shares) == 10


def test_norm_and_content_of_a_direction_are_those_of_its_file(valued_once):
    from models.directions import content_digest, load_tensors

    ((settings,),) = valued_once.sql("SELECT settings FROM scorings WHERE is_current")
    for kind in ("adapt", "stab"):
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


def models_of(project):
    from models.reference import load_model, resolve_device

    cpu = resolve_device("cpu")
    return load_model(project.warehouse / artefacts(project)["warmup"][1], cpu), load_model(project.model, cpu)


def tensors_of(project, kind):
    from models.directions import load_tensors

    return load_tensors(project.warehouse / artefacts(project)[kind][1])


def test_stability_is_the_gradient_of_the_divergence_on_the_stored_texts(valued_once):
    import torch

    model, reference = models_of(valued_once)
    texts = json.loads((valued_once.warehouse / artefacts(valued_once)["texts"][1]).read_text())
    assert len(texts) == 8
    model.requires_grad_(True)
    divergences = []
    for ids, first in texts:
        assert (ids[0], first) == (1, 1)
        q, p = (m(input_ids=torch.tensor([ids])).logits[0, :-1].log_softmax(-1) for m in (model, reference))
        divergences.append((p.exp() * (p - q)).sum(-1))
    torch.cat(divergences).mean().backward()
    stab = tensors_of(valued_once, "stab")
    assert set(stab) == {n for n, _ in model.named_parameters()}
    for name, p in model.named_parameters():
        assert torch.allclose(stab[name], p.grad, rtol=1e-3, atol=1e-4 * p.grad.abs().max().item()), name
        assert bool(stab[name].any()), name


def test_stability_of_the_paper_is_fisher_times_drift(valued):
    from models.reference import float32_parameters

    valued.value(FISHER)
    fisher, stab = (tensors_of(valued, kind) for kind in ("fisher", "stab"))
    theta, reference = (float32_parameters(m) for m in models_of(valued))
    assert set(fisher) == set(stab) == set(theta)
    for name in stab:
        assert stab[name].equal(fisher[name] * (theta[name] - reference[name]))
        assert bool(stab[name].any()), name


# ---- what is made again


def changed(project, *overrides):
    """Value again; tell which kinds of artefacts were made then, and which groups of values lacked."""
    before = {row[0] for row in project.live("SELECT artifact_key FROM record.artifacts")}
    ids = project.live("SELECT DISTINCT values_id FROM record.direction_values")
    done = project.value(*overrides).counts
    fresh = [kind for key, kind in project.live("SELECT artifact_key, kind FROM record.artifacts") if key not in before]
    new = len(project.live("SELECT DISTINCT values_id FROM record.direction_values")) - len(ids)
    assert len(fresh) == done["directions"]["num_made"]
    return sorted(fresh), new


@pytest.mark.parametrize(
    ("override", "made"),
    [
        ("scoring.stability.scaling=tensor_norm", ["alignment", "stab"]),
        ("scoring.adaptation={scope_exclude: ['*norm*'], scaling: tensor_norm}", ["adapt"]),
        ("scoring.fisher.num_sequences=5", ["alignment", "stab", "texts"]),
    ],
)
def test_a_setting_of_one_direction_remakes_it_and_its_values_alone(valued, override, made):
    adapt = tensors_of(valued, "adapt")
    assert changed(valued, override) == (made, 1)
    if "adapt" not in made:
        assert all(t.equal(adapt[n]) for n, t in tensors_of(valued, "adapt").items())


def test_the_number_of_texts_remakes_fisher_and_stability(valued):
    assert changed(valued, FISHER) == (["alignment", "fisher", "stab"], 1)
    assert changed(valued, FISHER, "scoring.fisher.num_sequences=5") == (["alignment", "fisher", "stab", "texts"], 1)
    assert changed(valued, FISHER, "scoring.stability.scope_exclude=['*norm*']", "scoring.fisher.num_sequences=5") == (
        ["alignment", "stab"],
        1,
    )


def test_scope_and_scaling_are_in_the_stored_direction(valued):
    from models.probe import total_norm

    whole = tensors_of(valued, "stab")
    valued.value("scoring.stability.scope_exclude=['*norm*']", "scoring.stability.scaling=tensor_norm")
    rows = valued.live("SELECT path, details FROM record.artifacts WHERE kind = 'stab' ORDER BY created_at DESC LIMIT 1")
    from models.directions import load_tensors

    stab, details = load_tensors(valued.warehouse / rows[0][0]), json.loads(rows[0][1])
    assert set(stab) == {n for n in whole if "norm" not in n}
    norms = [total_norm([t]) for t in stab.values()]
    assert norms == pytest.approx([norms[0]] * len(norms), rel=1e-5)
    assert total_norm(stab.values()) == pytest.approx(total_norm(whole[n] for n in stab), rel=1e-5)
    assert details["covered_parameters"] == pytest.approx(sum(t.numel() for t in stab.values()) / sum(t.numel() for t in whole.values()))


# ---- where the texts come from


def test_prompts_are_drawn_once_and_then_pinned(valued):
    source = ("scoring.fisher.source=prompts", "scoring.fisher.num_sequences=12")
    made, _ = changed(valued, *source)
    assert made == ["alignment", "stab", "texts"]
    rows = valued.live("SELECT path FROM record.artifacts WHERE kind = 'texts' ORDER BY created_at DESC LIMIT 1")
    texts = json.loads((valued.warehouse / rows[0][0]).read_text())
    prompts = {tuple(ids[: positions[0]]) for ids, positions in valued.live("SELECT token_ids, response_positions FROM sequences")}
    assert len(texts) == 12
    assert {tuple(ids[:first]) for ids, first in texts} <= prompts
    assert all(first < len(ids) for ids, first in texts)
    valued.write_train([*valued.train_rows(), *purchases(99, 7)])
    assert changed(valued, *source) == ([], 0)


def test_retention_source_takes_the_alignment_half_as_it_stands(valued):
    from models.reference import load_tokenizer
    from tasks.training_plan import retention_half

    texts = (valued.folder / "retention.txt").read_text().split("\n<|endoftext|>\n")
    tokenizer = load_tokenizer(valued.model)
    expected = [[1, *tokenizer(t, add_special_tokens=False)["input_ids"]] for t in retention_half(list(dict.fromkeys(texts)), 0)]
    changed(valued, "scoring.fisher.source=retention")
    rows = valued.live("SELECT path FROM record.artifacts WHERE kind = 'texts' ORDER BY created_at DESC LIMIT 1")
    assert json.loads((valued.warehouse / rows[0][0]).read_text()) == [[ids, 1] for ids in expected]


def test_retention_source_without_a_retention_text_is_refused(valued):
    with pytest.raises(ValueError, match=r"scoring\.fisher\.source is 'retention', but data\.retention is not set"):
        valued.value("scoring.fisher.source=retention", "data.retention=null")


# ---- alignment


def test_alignment_equals_a_slow_cosine(valued_once):
    import torch

    from models.reference import load_tokenizer
    from tasks.training_plan import retention_half

    texts = retention_half(list(dict.fromkeys((valued_once.folder / "retention.txt").read_text().split("\n<|endoftext|>\n"))), 0)
    model, _ = models_of(valued_once)
    tokenizer = load_tokenizer(valued_once.model)
    model.double().requires_grad_(True)
    losses = []
    for text in texts:
        ids = [1, *tokenizer(text, add_special_tokens=False)["input_ids"]]
        log_probs = model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
        losses += [-log_probs[u - 1, ids[u]] for u in range(1, len(ids))]
    loss = sum(losses) / len(losses)
    loss.backward()
    stab = tensors_of(valued_once, "stab")
    one, other = (
        torch.cat([t.flatten().double() for t in side]) for side in (stab.values(), [dict(model.named_parameters())[n].grad for n in stab])
    )
    expected = (one @ other / one.norm() / other.norm()).item()
    ((told,),) = valued_once.sql("SELECT settings -> '$.stability_alignment' FROM scorings WHERE is_current")
    assert json.loads(told) == {
        "scope": pytest.approx(expected, abs=1e-4), "all": pytest.approx(expected, abs=1e-4), "num_texts": len(texts),
        "retention_loss": pytest.approx(loss.item(), rel=1e-4),
    }  # fmt: skip


def test_outside_its_scope_a_direction_counts_as_zero_in_the_alignment(valued):
    valued.value("scoring.stability.scope_exclude=['*embed_tokens*']")
    ((told,),) = valued.sql("SELECT settings -> '$.stability_alignment' FROM scorings WHERE is_current")
    assert 0 < abs(json.loads(told)["all"]) < abs(json.loads(told)["scope"])


def test_alignment_texts_are_not_those_that_training_measures(valued_once):
    from tasks import identities
    from tasks.retention import alignment_texts
    from tasks.runs import Run
    from tasks.settings import load
    from tasks.training_plan import plan_training
    from warehouse.queries import Queries
    from warehouse.read import Reader
    from warehouse.release import opened

    config = load(valued_once.config)
    with Reader(valued_once.warehouse) as reader:
        aligned = alignment_texts(config, identities.tokenization(reader, config)).texts
    with opened(valued_once.warehouse) as (con, _):
        measured = plan_training(Run.begin("train", config), Queries(con), "default").retention
    assert aligned
    assert measured
    assert not set(aligned) & set(measured)


def test_another_retention_text_measures_the_alignment_again_and_changes_no_value(valued):
    query = (
        "SELECT scoring_id, (settings ->> '$.stability_alignment.num_texts')::INT, settings ->> '$.stability_alignment.scope' FROM scorings"
    )
    (before,), values = valued.sql(query), stored(valued)
    texts = (valued.folder / "retention.txt").read_text().split("\n<|endoftext|>\n")
    (valued.folder / "retention.txt").write_text("\n<|endoftext|>\n".join(texts[:6]))
    assert changed(valued) == (["alignment"], 0)
    (after,) = valued.sql(query)
    assert after[0] == before[0]
    assert after[1] < before[1]
    assert after[2] != before[2]
    assert stored(valued) == values


def test_without_a_retention_text_nothing_is_aligned(project):
    done = project.value("data.retention=null").counts
    assert done["directions"]["stability_alignment"] is None
    assert "alignment" not in artefacts(project)
    assert project.sql("SELECT settings ->> '$.stability_alignment' FROM scorings") == [(None,)]


def test_at_the_reference_stability_is_exactly_zero_and_has_no_alignment(valued):
    done = valued.value("scoring.warmup.steps=0").counts
    assert done["directions"]["stability_alignment"] is None
    rows = valued.sql("SELECT max(abs(stab_direct)), max(abs(stab_causal)) FROM token_values")
    assert rows == [(0.0, 0.0)]


@pytest.mark.parametrize("section", ["scoring", "scoring.adaptation", "scoring.stability"])
def test_pattern_of_every_scope_that_matches_no_parameter_is_refused(valued, section):
    with pytest.raises(ValueError, match=rf"{section}.scope_exclude: pattern 'embeddings\.\*' matches none of"):
        valued.value(f"{section}.scope_exclude=[embeddings.*]")
