"""Damage to training answers, with the truth of every token: which ones teach something false or useless."""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from bench.worlds.skills import BOILERPLATE, DIGITS, END, FILLER, VOCABULARY, Example

_RANDOM_WORDS = tuple(word for word in VOCABULARY if not word.startswith("<"))


@dataclass(frozen=True)
class TrainingExample:
    """An example as it stands in the training data.

    Attributes:
        prompt: words of the prompt.
        answer: words of the answer, perhaps damaged.
        is_bad: per word of the answer whether the damage put it there.
    """

    prompt: tuple[str, ...]
    answer: tuple[str, ...]
    is_bad: tuple[bool, ...]


def scattered(rng: random.Random, example: Example) -> TrainingExample:
    """Replace a quarter of the words by random ones."""
    places = set(rng.sample(range(len(example.answer) - 1), k=max(1, len(example.answer) // 4)))
    return _replaced(rng, example, places, _RANDOM_WORDS)


def span(rng: random.Random, example: Example) -> TrainingExample:
    """Replace a third of the words, in a row, by random ones."""
    length = max(2, len(example.answer) // 3)
    first = rng.randrange(len(example.answer) - length)
    return _replaced(rng, example, set(range(first, first + length)), _RANDOM_WORDS)


def wrong_steps(rng: random.Random, example: Example) -> TrainingExample:
    """Give the results of steps wrong, the answer right."""
    results = [i + 1 for i, word in enumerate(example.answer) if word == "="]
    chosen = rng.sample(results, k=rng.randint(1, len(results) - 1))
    return _replaced(rng, example, set(chosen), DIGITS)


def filler(rng: random.Random, example: Example) -> TrainingExample:
    """Put idle words between two steps."""
    ends = [i + 1 for i, word in enumerate(example.answer) if word == ";"]
    return _inserted(example, rng.choice(ends), FILLER)


def boilerplate(rng: random.Random, example: Example) -> TrainingExample:
    """Begin with a phrase that says nothing."""
    del rng
    return _inserted(example, 0, BOILERPLATE)


def copied_prompt(rng: random.Random, example: Example) -> TrainingExample:
    """Say the prompt again before the answer."""
    del rng
    return _inserted(example, 0, example.prompt)


DAMAGE: Mapping[str, Callable[[random.Random, Example], TrainingExample]] = {
    "scattered": scattered, "span": span, "wrong steps": wrong_steps, "filler": filler, "boilerplate": boilerplate,
    "copied prompt": copied_prompt,
}  # fmt: skip


def training_data(examples: Sequence[Example], kind: str, rate: float, seed: int) -> list[TrainingExample]:
    """Damage a share of examples.

    Args:
        examples: clean examples.
        kind: one of `DAMAGE`, or `clean`.
        rate: share of the examples that are damaged, exactly, rounded.
        seed: seed of the choice and of the damage.

    Returns:
        the examples in their order.
    """
    rng = random.Random(seed)
    damaged = set() if kind == "clean" else set(rng.sample(range(len(examples)), k=round(rate * len(examples))))
    return [
        DAMAGE[kind](rng, one) if i in damaged else TrainingExample(one.prompt, one.answer, (False,) * len(one.answer))
        for i, one in enumerate(examples)
    ]


def _replaced(rng: random.Random, example: Example, places: set[int], words: Sequence[str]) -> TrainingExample:
    answer = tuple(rng.choice([w for w in words if w != word]) if i in places else word for i, word in enumerate(example.answer))
    return TrainingExample(example.prompt, answer, tuple(i in places for i in range(len(answer))))


def _inserted(example: Example, place: int, words: Sequence[str]) -> TrainingExample:
    answer = (*example.answer[:place], *words, *example.answer[place:])
    assert answer[-1] == END
    return TrainingExample(example.prompt, answer, tuple(place <= i < place + len(words) for i in range(len(answer))))
