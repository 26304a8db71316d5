"""Laws of models/token_fisher.py: F is that of slow loops in any batches, texts are prompts with the model's own words."""

import pytest
import torch

from models.settings import PropagationSettings
from models.token_fisher import continue_prompts, token_fisher
from tests.reference.value_propagation import build, layer_paths, slow_fisher

torch.set_num_threads(1)

TEXTS = [([3, 9, 4, 7, 1], [2, 3, 4]), ([5, 6], [1]), ([8, 2, 2, 11, 30, 6, 1], [4, 5, 6])]


@pytest.mark.parametrize("batch_tokens", [1, 10, 1000])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_fisher_equals_the_slow_loop(family, batch_tokens):
    model = build(family)
    expected = slow_fisher(family, model, TEXTS, 1)
    told = []
    found = token_fisher(model, TEXTS, list(expected), 1, batch_tokens, lambda done, of: told.append((done, of)))
    assert set(found) == {f"{path}.weight" for path in layer_paths(family, model, 1)[0][0]}
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-4, atol=1e-5 * float(expected[name].max()))
    assert told[-1] == (3, 3)


def test_fisher_of_nothing_is_refused():
    with pytest.raises(ValueError, match="none of 1 texts has a sampled token"):
        token_fisher(build("llama"), [([1, 2], [])], [], 1)


def settings(**changes):
    return PropagationSettings(last_blocks=1, **{"fisher_prompt_tokens": 6, "fisher_sampled_tokens": 5, **changes})


def test_texts_are_prompts_with_tokens_sampled_behind_them():
    model = build("llama", torch.float32)
    model.generation_config.bos_token_id, model.generation_config.eos_token_id = 1, 2
    prompts = [[7, 8, 9], list(range(10, 30)), [], [5]]
    texts = continue_prompts(model, prompts, settings(), batch_size=2)
    for (ids, positions), kept in zip(texts, [[7, 8, 9], list(range(24, 30)), [1], [5]], strict=True):
        assert ids[: positions[0]] == kept
        assert positions == list(range(len(kept), len(ids)))
        assert len(positions) == 5 or ids[-1] == 2
        assert 2 not in ids[len(kept) : -1]
    assert continue_prompts(model, prompts, settings(), batch_size=2) == texts
    assert continue_prompts(model, prompts, settings(seed=1), batch_size=2) != texts


def test_texts_fit_the_context_of_the_model():
    model = build("llama", torch.float32)  # a context of 64
    model.generation_config.bos_token_id, model.generation_config.eos_token_id = 1, None
    ((ids, positions),) = continue_prompts(model, [list(range(60))], settings(fisher_prompt_tokens=60, fisher_sampled_tokens=20))
    assert (len(ids), len(positions), ids[:44]) == (64, 20, list(range(16, 60)))


def test_sampling_is_from_the_models_own_distribution():
    """First tokens after one prompt, many times: frequencies are the probabilities (χ² over the whole vocabulary)."""
    model = build("llama", torch.float32)
    model.lm_head.weight.data *= 0.2
    model.generation_config.bos_token_id, model.generation_config.eos_token_id = 1, None
    model.generation_config.temperature, model.generation_config.top_k = 0.1, 2  # settings of the model that must not count
    texts = continue_prompts(model, [[4, 9]] * 3000, settings(fisher_sampled_tokens=1), batch_size=3000)
    expected = 3000 * torch.softmax(model(input_ids=torch.tensor([[4, 9]])).logits[0, -1], -1)
    counts = torch.bincount(torch.tensor([ids[2] for ids, _ in texts]), minlength=61)
    chi_square = float(((counts - expected) ** 2 / expected).sum())
    assert 20 < chi_square < 120  # 60 degrees of freedom: mean 60, deviation 11
