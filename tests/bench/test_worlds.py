"""Laws of bench/worlds: damage is where it is said to be, accuracies are those of greedy decoding, selections are the policies'."""

import random

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from bench.worlds import selections
from bench.worlds.base import accuracy_and_loss, examples_of
from bench.worlds.damage import DAMAGE, training_data
from bench.worlds.skills import END, OLD, VOCABULARY, Example, chain, encode, reverse
from bench.worlds.values import TokenTable, auroc, copy_of
from models.settings import WarmupSettings
from models.training import fit
from tests.warehouse.test_policies import Sequence, fill, mask_of
from warehouse.connect import Warehouse
from warehouse.policies import PolicySettings


def table(columns, row, is_end, is_bad=None):
    row = np.array(row)
    bad = np.zeros(len(row), dtype=bool) if is_bad is None else np.array(is_bad)
    place = np.concatenate([np.arange(n) for n in np.unique(row, return_counts=True)[1]])
    return TokenTable(row=row, place=place, is_bad=bad, is_end=np.array(is_end), columns=columns)


def test_every_word_of_every_skill_is_in_the_vocabulary_and_every_answer_ends():
    rng = random.Random(0)
    for make in (*OLD.values(), chain):
        for _ in range(50):
            one = make(rng)
            ids, positions = encode(one.prompt, one.answer)
            assert len(ids) == 1 + len(one.prompt) + len(one.answer)
            assert positions[-1] == len(ids) - 1
            assert ids[-1] == VOCABULARY[END]


def test_the_steps_of_a_chain_are_right():
    rng = random.Random(1)
    for _ in range(20):
        words = list(chain(rng).answer)
        while words[0] != "answer":
            a, sign, b, equals, result, semicolon = words[:6]
            assert (equals, semicolon) == ("=", ";")
            assert int(result) == (int(a) + int(b) if sign == "+" else int(a) - int(b)) % 10
            words = words[6:]
            assert words[1 if words[0] == "answer" else 0] == result


@pytest.mark.parametrize("kind", [*DAMAGE, "clean"])
def test_without_its_bad_tokens_an_answer_is_a_part_of_the_right_one(kind):
    clean = examples_of(chain, 40, 0)
    damaged = training_data(clean, kind, 0.5, 0)
    assert sum(any(one.is_bad) for one in damaged) == (0 if kind == "clean" else 20)
    for before, after in zip(clean, damaged, strict=True):
        rest = [word for word, bad in zip(after.answer, after.is_bad, strict=True) if not bad]
        if len(after.answer) == len(before.answer):  # replaced in place
            assert all((a == b) != bad for a, b, bad in zip(after.answer, before.answer, after.is_bad, strict=True))
        else:
            assert rest == list(before.answer)
        assert after.answer[-1] == END
        assert not after.is_bad[-1]


def test_accuracy_is_that_of_greedy_decoding():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        eos_token_id=None,
        pad_token_id=0,
    )
    examples = [Example(("copy", word, ":"), (word, END)) for word in "abcdefgh"]
    rows = [encode(one.prompt, one.answer) for one in examples]
    model = fit(LlamaForCausalLM(config), rows, WarmupSettings(steps=60, batch_size=4, learning_rate=2e-3))
    asked = [*examples, *examples_of(reverse, 8, 0)]
    right = 0
    for one in asked:
        ids, positions = encode(one.prompt, one.answer)
        prompt = torch.tensor([ids[: positions[0]]])
        said = model.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=len(positions), do_sample=False)[0].tolist()
        right += said == ids
    accuracy, loss = accuracy_and_loss(model, asked, batch_size=5)
    assert 0 < right < len(asked)
    assert accuracy == right / len(asked)
    assert loss > 0
    assert not any(a is b for a, b in zip(model.parameters(), copy_of(model).parameters(), strict=True))


def test_auroc_counts_pairs_ties_by_half():
    column, bad = np.array([0.0, 1.0, 1.0, 2.0, np.nan]), np.array([True, False, True, False, True])
    pairs = [(b < g) + (b == g) / 2 for b in (0.0, 1.0) for g in (1.0, 2.0)]
    assert auroc(column, bad) == sum(pairs) / len(pairs)
    assert np.isnan(auroc(column, np.zeros(5, dtype=bool)))


@pytest.mark.parametrize("normalization", ["zscore", "rank"])
@pytest.mark.parametrize(("window", "scope"), [(1, "response"), (3, "response"), (1, "dataset")])
def test_selections_are_those_of_the_policies(tmp_path, normalization, window, scope):
    rng = np.random.default_rng(0)
    lengths = [1, 4, 7, 10]
    row = np.repeat(range(len(lengths)), lengths)
    columns = {name: rng.integers(-20, 20, len(row)) / 4 for name in ("adapt_direct", "loss")}
    columns["loss"][5] = np.nan
    is_end = np.r_[row[1:] != row[:-1], True]
    weights = {"adapt_direct": 1.0, "loss": -0.5}
    make = getattr(selections, normalization)
    mine = table(columns, row, is_end)
    score = selections.pooled(sum(w * make(columns[n], columns[n]) for n, w in weights.items()), mine, window)
    kept = selections.keep_share(score, mine, 0.6, scope)
    listed = {n: [[None if np.isnan(v) else float(v) for v in c[row == i]] for i in range(len(lengths))] for n, c in columns.items()}
    sequences = [
        Sequence(f"s{i}", list(range(1, n + 1)), {name: listed[name][i] for name in columns}, end_of_turn=(n,))
        for i, n in enumerate(lengths)
    ]
    policy = PolicySettings(weights=weights, normalization=normalization, window=window, scope=scope, keep=0.6, min_kept=0)
    with Warehouse(tmp_path / "wh") as warehouse:
        fill(warehouse, sequences)
        stored = mask_of(warehouse, policy)
    assert kept.tolist() == [keep for i in range(len(lengths)) for keep in stored[f"s{i}"]]
