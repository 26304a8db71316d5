"""Laws of models/trainer.py: Eq. 13 over the global batch, counted tokens, bit-identical resume, merged adapters."""

import builtins
import json
import os
import socket
import subprocess
import sys
from itertools import count, islice
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, TrainerCallback, TrainingArguments

from models.losses import masked_loss_sum
from models.preference_trainer import PreferenceTrainer
from models.trainer import MaskedTrainer, SupervisedTokenMismatchError, save_final, with_lora
from models.training_settings import PreferenceSettings
from tests.models.pair_batches import batch_of, filler, make_pairs

NUM_BATCHES = 5
"""Micro-batches per epoch."""
NUM_RANKS = 2


@pytest.fixture(autouse=True)
def one_thread():
    """Threads only wait for one another in a model this small, and minutes where the cores are busy."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def tiny_model(dropout=0.0):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=31, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
        max_position_embeddings=32, attention_dropout=dropout, tie_word_embeddings=False,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def make_batches(num_batches=NUM_BATCHES, rows=3, empty=(3,)):
    """Micro-batches with very different numbers of kept tokens; those numbered in `empty` keep none."""
    generator = np.random.default_rng(1)
    batches = []
    for number in range(num_batches):
        lengths = generator.integers(2, 12, rows)
        shape = (rows, int(lengths.max()))
        there = np.arange(shape[1]) < lengths[:, None]
        input_ids = np.where(there, generator.integers(1, 31, shape), 0)
        kept = there & (generator.random(shape) < (0.9 if number % 2 else 0.2))
        kept[0, 1], kept[1, 0] = True, True  # position 0 is kept somewhere, and has no loss
        labels = np.where(kept & (number not in empty), input_ids, -100)
        batches.append({
            "input_ids": input_ids,
            "attention_mask": there.astype(np.int64),
            "labels": labels,
            "num_supervised": int((labels[:, 1:] != -100).sum()),
        })
    return batches


def stream_of(batches, begins=None):
    """An endless source of micro-batches that notes in `begins` where it was told to begin."""

    def start(first):
        if begins is not None:
            begins.append(first)
        return (dict(batches[number % len(batches)]) for number in count(first))

    return start


def arguments(folder, **changes):
    settings = {
        "output_dir": str(folder), "report_to": "none", "use_cpu": True, "ignore_data_skip": True, "disable_tqdm": True,
        "max_steps": 1, "gradient_accumulation_steps": 1, "save_strategy": "no", "logging_steps": 1, "learning_rate": 1e-2,
        "logging_nan_inf_filter": False,  # by default a NaN is logged as the mean so far, and no test would see it
    }  # fmt: skip
    return TrainingArguments(**(settings | changes))


def one_step(folder, num_batches):
    """One optimizer step on a global batch of so many micro-batches, on minus the gradient itself."""
    return arguments(
        folder, gradient_accumulation_steps=num_batches, optim="sgd", learning_rate=1.0, lr_scheduler_type="constant", max_grad_norm=0.0
    )


class Gradients(TrainerCallback):
    """Keeps the gradient that the optimizer gets."""

    def on_pre_optimizer_step(self, args, state, control, model, **kwargs):
        self.found = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


def gradient_of_a_step(folder, batches):
    """(loss in the log, gradient) of a step on all batches."""
    gradients = Gradients()
    trainer = trainer_of(tiny_model(), one_step(folder, len(batches)), batches)
    trainer.add_callback(gradients)
    return trainer.train().training_loss, gradients.found


def trainer_of(model, args, batches, *, begins=None, expected=None, first_batch=0):
    total = sum(batch["num_supervised"] for batch in batches)
    return MaskedTrainer(model, args, stream_of(batches, begins), total if expected is None else expected, len(batches), first_batch)


def weights_of(model):
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def kept_losses(model, batch):
    """Losses of the kept tokens, one sequence and one token at a time, without padding."""
    losses = []
    for ids, there, labels in zip(batch["input_ids"], batch["attention_mask"], batch["labels"], strict=True):
        length = int(there.sum())
        logits_TV = model(input_ids=torch.tensor(ids[None, :length])).logits[0]
        losses += [-torch.log_softmax(logits_TV[u - 1], -1)[labels[u]] for u in range(1, length) if labels[u] != -100]
    return losses


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


def relative_error(got, expected):
    return max(((got[name] - expected[name]).abs().max() / expected[name].abs().max()).item() for name in expected)


def test_loss_and_gradient_are_eq_13_of_the_global_batch(tmp_path):
    batches = make_batches()
    slow = tiny_model()
    per_batch = [kept_losses(slow, batch) for batch in batches]
    every = [loss for losses in per_batch for loss in losses]
    expected = torch.stack(every).sum() / len(every)
    expected_gradient = gradients(slow, expected)

    loss, gradient = gradient_of_a_step(tmp_path, batches)
    assert loss == pytest.approx(expected.item(), rel=1e-5)
    assert relative_error(gradient, expected_gradient) < 1e-5

    # The mean of the batches' means is something else.
    naive = torch.stack([torch.stack(losses).mean() for losses in (kept_losses(slow, batch) for batch in batches) if losses]).mean()
    assert abs(naive.item() - expected.item()) > 1e-3
    assert relative_error(gradients(slow, naive), expected_gradient) > 0.05


def with_weights(batches, seed=2):
    """Soft weights for the kept tokens, small enough that their sum may lie below 1."""
    generator = np.random.default_rng(seed)
    for batch in batches:
        weights = generator.random(batch["labels"].shape).astype(np.float32) * 0.05
        batch["weights"] = np.where(batch["labels"] != -100, weights, np.float32(0))
    return batches


@pytest.mark.parametrize("num_batches", [1, NUM_BATCHES])
def test_with_soft_weights_it_is_the_weighted_mean_of_the_global_batch(tmp_path, num_batches):
    batches = with_weights(make_batches(num_batches))
    slow = tiny_model()
    losses = torch.stack([loss for batch in batches for loss in kept_losses(slow, batch)])
    weights = torch.tensor(np.concatenate([row[1:][row[1:] > 0] for batch in batches for row in batch["weights"]]))
    assert weights.sum() < 1 or num_batches > 1
    expected = (weights * losses).sum() / weights.sum()
    loss, gradient = gradient_of_a_step(tmp_path, batches)
    assert loss == pytest.approx(expected.item(), rel=1e-5)
    assert relative_error(gradient, gradients(slow, expected)) < 1e-5


def test_weights_of_1_are_the_hard_mask(tmp_path):
    weighted = make_batches()
    for batch in weighted:
        batch["weights"] = (batch["labels"] != -100).astype(np.float32)
    loss, gradient = gradient_of_a_step(tmp_path, weighted)
    expected_loss, expected = gradient_of_a_step(tmp_path, make_batches())
    assert loss == expected_loss
    assert all(torch.equal(gradient[name], expected[name]) for name in expected)


def test_a_batch_with_nothing_kept_contributes_nothing(tmp_path):
    batches = make_batches()
    assert [batch["num_supervised"] == 0 for batch in batches] == [False, False, False, True, False]
    loss, gradient = gradient_of_a_step(tmp_path, batches)
    expected_loss, expected = gradient_of_a_step(tmp_path, batches[:3] + batches[4:])
    assert loss == pytest.approx(expected_loss, rel=1e-6)
    assert relative_error(gradient, expected) < 1e-6


def test_a_global_batch_with_nothing_kept_has_loss_0_and_gradient_0(tmp_path):
    loss, gradient = gradient_of_a_step(tmp_path, make_batches(2, empty=(0, 1)))
    assert loss == 0  # exactly
    assert all((tensor == 0).all() for tensor in gradient.values())


def test_padding_to_the_right_changes_nothing(tmp_path):
    padded = make_batches()
    for batch in padded:
        for name, padding in (("input_ids", 0), ("attention_mask", 0), ("labels", -100)):
            batch[name] = np.pad(batch[name], ((0, 0), (0, 7)), constant_values=padding)
    loss, gradient = gradient_of_a_step(tmp_path, padded)
    expected_loss, expected = gradient_of_a_step(tmp_path, make_batches())
    assert loss == pytest.approx(expected_loss, rel=1e-6)
    assert relative_error(gradient, expected) < 1e-5


def test_another_number_in_a_batch_stops_the_run(tmp_path):
    batches = make_batches()
    total = sum(batch["num_supervised"] for batch in batches)
    seen, batches[2]["num_supervised"] = batches[2]["num_supervised"], batches[2]["num_supervised"] + 1
    trainer = trainer_of(tiny_model(), arguments(tmp_path, max_steps=9), batches, expected=total)
    with pytest.raises(
        SupervisedTokenMismatchError, match=rf"epoch 0, batch 2 of 5 .*saw {seen} supervised tokens, the store has {seen + 1}"
    ):
        trainer.train()
    assert trainer.state.global_step == 2


def test_another_number_in_an_epoch_stops_the_run_at_its_end(tmp_path):
    batches = make_batches()
    total = sum(batch["num_supervised"] for batch in batches)
    trainer = trainer_of(tiny_model(), arguments(tmp_path, max_steps=9, gradient_accumulation_steps=2), batches, expected=total + 1)
    with pytest.raises(
        SupervisedTokenMismatchError, match=rf"end of epoch 0, batch 4 of 5 .*saw {total} supervised tokens .*has {total + 1}"
    ):
        trainer.train()


def test_batches_that_end_too_early_are_an_error(tmp_path):
    batches = make_batches()
    trainer = MaskedTrainer(tiny_model(), arguments(tmp_path, max_steps=9), lambda first: islice(stream_of(batches)(first), 3), 1, 5)
    with pytest.raises(ValueError, match="ended after micro-batch 2, max_steps needs 9"):
        trainer.train()


@pytest.mark.parametrize("changes", [{"max_steps": -1}, {"ignore_data_skip": False}, {"label_smoothing_factor": 0.1}])
def test_arguments_it_cannot_honour_are_refused(tmp_path, changes):
    with pytest.raises(ValueError, match=next(iter(changes))):
        trainer_of(tiny_model(), arguments(tmp_path, **changes), make_batches())


class Killed(Exception):
    pass


@pytest.mark.parametrize("lora", [False, True])
def test_a_run_resumed_within_an_epoch_ends_bit_for_bit_as_an_uninterrupted_one(tmp_path, lora):
    batches = make_batches()
    if lora:
        pytest.importorskip("peft")

    def new():
        model = tiny_model(dropout=0.2)  # dropout: the random state must be resumed, too
        return with_lora(model, 2, 4.0, 0.2) if lora else model

    def settings(name):
        return arguments(tmp_path / name, max_steps=8, gradient_accumulation_steps=2, save_strategy="steps", save_steps=3)

    whole = new()
    trainer_of(whole, settings("whole"), batches).train()

    def killed(first):
        for number, batch in enumerate(stream_of(batches)(first), first):
            if number == 9:
                raise Killed
            yield batch

    total = sum(batch["num_supervised"] for batch in batches)
    with pytest.raises(Killed):
        MaskedTrainer(new(), settings("killed"), killed, total, NUM_BATCHES).train()
    assert [folder.name for folder in (tmp_path / "killed").iterdir()] == ["checkpoint-3"]

    torch.manual_seed(99)
    begins = []
    resumed = new()
    trainer = trainer_of(resumed, settings("killed"), batches, begins=begins)
    trainer.train(resume_from_checkpoint=True)
    assert begins == [6]  # nothing is replayed, and 6 is within the second epoch
    assert trainer.state.global_step == 8
    expected = weights_of(whole)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in weights_of(resumed).items())
    start = weights_of(new())
    assert any(not torch.equal(tensor, start[name]) for name, tensor in expected.items())


def test_the_count_of_a_resumed_epoch_includes_what_came_before_the_checkpoint(tmp_path):
    batches = make_batches()
    total = sum(batch["num_supervised"] for batch in batches)
    settings = {"save_strategy": "steps", "save_steps": 3}
    trainer_of(tiny_model(), arguments(tmp_path, max_steps=3, **settings), batches).train()
    trainer = trainer_of(tiny_model(), arguments(tmp_path, max_steps=8, **settings), batches, expected=total + 1)
    with pytest.raises(SupervisedTokenMismatchError, match=rf"saw {total} supervised tokens"):
        trainer.train(resume_from_checkpoint=True)


def test_resuming_a_finished_run_trains_no_further(tmp_path):
    settings = arguments(tmp_path, max_steps=2, save_strategy="steps", save_steps=2)
    done = tiny_model()
    trainer_of(done, settings, make_batches()).train()
    begins = []
    again = tiny_model()
    trainer = trainer_of(again, settings, make_batches(), begins=begins)
    trainer.train(resume_from_checkpoint=True)
    assert begins == []
    assert trainer.state.global_step == 2
    expected = weights_of(done)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in weights_of(again).items())


def ranked_trainer(kind, folder, rank, num_ranks):
    """A trainer of the kind for a rank's share of four micro-batches, all of which make one step."""
    args = one_step(folder, 4 // num_ranks)
    if kind == "pairs":
        batches = pair_micro_batches()
        own = batches[rank::num_ranks]
        total = sum(batch["num_supervised"] for batch in batches)
        return PreferenceTrainer(tiny_model(), args, stream_of(own), total, len(own), PreferenceSettings(beta=0.5))
    batches = with_weights(make_batches(4)) if kind == "weights" else make_batches(4)
    own = batches[rank::num_ranks]
    return MaskedTrainer(tiny_model(), args, stream_of(own), sum(batch["num_supervised"] for batch in batches), len(own))


def pair_micro_batches():
    """Four micro-batches of unequal numbers of pairs, one of them filler."""
    return [*(batch_of(make_pairs(n, n), lambda ids: [-3.0 - i / 9 for i in range(len(ids))]) for n in (3, 1, 2)), filler()]


KINDS = ("tokens", "weights", "pairs")


def train_a_rank(folder):
    """What each process of the test below runs; the environment says which rank it is."""
    rank = int(os.environ["RANK"])
    for kind in KINDS:
        trainer = ranked_trainer(kind, folder, rank, NUM_RANKS)
        trainer.train()
        save_final(trainer, None, Path(folder) / kind)
        assert (Path(folder) / kind).exists()  # on every rank
        if rank == 0:
            (Path(folder) / f"{kind}.json").write_text(json.dumps(trainer.state.log_history[0]))
    # Left to the interpreter's end, a thread of gloo's may outlive its owner, and the process aborts now and then.
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def test_several_ranks_make_the_same_step_as_one(tmp_path):
    batches = make_batches(4)
    assert sum(batch["num_supervised"] for batch in batches[::2]) != sum(batch["num_supervised"] for batch in batches[1::2])
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = os.environ | {"WORLD_SIZE": str(NUM_RANKS), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", f"from tests.models.test_trainer import train_a_rank; train_a_rank({str(tmp_path)!r})"]
    root = Path(__file__).parents[2]
    ranks = [
        subprocess.Popen(
            command, cwd=root, env=shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)}, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL
        )
        for rank in range(NUM_RANKS)
    ]
    errors = [process.communicate(timeout=240)[1].decode() for process in ranks]
    assert [process.returncode for process in ranks] == [0] * NUM_RANKS, errors

    start = weights_of(tiny_model())
    for kind in KINDS:
        alone = ranked_trainer(kind, tmp_path / "one", 0, 1)
        alone.train()
        together = weights_of(AutoModelForCausalLM.from_pretrained(tmp_path / kind))
        for name, expected in weights_of(alone.model).items():
            largest = (expected - start[name]).abs().max()
            assert (together[name] - expected).abs().max() <= 5e-3 * largest, (kind, name)  # float32 steps on weights of 1
        logged = json.loads((tmp_path / f"{kind}.json").read_text())
        expected = alone.state.log_history[0]
        assert set(logged) == set(expected)
        assert {name: value for name, value in logged.items() if name != "grad_norm"} == pytest.approx(
            {name: value for name, value in expected.items() if name != "grad_norm"}, rel=1e-4
        )


def test_lora_trains_the_adapters_alone_and_the_merged_folder_gives_the_same_logits(tmp_path):
    pytest.importorskip("peft")
    batches = make_batches()
    before = weights_of(tiny_model())
    model = with_lora(tiny_model(), 2, 8.0, 0.1, ("q_proj", "v_proj"))
    assert {name.split(".")[-3] for name, parameter in model.named_parameters() if parameter.requires_grad} == {"lora_A", "lora_B"}
    trainer = trainer_of(model, arguments(tmp_path, max_steps=4), batches)
    trainer.train()

    batch = {name: torch.tensor(batches[1][name]) for name in ("input_ids", "attention_mask")}
    model.eval()
    with torch.no_grad():
        expected_BTV = model(**batch).logits
        start_BTV = tiny_model().eval()(**batch).logits
    save_final(trainer, None, tmp_path / "deep" / "final")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "deep" / "final")
    with torch.no_grad():
        got_BTV = loaded(**batch).logits
    assert torch.allclose(got_BTV, expected_BTV, atol=1e-5)
    assert not torch.allclose(got_BTV, start_BTV, atol=1e-3)
    changed = {name for name, tensor in loaded.state_dict().items() if not torch.equal(tensor, before[name])}
    assert {name.split(".")[-2] for name in changed} == {"q_proj", "v_proj"}


def test_lora_starts_from_its_seed_and_leaves_the_global_random_state_alone():
    pytest.importorskip("peft")
    torch.manual_seed(5)
    one = with_lora(tiny_model(), 2, 4.0, 0.0, seed=3)
    torch.rand(7)
    other, third = with_lora(tiny_model(), 2, 4.0, 0.0, seed=3), with_lora(tiny_model(), 2, 4.0, 0.0, seed=4)
    assert all(torch.equal(tensor, other.state_dict()[name]) for name, tensor in one.state_dict().items())
    assert any(not torch.equal(tensor, third.state_dict()[name]) for name, tensor in one.state_dict().items())
    model = tiny_model()
    state = torch.get_rng_state()
    with_lora(model, 2, 4.0, 0.0)
    assert torch.equal(torch.get_rng_state(), state)


def test_without_peft_the_error_says_how_to_install_it(monkeypatch):
    real = builtins.__import__

    def no_peft(name, *rest, **named):
        if name == "peft":
            raise ImportError("no peft")
        return real(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", no_peft)
    with pytest.raises(ImportError, match=r"pip install 'alphatoken\[peft\]'"):
        with_lora(tiny_model(), 2, 4.0, 0.0)


def test_a_saved_folder_is_complete_or_absent_and_replaces_an_older_one(tmp_path):
    class NoSpace(Exception):
        pass

    class Tokenizer:
        def save_pretrained(self, folder):
            assert not (tmp_path / "final").exists()
            raise NoSpace

    folder = tmp_path / "final"
    with pytest.raises(NoSpace):
        save_final(tiny_model(), Tokenizer(), folder)
    assert not folder.exists()
    for value in (1.0, 2.0):
        model = tiny_model()
        torch.nn.init.constant_(model.lm_head.weight, value)
        save_final(model, None, folder)
        assert torch.equal(AutoModelForCausalLM.from_pretrained(folder).lm_head.weight, model.lm_head.weight)
    assert [path.name for path in tmp_path.iterdir()] == ["final"]


def test_the_filler_row_of_the_stream_has_a_finite_loss_of_0():
    row = torch.zeros(1, 1, dtype=torch.long)
    loss, num_supervised = masked_loss_sum(tiny_model()(input_ids=row, attention_mask=row + 1, use_cache=False).logits, row - 100)
    loss.backward()
    assert (loss.item(), int(num_supervised)) == (0.0, 0)


def test_a_run_that_goes_on_behind_another_takes_the_batches_behind_and_counts_whole_epochs_alone(tmp_path):
    batches, begins = make_batches(empty=()), []
    whole = arguments(tmp_path / "whole", max_steps=7, optim="sgd", lr_scheduler_type="constant", max_grad_norm=0.0)
    model = tiny_model()
    trainer_of(model, whole, batches).train()

    halves = tiny_model()
    for first, steps in ((0, 3), (3, 4)):  # the second begins inside the first epoch and ends inside the second
        part = arguments(tmp_path / str(first), max_steps=steps, optim="sgd", lr_scheduler_type="constant", max_grad_norm=0.0)
        trainer_of(halves, part, batches, begins=begins, first_batch=first).train()
    assert begins == [0, 3]
    assert all(torch.equal(weights_of(model)[name], tensor) for name, tensor in weights_of(halves).items())

    long = arguments(tmp_path / "long", max_steps=7)
    with pytest.raises(SupervisedTokenMismatchError, match="end of epoch 1"):
        trainer_of(tiny_model(), long, batches, expected=1, first_batch=3).train()
