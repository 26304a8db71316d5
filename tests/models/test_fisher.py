"""The Fisher of models/fisher.py: its estimate, and the texts that a model samples for it."""

import pytest
import torch

from models.fisher import diagonal_fisher, sample_continuations, sample_sequences, whole_texts
from models.settings import FisherSettings
from tests.reference.families import make


def sampler(**ends):
    """A small model in float32 that starts with 1 and ends with 2."""
    model = make("llama", torch.float32)
    model.generation_config.bos_token_id, model.generation_config.eos_token_id = 1, ends.get("end", 2)
    return model


def test_fisher_equals_the_slow_loop():
    model = make("llama")
    scope = ["lm_head.weight", "model.layers.0.mlp.up_proj.weight"]
    texts = [([1, 5, 9, 3], range(1, 4)), ([1, 8], [1]), ([1, 4, 4, 7, 2], range(3, 5))]  # of the last one, a continuation counts
    fisher = diagonal_fisher(model, texts, scope)
    params = dict(model.named_parameters())
    expected = {n: torch.zeros_like(params[n]) for n in scope}
    for n in scope:
        params[n].requires_grad_(True)
    for ids, positions in texts:
        log_probs = torch.log_softmax(model(input_ids=torch.tensor([ids])).logits[0].float(), -1)
        total = sum(log_probs[u - 1, ids[u]] for u in positions)
        for n, g in zip(scope, torch.autograd.grad(total, [params[n] for n in scope]), strict=True):
            expected[n] += g**2 / len(positions) / 3
    for n in scope:
        assert torch.allclose(fisher[n], expected[n], rtol=1e-6)
        assert (fisher[n] >= 0).all()


def test_sampling_is_seeded_starts_at_bos_and_leaves_the_global_state_alone():
    model = sampler()
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
    model = sampler()
    firsts = torch.tensor([ids[1] for ids in sample_sequences(model, FisherSettings(num_sequences=4000, num_tokens=1), batch_size=4000)])
    observed = torch.bincount(firsts, minlength=61) / 4000
    expected = model(input_ids=torch.tensor([[1]])).logits[0, -1].softmax(-1)
    deviation = (expected * (1 - expected) / 4000).sqrt()
    assert ((observed - expected).abs() <= 5 * deviation + 1e-3).all()


def test_sampling_takes_nothing_else_from_the_model_s_generation_settings():
    model = sampler()
    settings = FisherSettings(num_sequences=20, num_tokens=100)
    before = sample_sequences(model, settings)
    assert max(map(len, before)) <= 64  # the context
    model.generation_config.repetition_penalty, model.generation_config.no_repeat_ngram_size = 5.0, 1
    model.generation_config.min_new_tokens, model.generation_config.suppress_tokens = 50, [3, 4]
    assert sample_sequences(model, settings) == before
    assert model.generation_config.repetition_penalty == pytest.approx(5.0)


def test_the_scale_of_a_fisher_does_not_depend_on_the_number_of_texts():
    model = make("llama")
    text = ([1, 5, 9, 3], range(1, 4))
    one, three = (diagonal_fisher(model, [text] * n, ["lm_head.weight"])["lm_head.weight"] for n in (1, 3))
    assert torch.allclose(one, three, rtol=1e-6)


def test_of_whole_texts_all_tokens_count_but_the_first():
    assert [(list(ids), list(positions)) for ids, positions in whole_texts([[1, 5, 9], [7], [1, 2]])] == [
        ([1, 5, 9], [1, 2]),
        ([1, 2], [1]),
    ]


def test_continuations_follow_their_prompts_and_alone_count():
    model = sampler()
    prompts = [[1, 5, 9, 7], [1, 8], [], [3] * 200]
    settings = FisherSettings(num_tokens=12, seed=5)
    torch.manual_seed(123)
    state = torch.random.get_rng_state()
    texts = sample_continuations(model, prompts, settings, batch_size=3)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert len(texts) == 4
    for prompt, (ids, positions) in zip(
        [*prompts[:2], [1], [3] * 52], texts, strict=True
    ):  # an empty prompt starts anew, a long one is cut
        assert ids[: len(prompt)] == prompt
        assert list(positions) == list(range(len(prompt), len(ids)))
        assert 1 <= len(positions) <= 12
        assert 2 not in ids[len(prompt) : -1]
    assert max(len(ids) for ids, _ in texts) <= 64  # the context


def test_padding_does_not_change_what_a_prompt_is_continued_with():
    """The next token's distribution after a short prompt beside a long one, from 3000 samples, is that of the prompt alone."""
    model = sampler(end=None)
    texts = sample_continuations(model, [[1, 8], [1, 5, 9, 7, 11, 4]] * 3000, FisherSettings(num_tokens=1), batch_size=6000)
    observed = torch.bincount(torch.tensor([ids[-1] for ids, _ in texts[::2]]), minlength=61) / 3000
    expected = model(input_ids=torch.tensor([[1, 8]])).logits[0, -1].softmax(-1)
    assert ((observed - expected).abs() <= 5 * (expected * (1 - expected) / 3000).sqrt() + 1e-3).all()
