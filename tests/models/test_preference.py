"""Laws of models/preference.py: each loss and gradient equals the slow loop and, where it has the same option, TRL's."""

import itertools

import pytest
import torch

from models.batches import collate
from models.losses import masked_loss_sum
from models.preference import Pairs, pair_losses, reference_log_probs, response_log_probs, smoothed_dpo_losses
from models.training_settings import PreferenceSettings
from tests.models.pair_batches import batch_of, filler, make_pairs, reference_of
from tests.reference.families import make
from tests.reference.preference import mean_loss, pair_loss


@pytest.fixture(scope="module")
def model():
    return make("llama", clean=True).requires_grad_(True)


@pytest.fixture(scope="module")
def reference():
    return make("llama", clean=True, seed=1)


def tensors(batch):
    return {name: torch.as_tensor(value) for name, value in batch.items()}


def losses_of(model, batch, settings):
    on = tensors(batch)
    logits = model(input_ids=on["input_ids"], attention_mask=on["attention_mask"], use_cache=False).logits
    return pair_losses(logits, Pairs.of(on), settings)


def exact(batch, reference):
    """The same batch with reference log-probabilities in float64: float32, in which they are stored, would be the largest error."""
    on = tensors(batch)
    batch["ref_log_probs"] = reference_log_probs(reference, on["input_ids"], on["attention_mask"], on["response_labels"]).numpy()
    return batch


def gradient(model, loss):
    model.zero_grad()
    loss.backward()
    return torch.cat([p.grad.flatten() for p in model.parameters()])


def relative(got, expected):
    return ((got - expected).norm() / expected.norm()).item()


LOSSES = ["token_weighted", "masked_margin", "dpo"]


@pytest.mark.parametrize(("smoothing", "normalize"), [(0.0, False), (0.2, False), (0.0, True), (0.2, True)])
@pytest.mark.parametrize(
    ("loss", "soft"),
    [("token_weighted", False), ("masked_margin", False), ("dpo", False), ("token_weighted", True), ("masked_margin", True)],
)
def test_the_gradient_of_eq_14_is_that_of_the_slow_loop(model, reference, loss, smoothing, normalize, soft):
    settings = PreferenceSettings(beta=0.3, loss=loss, label_smoothing=smoothing, length_normalization=normalize)
    pairs = make_pairs(3, 2, share=2.0 if loss == "dpo" else 0.6, soft=soft, empty=() if loss == "dpo" else (1,))
    batch = exact(batch_of(pairs, reference_of(reference), soft=soft), reference)
    found = losses_of(model, batch, settings)
    expected = mean_loss(model, reference, pairs, settings)
    assert found.losses_P.mean().item() == pytest.approx(expected.item(), rel=1e-9)
    assert relative(gradient(model, found.losses_P.mean()), gradient(model, expected)) < 1e-9
    margins = [pair_loss(model, reference, pair, settings)[1] for pair in pairs]
    assert found.margins_P.tolist() == pytest.approx(margins, rel=1e-9)
    assert 0.1 < max(map(abs, margins)) < 5  # σ is neither flat nor linear there


def test_what_the_mask_leaves_out_counts_in_the_weight_and_in_nothing_else(model, reference):
    """ω is that of the full margin: another mask changes the gradient as the sum over kept tokens does, with the same factor."""
    settings = PreferenceSettings(beta=0.3)
    (pair,) = make_pairs(1, 3, share=2.0)
    half = {name: (ids, positions, [float(i % 2) for i in range(len(positions))]) for name, (ids, positions, _) in pair.items()}
    rest = {name: (ids, positions, [float(1 - i % 2) for i in range(len(positions))]) for name, (ids, positions, _) in pair.items()}
    whole, one, other = (
        gradient(model, losses_of(model, exact(batch_of([p], reference_of(reference)), reference), settings).losses_P.sum())
        for p in (pair, half, rest)
    )
    assert relative(one + other, whole) < 1e-12
    assert relative(one, whole) > 0.1


def test_with_all_tokens_kept_the_three_losses_have_one_gradient(model, reference):
    pairs = make_pairs(4, 4, share=2.0)
    batch = exact(batch_of(pairs, reference_of(reference)), reference)
    for smoothing, normalize in itertools.product([0.0, 0.3], [False, True]):
        one, two, three = (
            gradient(model, losses_of(model, batch, PreferenceSettings(beta=0.3, loss=loss, label_smoothing=smoothing, length_normalization=normalize)).losses_P.mean())
            for loss in LOSSES
        )  # fmt: skip
        assert relative(one, two) < 1e-10
        assert torch.equal(two, three)


def test_weights_of_0_and_1_are_the_hard_mask(model, reference):
    pairs = make_pairs(4, 5)
    hard, soft = (batch_of(pairs, reference_of(reference), soft=soft) for soft in (False, True))
    assert "weights" in soft
    for loss in LOSSES[:2]:
        one, other = (gradient(model, losses_of(model, batch, PreferenceSettings(loss=loss)).losses_P.mean()) for batch in (hard, soft))
        assert torch.equal(one, other)


@pytest.mark.parametrize("soft", [False, True])
def test_soft_losses_of_plain_sequences_are_the_slow_sum(model, soft):
    batch = tensors(batch_of(make_pairs(3, 6, soft=soft), lambda ids: [0.0] * len(ids), soft=True))
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False).logits
    expected = 0.0
    for row in range(len(logits)):
        for u in range(1, logits.shape[1]):
            if batch["labels"][row, u] != -100:
                expected = expected - batch["weights"][row, u] * torch.log_softmax(logits[row, u - 1], -1)[batch["labels"][row, u]]
    found, num = masked_loss_sum(logits, batch["labels"], batch["weights"])
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    assert int(num) == batch["num_supervised"]
    if not soft:
        assert torch.equal(found, masked_loss_sum(logits, batch["labels"])[0])


def test_a_pair_of_which_nothing_is_kept_has_no_gradient_and_stays_in_the_mean(model, reference):
    pairs = make_pairs(3, 7, empty=(0, 1, 2))
    batch = batch_of(pairs, reference_of(reference))
    found = losses_of(model, batch, PreferenceSettings())
    assert found.losses_P.tolist() == [0, 0, 0]
    assert gradient(model, found.losses_P.sum()).abs().max() == 0
    assert gradient(model, losses_of(model, batch, PreferenceSettings(loss="masked_margin")).losses_P.sum()).abs().max() == 0
    assert found.margins_P.abs().min() > 0


def test_filler_adds_no_pair_and_a_gradient_of_0(model):
    found = losses_of(model, filler(), PreferenceSettings(loss="masked_margin"))
    assert found.losses_P.shape == found.margins_P.shape == (0,)
    assert found.log_probs_2P.shape == (2, 0)
    assert gradient(model, found.losses_P.sum()).abs().max() == 0


def test_plain_dpo_refuses_a_mask_that_leaves_tokens_out(model, reference):
    batch = batch_of(make_pairs(2, 8), reference_of(reference))
    with pytest.raises(ValueError, match=r"the mask leaves \d+ of \d+ tokens of this batch out"):
        losses_of(model, batch, PreferenceSettings(loss="dpo"))
    batch = batch_of(make_pairs(2, 8, share=2.0, soft=True), reference_of(reference), soft=True)
    with pytest.raises(ValueError, match="or weighs them"):
        losses_of(model, batch, PreferenceSettings(loss="dpo"))


def test_counts_and_log_probabilities_are_those_of_the_responses(model, reference):
    pairs = make_pairs(4, 9)
    found = losses_of(model, batch_of(pairs, reference_of(reference)), PreferenceSettings())
    for branch, name in enumerate(("chosen", "rejected")):
        kept = [sum(w > 0 and u > 0 for u, w in zip(pair[name][1], pair[name][2], strict=True)) for pair in pairs]
        assert found.num_kept_2P[branch].tolist() == kept
        assert found.num_response_2P[branch].tolist() == [sum(u > 0 for u in pair[name][1]) for pair in pairs]
        sums = response_log_probs(model, collate([pair[name][0] for pair in pairs], [pair[name][1] for pair in pairs]))
        assert found.log_probs_2P[branch].tolist() == pytest.approx(sums.tolist(), rel=1e-9)


def test_smoothed_losses_of_a_margin():
    margins = torch.tensor([-3.0, 0.0, 2.0], dtype=torch.float64)
    p = torch.sigmoid(margins)
    assert torch.allclose(smoothed_dpo_losses(margins), -p.log())
    assert torch.allclose(smoothed_dpo_losses(margins, 0.1), -0.9 * p.log() - 0.1 * (1 - p).log())
    assert torch.isfinite(smoothed_dpo_losses(torch.tensor([-1e4, 1e4]), 0.1)).all()
