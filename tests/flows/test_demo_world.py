"""Laws of flows/demo_world.py: a world follows from its seed, its data sets share nothing, and its noise is marked."""

import pytest

from flows import demo_world


@pytest.fixture(scope="module")
def world():
    return demo_world.generate(7, 300)


def texts(examples):
    return {(example["prompt"], example["response"]) for example in examples}


def test_world_is_a_function_of_its_seed(world):
    assert demo_world.generate(7, 300) == world
    assert demo_world.generate(8, 300) != world


def test_data_sets_share_no_example_and_no_prompt(world):
    sets = [{example["prompt"] for example in part} for part in (world.train, world.validation, world.evaluation)]
    assert [len(s) for s in sets] == [300, 64, 200]
    assert len(set.union(*sets)) == 564
    assert not set(world.retention) & set(world.pretraining)
    assert len(set(world.retention)) == len(world.retention)


def test_noise_is_a_span_of_the_response_and_the_only_fault_in_it(world):
    noisy = [example for example in world.train if example["source"] == "noisy"]
    assert len(noisy) / len(world.train) == pytest.approx(0.4, abs=0.1)
    for example in noisy:
        marked = example["corrupted"]
        assert 6 <= len(marked) <= 14
        assert marked == list(range(marked[0], marked[-1] + 1))
        assert marked[-1] < len(example["response"].split())
        correct = correct_response(example["prompt"]).split()
        words = example["response"].split()
        assert len(words) == len(correct)
        assert {i for i, (a, b) in enumerate(zip(words, correct, strict=True)) if a != b} <= set(marked)


def test_clean_responses_are_correct(world):
    clean = [e for e in world.train if e["source"] == "clean"]
    for example in (*clean, *world.validation, *world.evaluation):
        assert example["corrupted"] == []
        assert example["response"] == correct_response(example["prompt"])


def correct_response(prompt):
    """Do the sum: `at the SHOP NAME buys A THINGS and gets B THINGS . how many does NAME have ?`."""
    _, _, _, name, _, a, one, _, _, b, other, *_ = prompt.split()
    number = demo_world.NUMBERS
    total = number[number.index(a) + number.index(b)]
    return f"first {name} has {a} {one} . then {name} gets {b} {other} . {a} plus {b} makes {total} . so {name} has {total} altogether ."


def test_vocabulary_holds_every_word_once(world):
    words = demo_world.vocabulary()
    assert len(words) == len(set(words))
    everything = [*world.pretraining, *world.retention]
    everything += [e[k] for part in (world.train, world.validation, world.evaluation) for e in part for k in ("prompt", "response")]
    assert {word for text in everything for word in text.split()} <= set(words)


def test_tokenizer_of_the_demo_has_one_token_per_word_and_knows_them_all(world):
    from tasks.base_model import word_tokenizer

    tokenizer = word_tokenizer(demo_world.vocabulary())
    for example in world.train[:50]:
        ids = tokenizer(example["response"], add_special_tokens=False)["input_ids"]
        assert len(ids) == len(example["response"].split())
        assert tokenizer.unk_token_id not in ids
