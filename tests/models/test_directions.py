"""Directions of models/directions.py: validation gradient, drift, scope, cosine, files."""

import copy
import math

import pytest
import torch

from models.batches import collate
from models.directions import (
    content_digest,
    cosine,
    divergence_gradient,
    energy_shares,
    fisher_drift,
    in_scope,
    load_tensors,
    preference_gradient,
    save_tensors,
    scale_tensors,
    validation_gradient,
)
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


def test_drift_is_zero_at_the_reference():
    model = make("llama", torch.float32)
    parameters = {n: p.detach().clone() for n, p in model.named_parameters()}
    fisher = {"lm_head.weight": torch.rand_like(parameters["lm_head.weight"])}
    assert fisher_drift(fisher, parameters, parameters)["lm_head.weight"].abs().max() == 0
    moved = {n: p + 0.5 for n, p in parameters.items()}
    assert torch.allclose(fisher_drift(fisher, moved, parameters)["lm_head.weight"], 0.5 * fisher["lm_head.weight"], atol=1e-6)


def moved(reference):
    torch.manual_seed(4)
    model = copy.deepcopy(reference)
    for p, anchor in zip(model.parameters(), reference.parameters(), strict=True):
        p.copy_(anchor + 0.05 * torch.randn_like(p))
    return model


def test_divergence_gradient_is_that_of_the_mean_kl():
    reference = make("llama_tied")
    model = moved(reference)
    ids, counted = [[1, 5, 9, 3, 7, 2], [1, 8, 4]], [[3, 4, 5], [2]]
    scope = [n for n, _ in model.named_parameters()]
    batches = [collate(ids[:1], counted[:1]), collate(ids, [[], counted[1]])]
    gradient, divergence = divergence_gradient(model, reference, batches, scope)
    model.requires_grad_(True)
    total = 0.0
    for one, positions in zip(ids, counted, strict=True):
        q, p = (m(input_ids=torch.tensor([one])).logits[0].softmax(-1) for m in (model, reference))
        for u in positions:
            total = total + sum(p[u - 1, v] * torch.log(p[u - 1, v] / q[u - 1, v]) for v in range(61))
    (total / 4).backward()
    assert divergence == pytest.approx(total.item() / 4)
    assert divergence > 0
    for name, p in model.named_parameters():
        assert torch.allclose(gradient[name], p.grad, rtol=1e-7, atol=1e-10), name


def test_divergence_gradient_is_the_whole_fisher_times_a_small_drift():
    """Half the Hessian's quadratic form is the divergence: along the drift the gradient is twice the divergence, to first order."""
    reference = make("llama_tied")
    model = make("llama_tied")
    torch.manual_seed(5)
    drift = {n: 1e-4 * torch.randn_like(p) for n, p in model.named_parameters()}
    for n, p in model.named_parameters():
        p.add_(drift[n])
    gradient, divergence = divergence_gradient(model, reference, [collate([[1, 5, 9, 3, 7, 2]], [[1, 2, 3, 4, 5]])], list(drift))
    assert sum((gradient[n] * drift[n]).sum().item() for n in drift) == pytest.approx(2 * divergence, rel=0.02)


def test_divergence_gradient_is_exactly_zero_at_the_reference():
    model = make("llama", torch.float32)
    gradient, divergence = divergence_gradient(model, make("llama", torch.float32), [collate([[1, 5, 9]], [[1, 2]])], ["lm_head.weight"])
    assert divergence == 0
    assert not gradient["lm_head.weight"].any()
    with pytest.raises(ValueError, match="no token of the texts counts"):
        divergence_gradient(moved(make("llama_tied")), make("llama_tied"), [collate([[1, 5]], [[0]])], ["model.norm.weight"])


def test_tensor_norm_gives_every_tensor_the_same_norm_and_keeps_the_whole():
    torch.manual_seed(0)
    direction = {"a": torch.randn(3, 4), "b": 1e-12 * torch.randn(5), "zero": torch.zeros(2)}
    scaled = scale_tensors(direction, "tensor_norm")
    whole = math.sqrt(sum(t.double().square().sum().item() for t in direction.values()))
    for name in ("a", "b"):
        assert scaled[name].norm().item() == pytest.approx(whole / math.sqrt(2), rel=1e-6)
        assert cosine({name: scaled[name]}, direction) == pytest.approx(1)
    assert not scaled["zero"].any()
    again = scale_tensors({n: 7 * t for n, t in scaled.items()}, "tensor_norm")
    assert all(torch.allclose(again[n], 7 * scaled[n], rtol=1e-6) for n in scaled)
    assert scale_tensors(direction, "none") == direction


def test_scope_patterns():
    names = ["model.embed_tokens.weight", "model.layers.0.mlp.up_proj.weight", "lm_head.weight"]
    assert in_scope(names, ["*embed*"]) == names[1:]
    with pytest.raises(ValueError, match="matches none of 3"):
        in_scope(names, ["*experts*"])
    with pytest.raises(ValueError, match="leaves no parameter"):
        in_scope(names, ["*"])


def test_scope_names_the_setting_it_comes_from():
    with pytest.raises(ValueError, match=r"scoring\.stability\.scope_exclude: pattern 'nothing' matches none of 1"):
        in_scope(["lm_head.weight"], ["nothing"], "scoring.stability")


def test_cosine_is_over_the_parameters_of_both():
    torch.manual_seed(0)
    one = {"a": torch.randn(3, 4), "b": torch.randn(5)}
    other = {"b": torch.randn(5), "a": torch.randn(3, 4), "c": torch.randn(2)}
    flat, flat_other = (torch.cat([x["a"].flatten(), x["b"]]).double() for x in (one, other))
    assert cosine(one, other) == pytest.approx((flat @ flat_other / flat.norm() / flat_other.norm()).item(), rel=1e-9)
    assert cosine(one, {n: -3 * t for n, t in one.items()}) == pytest.approx(-1)
    assert cosine({"a": one["a"] * 1e-30}, {"a": one["a"] * 1e-30}) == pytest.approx(1)  # squares that float32 cannot hold
    assert math.isnan(cosine(one, {"a": torch.zeros(3, 4)}))
    assert math.isnan(cosine(one, {"c": torch.ones(2)}))


def test_energy_shares_are_parts_of_the_squared_norm_largest_first():
    direction = {"small": torch.tensor([1.0]), "large": torch.tensor([[3.0, 4.0], [5.0, 0.0]]), "none": torch.zeros(2)}
    assert energy_shares(direction) == {"large": pytest.approx(50 / 51), "small": pytest.approx(1 / 51), "none": 0.0}
    assert list(energy_shares(direction, 1)) == ["large"]
    assert energy_shares({"none": torch.zeros(2)}) == {"none": 0.0}


def test_tensors_survive_the_file_and_digest_their_content(tmp_path):
    tensors = {"b": torch.randn(3, 4).T, "a": torch.tensor(1.5)}
    save_tensors(tensors, tmp_path / "d" / "x.safetensors")
    loaded = load_tensors(tmp_path / "d" / "x.safetensors")
    assert content_digest(loaded) == content_digest(tensors)
    loaded["a"] += 1e-6
    assert content_digest(loaded) != content_digest(tensors)
    assert not list(tmp_path.glob("d/*.partial"))


# ---- pairs

PAIRS = [([1, 5, 9, 3, 7, 2], [1, 5, 9, 8, 2], 3), ([1, 8, 4], [1, 8, 6, 11, 2], 2), ([4, 9], [4], 0)]
"""(chosen, rejected, length of the prompt); the last rejected response has no token with a loss."""


def response_log_prob(model, ids, first):
    log_probs = torch.log_softmax(model(input_ids=torch.tensor([ids])).logits[0], -1)
    return sum((log_probs[u - 1, ids[u]] for u in range(max(first, 1), len(ids))), torch.zeros((), dtype=torch.float64))


def pair_batch(pairs):
    rows = [(chosen, first) for chosen, _, first in pairs] + [(rejected, first) for _, rejected, first in pairs]
    return collate([ids for ids, _ in rows], [list(range(first, len(ids))) for ids, first in rows])


def test_preference_gradient_is_that_of_the_mean_dpo_loss():
    reference = make("llama_tied", clean=True)
    model, beta = moved(reference), 0.3
    scope = [n for n, _ in model.named_parameters()]
    gradient, loss, accuracy = preference_gradient(model, reference, [pair_batch(PAIRS[:2]), pair_batch(PAIRS[2:])], scope, beta)
    assert not any(p.requires_grad for p in model.parameters())
    model.requires_grad_(True)
    margins = [
        beta * sum(
            sign * (response_log_prob(model, ids, first) - response_log_prob(reference, ids, first))
            for ids, sign in ((chosen, 1), (rejected, -1))
        )
        for chosen, rejected, first in PAIRS
    ]  # fmt: skip
    expected = sum(-torch.log(torch.sigmoid(s)) for s in margins) / len(PAIRS)
    expected.backward()
    assert loss == pytest.approx(expected.item(), rel=1e-9)
    assert accuracy == pytest.approx(sum(s.item() > 0 for s in margins) / len(PAIRS))
    for name, p in model.named_parameters():
        assert torch.allclose(gradient[name], p.grad, rtol=1e-8, atol=1e-12), name


def test_at_the_reference_the_preference_loss_is_log_2_and_its_gradient_that_of_half_beta_times_the_difference():
    model = make("llama")
    scope = [n for n, _ in model.named_parameters()]
    gradient, loss, accuracy = preference_gradient(model, model, [pair_batch(PAIRS[:1])], scope, 0.2)
    assert (loss, accuracy) == (pytest.approx(math.log(2)), 0)
    chosen, rejected, first = PAIRS[0]
    model.requires_grad_(True)
    (0.1 * (response_log_prob(model, rejected, first) - response_log_prob(model, chosen, first))).backward()
    for name, p in model.named_parameters():
        assert torch.allclose(gradient[name], p.grad, rtol=1e-9, atol=1e-13), name


def test_a_validation_set_without_pairs_has_no_preference_gradient():
    with pytest.raises(ValueError, match="no pair"):
        preference_gradient(make("llama"), make("llama"), [], ["lm_head.weight"], 0.1)
