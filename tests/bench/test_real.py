"""Laws of bench/real: damage is where it is said to be, rows are disjoint, weights are learned from as they say, chance is matched by position."""

import random

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from bench.real import data, report
from bench.real.arms import position_matched
from bench.real.data import CONDITIONS, Example, bad_tokens, corrupted
from bench.real.training import train
from models.settings import WarmupSettings
from models.training import fit

WORDS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]


def examples(number=60):
    rng = random.Random(0)
    return [Example(f"question {i}", " ".join(rng.choices(WORDS, k=30)) + f".\n#### {i}") for i in range(number)]


@pytest.mark.parametrize("condition", list(CONDITIONS))
def test_outside_the_bad_intervals_a_response_is_what_it_was(condition):
    share, depth = CONDITIONS[condition][:2]
    clean = examples()
    damaged = corrupted(clean, condition, 1)
    assert sum(one.kind != "clean" for one in damaged) <= round(share * len(clean))  # some get no span
    for before, after in zip(clean, damaged, strict=True):
        old, new = before.response.split(), after.response.split()
        assert len(old) == len(new)
        bad = {after.response[begin:end] for begin, end in after.bad}
        assert all((a == b) or (b in bad) for a, b in zip(old, new, strict=True))
        assert len(after.bad) == sum(a != b for a, b in zip(old, new, strict=True))
    changed = sum(len(one.bad) for one in damaged) / (32 * len(clean))
    assert changed <= share * depth * 1.3
    assert changed >= share * depth * 0.4
    assert damaged == corrupted(clean, condition, 1)


def test_tokens_that_hold_part_of_a_corrupted_word_are_bad():
    one = Example("q", "good bad good", ((5, 8),), "noise")
    assert bad_tokens(one, [(0, 4), (4, 6), (6, 8), (8, 13)]) == [False, True, True, False]
    assert bad_tokens(one, [(0, 5), (8, 9), (9, 13)]) == [False, False, False]


class Characters:
    """A tokenizer of one token per character."""

    def __call__(self, texts, **_):
        return {"input_ids": [list(text) for text in texts]}


def test_rows_of_a_seed_are_disjoint_and_those_to_measure_by_are_those_of_every_seed():
    rows = examples(600)
    one, two = (data.split(rows, Characters(), 200, 90, seed) for seed in (0, 1))
    for split in (one, two):
        parts = [split.train, split.validation, split.evaluation, split.prior]
        assert len({e.prompt for part in parts for e in part}) == sum(map(len, parts))
        assert [len(part) for part in parts[:3]] == [90, data.NUM_VALIDATION, data.NUM_EVALUATION]
    assert (one.evaluation, one.prior) == (two.evaluation, two.prior)
    assert one.train != two.train


def test_the_matched_mask_keeps_as_many_tokens_at_every_place():
    weights = [[1.0, 0.5, 0.0, 0.0], [1.0, 0.0], [0.0, 1.0, 1.0], [1.0]]
    drawn = position_matched(weights, 3)
    for place in range(4):
        assert sum(row[place] > 0 for row in drawn if place < len(row)) == sum(row[place] > 0 for row in weights if place < len(row))
    assert {w for row in drawn for w in row} <= {0.0, 1.0}
    assert [len(row) for row in drawn] == [len(row) for row in weights]


def tiny():
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=20, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, pad_token_id=0)
    return LlamaForCausalLM(config)


def sequences():
    generator = np.random.default_rng(0)
    return [(generator.integers(1, 20, n).tolist(), list(range(2, n))) for n in (5, 8, 6, 9)]


def test_weights_of_one_are_the_products_own_loop_and_a_weight_of_zero_is_no_position():
    rows, settings = sequences(), WarmupSettings(steps=5, batch_size=3, learning_rate=1e-2)
    mine = train(tiny(), rows, [[1.0] * len(positions) for _, positions in rows], settings)
    for a, b in zip(mine.parameters(), fit(tiny(), rows, settings).parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-5)
    halved = train(tiny(), rows, [[1.0 if p % 2 else 0.0 for p in positions] for _, positions in rows], settings)
    fewer = fit(tiny(), [(ids, [p for p in positions if p % 2]) for ids, positions in rows], settings)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(halved.parameters(), fewer.parameters(), strict=True))
    assert not all(torch.allclose(a, b, atol=1e-3) for a, b in zip(halved.parameters(), mine.parameters(), strict=True))


def test_soft_weights_are_those_of_eq_13():
    (ids, positions), weights = sequences()[1], [0.25, 1.0, 0.5, 0.0, 0.75, 1.0]
    model = tiny()
    logits = model(input_ids=torch.tensor([ids])).logits[0]
    losses = [-torch.log_softmax(logits[p - 1], -1)[ids[p]] for p in positions]
    (sum(w * loss for w, loss in zip(weights, losses, strict=True)) / sum(weights)).backward()
    expected = torch.cat([p.grad.flatten() for p in model.parameters()])
    step = 1e-6 / 10
    moved = train(tiny(), [(ids, positions)], [weights], WarmupSettings(steps=1, batch_size=1, learning_rate=step * 10))
    change = torch.cat([(a - b).detach().flatten() for a, b in zip(moved.parameters(), tiny().parameters(), strict=True)])
    large = expected.abs() > expected.abs().max() * 1e-2  # AdamW's first step is the sign of the gradient
    assert (torch.sign(change[large]) == -torch.sign(expected[large])).float().mean() > 0.99


def measured(arm, rate, seed, target, retention):
    named = {"model": "m", "data": "d", "regime": "novice", "condition": "clean", "seed": seed}
    return {**named, "arm": arm, "rate": rate, "target": target, "retention": retention, "kept": 1.0, "value_s": 3.0, "train_cpu_s": 2.0}


def test_the_report_leaves_out_arms_that_lack_a_seed_or_a_rate_and_measures_others_against_the_frontier():
    rows = [{**measured("before", 0, 0, 3.0, 1.0)}]
    del rows[0]["rate"]
    for seed in (0, 1):
        rows += [measured("full", rate, seed, 2.0 + late, 2.0 - late) for rate, late in ((2e-3, 0.0), (1e-3, 0.5))]
        rows += [measured("good", 2e-3, seed, 2.0, 1.5), measured("good", 1e-3, seed, 2.5, 1.4), measured("half", 2e-3, seed, 1.9, 1.0)]
    rows += [measured("unfinished", rate, 0, 1.9, 1.0) for rate in (2e-3, 1e-3)]
    rows.append(measured("full", 2e-3, 2, 1.0, 1.0))  # a seed that has just begun
    found = report.studies(rows)
    table = report.gain_table(found)
    assert list(found) == [("m", "d", "novice", "clean")]
    assert "unfinished" not in table
    assert "half" not in table
    assert "| good | +0.250 (+0.250 … +0.250) |" in table
