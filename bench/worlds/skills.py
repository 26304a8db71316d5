"""Skills of the controlled world: every prompt has one right answer, so accuracy is exact.

Words are tokens. `chain` is the new skill, with its steps written out; the others are what the model is pre-trained on.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

DIGITS, LETTERS = tuple("0123456789"), tuple("abcdefgh")
BRACKETS = {"(": ")", "[": "]", "{": "}"}
FILLER = ("well", "let", "me", "think", "about", "it")
BOILERPLATE = ("as", "you", "asked", "here", "is", "what", "comes", "out", "of", "it")
START, END, PAD = "<start>", "<end>", "<pad>"


@dataclass(frozen=True)
class Example:
    """A prompt and its answer, in words; the answer ends with `END`."""

    prompt: tuple[str, ...]
    answer: tuple[str, ...]


def copy(rng: random.Random) -> Example:
    """Say letters again."""
    letters = tuple(rng.choices(LETTERS, k=rng.randint(3, 6)))
    return Example(("copy", *letters, ":"), (*letters, END))


def reverse(rng: random.Random) -> Example:
    """Say letters backwards."""
    letters = tuple(rng.choices(LETTERS, k=rng.randint(3, 5)))
    return Example(("reverse", *letters, ":"), (*letters[::-1], END))


def sort(rng: random.Random) -> Example:
    """Say different letters in the order of the alphabet."""
    letters = tuple(rng.sample(LETTERS, k=rng.randint(3, 5)))
    return Example(("sort", *letters, ":"), (*sorted(letters), END))


def look_up(rng: random.Random) -> Example:
    """Find the digits of two letters in a list of pairs."""
    keys, values = rng.sample(LETTERS, k=4), rng.choices(DIGITS, k=4)
    asked = rng.sample(range(4), k=2)
    pairs = tuple(word for pair in zip(keys, values, strict=True) for word in pair)
    return Example(("find", *(keys[i] for i in asked), "in", *pairs, ":"), (*(values[i] for i in asked), END))


def close(rng: random.Random) -> Example:
    """Close open brackets, the last one first."""
    opened = rng.choices(tuple(BRACKETS), k=rng.randint(2, 5))
    return Example(("close", *opened, ":"), (*(BRACKETS[b] for b in reversed(opened)), END))


def step(rng: random.Random) -> Example:
    """Add or subtract two digits, modulo ten."""
    a, sign, b = rng.randrange(10), rng.choice("+-"), rng.randrange(10)
    return Example(("step", str(a), sign, str(b), ":"), (str((a + b if sign == "+" else a - b) % 10), END))


def chain(rng: random.Random) -> Example:
    """Work a sum of four digits out, modulo ten, step by step."""
    total = rng.randrange(10)
    terms = [(rng.choice("+-"), rng.randrange(10)) for _ in range(3)]
    prompt, answer = ["chain", str(total)], []
    for sign, digit in terms:
        after = (total + digit if sign == "+" else total - digit) % 10
        prompt += [sign, str(digit)]
        answer += [str(total), sign, str(digit), "=", str(after), ";"]
        total = after
    return Example((*prompt, ":"), (*answer, "answer", str(total), END))


OLD: Mapping[str, Callable[[random.Random], Example]] = {
    "copy": copy, "reverse": reverse, "sort": sort, "look up": look_up, "close": close, "step": step,
}  # fmt: skip
"""What the model is pre-trained on."""

WORDS = (
    PAD, START, END, ":", "in", "=", ";", "answer", "+", "-", *OLD, "find", "chain", *DIGITS, *LETTERS,
    *BRACKETS, *BRACKETS.values(), *dict.fromkeys(FILLER + BOILERPLATE),
)  # fmt: skip
VOCABULARY = {word: index for index, word in enumerate(dict.fromkeys(WORDS))}


def encode(prompt: Sequence[str], answer: Sequence[str]) -> tuple[list[int], list[int]]:
    """Turn words into ids.

    Returns:
        (ids of start, prompt and answer; positions of the answer).
    """
    words = (START, *prompt, *answer)
    first = 1 + len(prompt)
    return [VOCABULARY[w] for w in words], list(range(first, len(words)))
