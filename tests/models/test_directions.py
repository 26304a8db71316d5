"""Directions of models/directions.py: validation gradient, sampling, Fisher, drift, files."""

import pytest
import torch

from models.batches import collate
from models.directions import (
    content_digest,
    diagonal_fisher,
    fisher_drift,
    in_scope,
    load_tensors,
    sample_sequences,
    save_tensors,
    validation_gradient,
)
from models.settings import FisherSettings
from tests.reference.families import make


def test_validation_gradient_is_a_token_mean():
    model = make("llama_tied")
    ids = [[1, 5, 9, 3, 7, 2], [1, 8, 4]]
    responses = [[3, 4, 5], [2]]
    scope = [n for n, _ in model.named_parameters()]
    split = [collate(ids[:1], responses[:1]), collate(ids[1:], responses[1:])]
    gradient, loss = validation_gradient(model, split, scope)
    model.requires_grad_(True)
    total = 0.0
    for one, response in zip(ids, responses, strict=True):
        log_probs = torch.log_softmax(model(input_ids=torch.tensor([one])).logits[0], -1)
        for u in response:
            total = total - log_probs[u - 1, one[u]]
    (total / 4).backward()
    assert loss == pytest.approx(total.item() / 4)
    for name, p in model.named_parameters():
        assert torch.allclose(gradient[name], p.grad, rtol=1e-9, atol=1e-12)
    model.requires_grad_(False)
    assert not any(p.requires_grad for p in model.parameters())


def test_validation_set_without_response_tokens_is_refused():
    with pytest.raises(ValueError, match="no response token"):
        validation_gradient(make("llama"), [collate([[1, 2]], [[0]])], ["lm_head.weight"])


def test_fisher_equals_the_slow_loop():
    model = make("llama")
    scope = ["lm_head.weight", "model.layers.0.mlp.up_proj.weight"]
    sequences = [[1, 5, 9, 3], [1, 8]]
    fisher = diagonal_fisher(model, sequences, scope)
    params = dict(model.named_parameters())
    expected = {n: torch.zeros_like(params[n]) for n in scope}
    for n in scope:
        params[n].requires_grad_(True)
    for ids in sequences:
        log_probs = torch.log_softmax(model(input_ids=torch.tensor([ids])).logits[0].float(), -1)
        total = sum(log_probs[u - 1, ids[u]] for u in range(1, len(ids)))
        for n, g in zip(scope, torch.autograd.grad(total, [params[n] for n in scope]), strict=True):
            expected[n] += g**2 / (len(ids) - 1) / 2
    for n in scope:
        assert torch.allclose(fisher[n], expected[n], rtol=1e-6)
        assert (fisher[n] >= 0).all()


def test_sampling_is_seeded_starts_at_bos_and_leaves_the_global_state_alone():
    model = make("llama", torch.float32)
    model.generation_config.bos_token_id, model.generation_config.eos_token_id = 1, 2
    torch.manual_seed(123)
    state = torch.random.get_rng_state()
    first = sample_sequences(model, FisherSettings(num_sequences=70, num_tokens=12, seed=5))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert first == sample_sequences(model, FisherSettings(num_sequences=70, num_tokens=12, seed=5))
    assert first != sample_sequences(model, FisherSettings(num_sequences=70, num_tokens=12, seed=6))
    assert len(first) == 70
    for ids in first:
        assert ids[0] == 1
        assert 2 <= len(ids) <= 13
        assert 2 not in ids[1:-1]  # nothing is kept behind the end of a text


def test_sampling_follows_the_model_distribution():
    """The first sampled token of 4000 texts against its probabilities: temperature 1, no truncation of the tail."""
    model = make("llama", torch.float32)
    model.generation_config.bos_token_id, model.generation_config.eos_token_id = 1, 2
    firsts = torch.tensor([ids[1] for ids in sample_sequences(model, FisherSettings(num_sequences=4000, num_tokens=1), batch_size=4000)])
    observed = torch.bincount(firsts, minlength=61) / 4000
    expected = model(input_ids=torch.tensor([[1]])).logits[0, -1].softmax(-1)
    deviation = (expected * (1 - expected) / 4000).sqrt()
    assert ((observed - expected).abs() <= 5 * deviation + 1e-3).all()


def test_sampling_takes_nothing_else_from_the_model_s_generation_settings():
    model = make("llama", torch.float32)
    model.generation_config.bos_token_id, model.generation_config.eos_token_id = 1, 2
    settings = FisherSettings(num_sequences=20, num_tokens=100)
    before = sample_sequences(model, settings)
    assert max(map(len, before)) <= 64  # the context
    model.generation_config.repetition_penalty, model.generation_config.no_repeat_ngram_size = 5.0, 1
    model.generation_config.min_new_tokens, model.generation_config.suppress_tokens = 50, [3, 4]
    assert sample_sequences(model, settings) == before
    assert model.generation_config.repetition_penalty == pytest.approx(5.0)


def test_drift_is_zero_at_the_reference():
    model = make("llama", torch.float32)
    parameters = {n: p.detach().clone() for n, p in model.named_parameters()}
    fisher = {"lm_head.weight": torch.rand_like(parameters["lm_head.weight"])}
    assert fisher_drift(fisher, parameters, parameters)["lm_head.weight"].abs().max() == 0
    moved = {n: p + 0.5 for n, p in parameters.items()}
    assert torch.allclose(fisher_drift(fisher, moved, parameters)["lm_head.weight"], 0.5 * fisher["lm_head.weight"], atol=1e-6)


def test_scope_patterns():
    names = ["model.embed_tokens.weight", "model.layers.0.mlp.up_proj.weight", "lm_head.weight"]
    assert in_scope(names, ["*embed*"]) == names[1:]
    with pytest.raises(ValueError, match="matches none of 3"):
        in_scope(names, ["*experts*"])
    with pytest.raises(ValueError, match="leaves no parameter"):
        in_scope(names, ["*"])


def test_tensors_survive_the_file_and_digest_their_content(tmp_path):
    tensors = {"b": torch.randn(3, 4).T, "a": torch.tensor(1.5)}
    save_tensors(tensors, tmp_path / "d" / "x.safetensors")
    loaded = load_tensors(tmp_path / "d" / "x.safetensors")
    assert content_digest(loaded) == content_digest(tensors)
    loaded["a"] += 1e-6
    assert content_digest(loaded) != content_digest(tensors)
    assert not list(tmp_path.glob("d/*.partial"))
