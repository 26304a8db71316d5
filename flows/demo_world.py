"""A small text world for the demo: stories and drills that a model is pre-trained on, and a noisy target task to fine-tune it on.

Everything is generated from a seed, so that what is useless is known: in the training data of the target task, a share of the responses
carries a span of random words. Words and numbers are tokens, a number's word stands for its value.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

NAMES = ["Tom", "Lily", "Ben", "Mia", "Sam", "Zoe", "Max", "Ada"]
ANIMALS = ["fox", "cat", "bear", "owl", "duck", "goat"]
PLACES = ["forest", "river", "hill", "garden"]
COLOURS = ["red", "blue", "green", "white", "black"]
THINGS = ["apples", "pears", "nuts", "eggs", "plums", "figs"]
SHOPS = ["market", "farm", "shop"]
ENDINGS = {"forest": "home", "river": "away", "hill": "asleep", "garden": "outside"}
FOODS = {"fox": "eggs", "cat": "fish", "bear": "honey", "owl": "mice", "duck": "grass", "goat": "leaves"}
NUMBERS = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
    "twenty",
]
LETTERS = ["a", "b", "c", "d", "e", "f", "g", "h"]
GLUE = [
    ".",
    ",",
    "?",
    ":",
    "once",
    "there",
    "was",
    "a",
    "who",
    "lived",
    "near",
    "the",
    "liked",
    "to",
    "eat",
    "one",
    "day",
    "went",
    "and",
    "saw",
    "friend",
    "they",
    "played",
    "until",
    "it",
    "ran",
    "then",
    "said",
    "hello",
    "my",
    "is",
    "have",
    "more",
    "than",
    "plus",
    "makes",
    "reverse",
    "sort",
    "copy",
    "at",
    "buys",
    "gets",
    "so",
    "has",
    "altogether",
    "how",
    "many",
    "does",
    "now",
    "first",
]


def vocabulary() -> list[str]:
    """List all words of the world, each once."""
    groups = (NAMES, ANIMALS, PLACES, COLOURS, THINGS, SHOPS, list(ENDINGS.values()), list(FOODS.values()), NUMBERS, LETTERS, GLUE)
    return list(dict.fromkeys(word for group in groups for word in group))


def story(rng: random.Random) -> str:
    """Tell a story: names, foods and endings follow from what was said before, so there is something to know and to forget."""
    name, friend = rng.sample(NAMES, 2)
    animal, place, colour = rng.choice(ANIMALS), rng.choice(PLACES), rng.choice(COLOURS)
    return (
        f"once there was a {colour} {animal} , {name} , who lived near the {place} . the {animal} liked to eat {FOODS[animal]} . "
        f"one day {name} went to the {place} and saw {friend} . {friend} said hello , my friend {name} . "
        f"they played until {name} ran {ENDINGS[place]} ."
    )


def drill(rng: random.Random) -> str:
    """Write a drill of letters: copying, reversing or sorting them."""
    letters = rng.sample(LETTERS, rng.randint(3, 5))
    task = rng.choice(["copy", "reverse", "sort"])
    answer = {"copy": letters, "reverse": letters[::-1], "sort": sorted(letters)}[task]
    return f"{task} : {' '.join(letters)} : {' '.join(answer)} ."


def purchase(rng: random.Random) -> tuple[str, str]:
    """Write an example of the target task: prompt and correct response of a sum told in words."""
    name, shop = rng.choice(NAMES), rng.choice(SHOPS)
    one, other = rng.sample(THINGS, 2)
    a, b = rng.randint(1, 10), rng.randint(1, 10)
    prompt = f"at the {shop} {name} buys {NUMBERS[a]} {one} and gets {NUMBERS[b]} {other} . how many does {name} have ?"
    response = (
        f"first {name} has {NUMBERS[a]} {one} . then {name} gets {NUMBERS[b]} {other} . {NUMBERS[a]} plus {NUMBERS[b]} makes {NUMBERS[a + b]} . "
        f"so {name} has {NUMBERS[a + b]} altogether ."
    )
    return prompt, response


@dataclass(frozen=True)
class World:
    """The texts of a demo.

    Attributes:
        pretraining: texts the base model learns: stories, drills, and few purchases.
        train: examples of the target task; `corrupted` lists the words of the response that are noise.
        validation: clean examples.
        evaluation: other clean examples.
        retention: stories the base model has not seen, of the kind it knows.
    """

    pretraining: list[str]
    train: list[dict[str, Any]]
    validation: list[dict[str, Any]]
    evaluation: list[dict[str, Any]]
    retention: list[str]


def generate(seed: int, num_train: int = 1200, corrupted_share: float = 0.4) -> World:
    """Make a world.

    Args:
        seed: everything follows from it.
        num_train: examples of the target task to train on.
        corrupted_share: share of them with a span of noise.

    Returns:
        the world; its data sets share no example.
    """
    rng = random.Random(seed)  # ruff: ignore[suspicious-non-cryptographic-random-usage] - a generator of texts
    pretraining = [story(rng) for _ in range(6000)] + [drill(rng) for _ in range(3000)]
    shown = [purchase(rng) for _ in range(500)]
    pretraining += [" ".join(pair) for pair in shown]
    examples = _distinct_purchases(rng, {prompt for prompt, _ in shown})
    train = [_corrupt(rng, *next(examples), share=corrupted_share) for _ in range(num_train)]
    validation, evaluation = ([_example(*next(examples)) for _ in range(n)] for n in (64, 200))
    known = set(pretraining)
    retention = list(dict.fromkeys(text for text in (story(rng) for _ in range(600)) if text not in known))
    return World(pretraining, train, validation, evaluation, retention)


def _distinct_purchases(rng: random.Random, seen: set[str]) -> Iterator[tuple[str, str]]:
    """Yield purchases with prompts that are not in `seen` and not repeated."""
    while True:
        prompt, response = purchase(rng)
        if prompt not in seen:
            seen.add(prompt)
            yield prompt, response


def _example(prompt: str, response: str) -> dict[str, Any]:
    return {"prompt": prompt, "response": response, "source": "clean", "corrupted": []}


def _corrupt(rng: random.Random, prompt: str, response: str, share: float) -> dict[str, Any]:
    """Replace a span of a response's words by random ones, in a share of the examples."""
    if rng.random() >= share:
        return _example(prompt, response)
    words = response.split()
    length = rng.randint(6, 14)
    first = rng.randrange(len(words) - length + 1)
    everything = vocabulary()
    words[first : first + length] = [rng.choice(everything) for _ in range(length)]
    return {"prompt": prompt, "response": " ".join(words), "source": "noisy", "corrupted": list(range(first, first + length))}
