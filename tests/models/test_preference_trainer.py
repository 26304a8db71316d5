"""Laws of models/preference_trainer.py: the mean over pairs of the global batch, no reference model in memory, metrics, bit-identical resume."""

import copy

import pytest
import torch

from models.preference import reference_log_probs
from models.preference_trainer import PAIR_MEANS, TOKEN_SHARES, PreferenceTrainer
from models.trainer import SupervisedTokenMismatchError, with_lora
from models.training_settings import PreferenceSettings
from tests.models.pair_batches import batch_of, filler, make_pairs, reference_of
from tests.models.test_trainer import Gradients, Killed, arguments, gradients, one_step, relative_error, stream_of, tiny_model, weights_of
from tests.reference.preference import mean_loss, pair_loss

SETTINGS = PreferenceSettings(beta=0.5)


@pytest.fixture(autouse=True)
def one_thread():
    """Threads only wait for one another in a model this small, and minutes where the cores are busy."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def reference():
    model = tiny_model()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(5))
    return model.eval()


@pytest.fixture(scope="module")
def pairs():
    """Pairs of five micro-batches, of unequal numbers; of one pair nothing is kept."""
    return [make_pairs(n, seed, empty=(1,) if n == 3 else ()) for seed, n in enumerate((2, 3, 1, 2, 2))]


@pytest.fixture(scope="module")
def batches(pairs, reference):
    return [*(batch_of(some, reference_of(reference)) for some in pairs), filler()]


def trainer_of(model, args, batches, settings=SETTINGS):
    total = sum(batch["num_supervised"] for batch in batches)
    return PreferenceTrainer(model, args, stream_of(batches), total, len(batches), settings)


@pytest.mark.parametrize("loss", ["token_weighted", "masked_margin"])
def test_a_step_is_the_mean_over_the_pairs_of_the_global_batch(tmp_path, pairs, batches, reference, loss):
    settings = PreferenceSettings(beta=0.5, loss=loss, label_smoothing=0.1)
    found = Gradients()
    trainer = trainer_of(tiny_model(), one_step(tmp_path, len(batches)), batches, settings)
    trainer.add_callback(found)
    logged = trainer.train().training_loss
    slow = tiny_model()
    every = [pair for some in pairs for pair in some]
    expected = mean_loss(slow, reference, every, settings)
    assert logged == pytest.approx(expected.item(), rel=1e-4)
    assert relative_error(found.found, gradients(slow, expected)) < 1e-4
    naive = torch.stack([mean_loss(slow, reference, some, settings) for some in pairs]).mean()
    assert relative_error(gradients(slow, naive), found.found) > 0.05


def test_the_log_tells_margins_accuracy_log_probabilities_and_kept_shares(tmp_path, pairs, batches, reference):
    trainer = trainer_of(tiny_model(), one_step(tmp_path, len(batches)), batches)
    trainer.train()
    logged = trainer.state.log_history[0]
    model = tiny_model().eval()
    every = [pair for some in pairs for pair in some]
    margins = torch.tensor([pair_loss(model, reference, pair, SETTINGS)[1] for pair in every], dtype=torch.float64)
    assert 0 < (margins > 0).sum() < len(every)
    expected = {"margin": margins.mean(), "accuracy": (margins > 0).double().mean(), "dpo_loss": -torch.sigmoid(margins).log().mean()}
    of = reference_of(model)
    for name in ("chosen", "rejected"):
        sums = [sum(of(pair[name][0])[u] for u in pair[name][1] if u > 0) for pair in every]
        tokens = [w > 0 for pair in every for u, w in zip(pair[name][1], pair[name][2], strict=True) if u > 0]
        expected |= {f"{name}_log_prob": sum(sums) / len(sums), f"{name}_kept_share": sum(tokens) / len(tokens)}
    assert set(expected) == {*PAIR_MEANS, *TOKEN_SHARES}
    assert {name: logged[name] for name in expected} == pytest.approx({name: float(value) for name, value in expected.items()}, rel=1e-4)
    assert not set(PAIR_MEANS) & set(trainer.state.log_history[-1])  # each pair is told of once


def test_a_run_on_stored_log_probabilities_has_the_losses_of_one_with_the_reference_in_memory(tmp_path, batches, reference):
    class WithReference(PreferenceTrainer):
        def compute_loss(self, model, inputs, *rest, **named):
            fresh = reference_log_probs(reference, *(inputs[name] for name in ("input_ids", "attention_mask", "response_labels")))
            assert torch.allclose(fresh, inputs["ref_log_probs"], rtol=1e-5, atol=1e-5)  # what is stored is what a forward pass gives
            return super().compute_loss(model, inputs | {"ref_log_probs": fresh}, *rest, **named)

    histories = []
    for kind in (PreferenceTrainer, WithReference):
        total = sum(batch["num_supervised"] for batch in batches)
        trainer = kind(tiny_model(), arguments(tmp_path, max_steps=6), stream_of(batches), total, len(batches), SETTINGS)
        trainer.train()
        histories.append([entry for entry in trainer.state.log_history if "loss" in entry])
    assert len(histories[0]) == 6
    for stored, fresh in zip(*histories, strict=True):
        for name in ("loss", *PAIR_MEANS, *TOKEN_SHARES):
            assert stored[name] == pytest.approx(fresh[name], rel=1e-4, abs=1e-5), name


@pytest.mark.parametrize("lora", [False, True])
def test_a_run_resumed_between_two_logs_ends_bit_for_bit_as_an_uninterrupted_one(tmp_path, batches, lora):
    def new():
        model = tiny_model(dropout=0.2)
        return with_lora(model, 2, 4.0, 0.2) if lora else model

    def settings(name):
        return arguments(tmp_path / name, max_steps=8, gradient_accumulation_steps=2, save_strategy="steps", save_steps=3, logging_steps=4)

    whole = trainer_of(new(), settings("whole"), batches)
    whole.train()

    def killed(first):
        for number, batch in enumerate(stream_of(batches)(first), first):
            if number == 9:
                raise Killed
            yield batch

    total = sum(batch["num_supervised"] for batch in batches)
    with pytest.raises(Killed):
        PreferenceTrainer(new(), settings("killed"), killed, total, len(batches), SETTINGS).train()
    torch.manual_seed(99)
    resumed = trainer_of(new(), settings("killed"), batches)
    resumed.train(resume_from_checkpoint=True)
    expected = weights_of(whole.model)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in weights_of(resumed.model).items())
    names = {*PAIR_MEANS, *TOKEN_SHARES}
    told, told_resumed = (
        [{name: entry[name] for name in names} for entry in trainer.state.log_history if names <= set(entry)]
        for trainer in (whole, resumed)
    )
    assert len(told) == 2  # after steps 4 and 8; the run was killed after 3
    assert told == told_resumed


def test_learning_raises_the_margins(tmp_path, reference):
    some = make_pairs(6, 3, share=2.0)
    batches = [batch_of(some, reference_of(reference))]
    trainer = trainer_of(copy.deepcopy(reference), arguments(tmp_path, max_steps=12), batches, PreferenceSettings(beta=0.5, loss="dpo"))
    trainer.train()
    first, last = (trainer.state.log_history[place] for place in (0, 11))
    assert (first["margin"], first["accuracy"]) == (pytest.approx(0, abs=1e-4), pytest.approx(0.5, abs=0.51))
    assert last["accuracy"] == 1
    assert last["margin"] > 1


def test_another_number_of_kept_tokens_stops_the_run(tmp_path, batches):
    wrong = [dict(batch) for batch in batches]
    wrong[2]["num_supervised"] += 1
    with pytest.raises(SupervisedTokenMismatchError, match=r"epoch 0, batch 2 of 6 .*the store has"):
        trainer_of(tiny_model(), arguments(tmp_path, max_steps=9), wrong).train()


def test_the_log_probabilities_of_held_out_responses_do_not_depend_on_batch_mates(reference):
    from models.batches import collate
    from models.preference import response_log_probs

    some = make_pairs(3, 4)
    rows = [pair[name] for pair in some for name in ("chosen", "rejected")]
    together = response_log_probs(reference, collate([row[0] for row in rows], [row[1] for row in rows]))
    alone = [response_log_probs(reference, collate([ids], [positions])).item() for ids, positions, _ in rows]
    assert together.tolist() == pytest.approx(alone, rel=1e-5)
