"""Laws of models/losses.py: losses are those of torch's cross entropy, sums and means are over the tokens that count, and no others."""

import math

import pytest
import torch
from torch.nn import functional

from models.batches import collate
from models.losses import IGNORED_LABEL, counted, entropies, log_probabilities, masked_loss_sum, mean_token_loss, token_losses
from tests.reference.families import make

torch.set_num_threads(1)

V = 7


def logits_and_labels(shape, kept, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits_BTV = torch.randn(*shape, V, generator=generator, dtype=dtype).mul(3).requires_grad_()
    labels_BT = torch.randint(0, V, shape, generator=generator)
    labels_BT[torch.rand(shape, generator=generator) >= kept] = IGNORED_LABEL
    return logits_BTV, labels_BT


def shifted_cross_entropy(logits_BTV, labels_BT):
    return functional.cross_entropy(
        logits_BTV[:, :-1].reshape(-1, V), labels_BT[:, 1:].reshape(-1), ignore_index=IGNORED_LABEL, reduction="sum"
    )


@pytest.mark.parametrize("shape", [(1, 2), (3, 5), (2, 9)])
@pytest.mark.parametrize("kept", [0.3, 1.0])
def test_the_masked_sum_and_its_gradient_are_those_of_cross_entropy(shape, kept):
    logits_BTV, labels_BT = logits_and_labels(shape, kept, torch.float32)
    loss, num_supervised = masked_loss_sum(logits_BTV, labels_BT)
    expected = shifted_cross_entropy(logits_BTV, labels_BT)
    assert num_supervised == (labels_BT[:, 1:] != IGNORED_LABEL).sum()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(*(torch.autograd.grad(one, logits_BTV, retain_graph=True)[0] for one in (loss, expected)))


@pytest.mark.parametrize("shape", [(2, 4), (2, 1)])
def test_nothing_kept_gives_zero_with_a_gradient_of_zero(shape):
    logits_BTV, labels_BT = logits_and_labels(shape, 0.0)
    loss, num_supervised = masked_loss_sum(logits_BTV, labels_BT)
    assert (loss.item(), num_supervised.item()) == (0.0, 0)
    loss.backward()
    assert torch.equal(logits_BTV.grad, torch.zeros_like(logits_BTV))


def test_a_label_at_position_0_supervises_nothing():
    logits_BTV, labels_BT = logits_and_labels((2, 4), 0.0)
    labels_BT[:, 0] = 3
    assert masked_loss_sum(logits_BTV, labels_BT)[1] == 0


def test_half_precision_is_summed_in_float32():
    logits_BTV, labels_BT = logits_and_labels((4, 64), 1.0)
    half = logits_BTV.detach().to(torch.bfloat16)
    loss, _ = masked_loss_sum(half, labels_BT)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss.double(), shifted_cross_entropy(half.double(), labels_BT), rtol=1e-5, atol=0)


def test_two_batches_add_up_to_their_union():
    logits_BTV, labels_BT = logits_and_labels((4, 6), 0.6)
    whole, num = masked_loss_sum(logits_BTV, labels_BT)
    parts = [masked_loss_sum(logits_BTV[rows], labels_BT[rows]) for rows in (slice(0, 1), slice(1, 4))]
    torch.testing.assert_close(whole, parts[0][0] + parts[1][0])
    assert num == parts[0][1] + parts[1][1]


# ---- single tokens


@pytest.mark.parametrize("pad_left", [False, True])
def test_counted_are_the_weighted_tokens_that_have_a_token_before_them(pad_left):
    batch = collate([[1, 2, 3], [4], [5, 6]], [[0, 2], [0], [0, 1]], pad_left=pad_left)
    rows_N, positions_N = counted(batch)
    assert list(zip(rows_N.tolist(), positions_N.tolist(), strict=True)) == [(0, 2), (2, 2 if pad_left else 1)]


def test_losses_and_entropies_equal_the_formulas():
    batch = collate([[1, 2, 3, 4], [5, 6]], [[1, 3], [1]])
    logits_BTV = torch.randn(2, 4, V, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rows_N, positions_N = counted(batch)
    log_probs_NV = log_probabilities(logits_BTV, rows_N, positions_N)
    assert log_probs_NV.dtype == torch.float64
    assert log_probabilities(logits_BTV.bfloat16(), rows_N, positions_N).dtype == torch.float32
    losses_N = token_losses(log_probs_NV, batch.input_ids_BT[rows_N, positions_N])
    for i, (row, u) in enumerate([(0, 1), (0, 3), (1, 1)]):
        p = [math.exp(x) for x in logits_BTV[row, u - 1].tolist()]
        p = [x / sum(p) for x in p]
        assert losses_N[i].item() == pytest.approx(-math.log(p[batch.input_ids_BT[row, u]]), abs=1e-12)
        assert entropies(log_probs_NV)[i].item() == pytest.approx(-sum(x * math.log(x) for x in p), abs=1e-12)


def test_an_even_prediction_has_the_entropy_of_its_number():
    assert entropies(torch.full((2, 8), -math.log(8.0), dtype=torch.float64)).tolist() == pytest.approx([math.log(8.0)] * 2)


# ---- the mean over several batches


def random_ids(lengths, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(1, 61, (n,), generator=generator).tolist() for n in lengths]


def test_the_mean_is_over_tokens_however_they_are_batched_and_padded():
    model = make("llama")
    ids, responses = random_ids([9, 3, 6]), [[1, 2, 3, 4, 5, 6, 7, 8], [2], [0, 5]]
    expected = [
        functional.cross_entropy(model(input_ids=torch.tensor([one]), use_cache=False).logits[0, u - 1], torch.tensor(one[u])).item()
        for one, response in zip(ids, responses, strict=True)
        for u in response
        if u > 0
    ]
    mean = sum(expected) / len(expected)
    for batches in (
        [collate(ids, responses)], [collate(ids, responses, pad_left=True)], [collate(ids[:1], responses[:1]), collate(ids[1:], responses[1:])],
        [collate([one], [response]) for one, response in zip(ids, responses, strict=True)],
    ):  # fmt: skip
        got, num_tokens = mean_token_loss(model, batches)
        assert num_tokens == len(expected) == 10
        assert got == pytest.approx(mean, rel=1e-12 if len(batches) == 3 else 1e-6)
    by_sequence = [sum(expected[:8]) / 8, expected[8], expected[9]]
    assert mean != pytest.approx(sum(by_sequence) / 3, rel=1e-3)  # a mean of means is something else


def test_a_batch_in_which_nothing_counts_adds_nothing():
    model = make("llama")
    ids = random_ids([5, 4])
    one = collate(ids[:1], [[2, 3]])
    assert mean_token_loss(model, [one, collate(ids[1:], [[0]])]) == mean_token_loss(model, [one])


@pytest.mark.parametrize("training", [True, False])
def test_measuring_leaves_the_model_as_it_was_and_uses_no_dropout(training):
    model = make("gpt2").train(training)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.5
    batch = collate(random_ids([8]), [list(range(8))])
    assert mean_token_loss(model, [batch]) == mean_token_loss(model, [batch])
    assert model.training is training


def test_no_token_at_all_is_an_error():
    with pytest.raises(ValueError, match="none of 2 batches has a token that counts"):
        mean_token_loss(make("llama"), [collate([[1, 2]], [[]]), collate([[3, 4]], [[0]])])
