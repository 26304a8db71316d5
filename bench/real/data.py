"""Real target data, split once, and corruption of known place: what is measured here needs the truth of every token."""

import json
import os
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from string import ascii_letters
from typing import Any

REAL = Path(os.environ.get("ALPHATOKEN_REAL", Path(__file__).parents[2] / ".." / "shared" / "real"))
FILES = {
    "gsm8k": ("gsm8k_train", "question", "answer"),
    "mbpp": ("mbpp", "prompt", "response"),
    "pubmedqa": ("pubmedqa", "prompt", "response"),
}
LENGTHS = {"stories260K": 112, "TinyStories-656K": 96}
"""Longest sequence of each model, in tokens; rows whose response fits uncut come first."""

MIN_PROMPT_TOKENS = 24
NUM_EVALUATION, NUM_VALIDATION = 96, 32
SPAN_WORDS = (4, 12)
KINDS = ("foreign", "shuffled", "noise")
"""Words of a stretch of other responses, the same words in another order, words from anywhere. `garbage` is letters drawn at random."""

CONDITIONS = {"clean": (0.0, 0.0, KINDS), "spans": (1.0, 0.3, KINDS), "rows": (0.3, 0.7, KINDS), "garbage": (1.0, 0.3, ("garbage",))}
"""Share of the responses that may be corrupted, and share of the words of such a response, in spans at random places: some get none. Of the tokens
of GSM8K `spans` makes a fifth bad, `rows` a sixth. And the kinds that the responses get in turn."""

Interval = tuple[int, int]


@dataclass(frozen=True)
class Example:
    """A row of target data.

    Attributes:
        prompt: what is asked.
        response: the answer, perhaps corrupted.
        bad: character intervals of the response that are corrupted, in order.
        kind: how, or `clean`.
    """

    prompt: str
    response: str
    bad: tuple[Interval, ...] = ()
    kind: str = "clean"


@dataclass(frozen=True)
class Split:
    """Disjoint rows of a data set.

    Attributes:
        train: rows to value and train on.
        validation: a few clean rows for the adaptation direction.
        evaluation: clean rows to measure by.
        prior: clean rows that the competent base has learned from.
    """

    train: list[Example]
    validation: list[Example]
    evaluation: list[Example]
    prior: list[Example]


def read(name: str) -> list[Example]:
    """Read a data set, each example once."""
    file, prompt, response = FILES[name]
    rows = map(json.loads, (REAL / "data" / f"{file}.jsonl").read_text(encoding="utf-8").rstrip("\n").split("\n"))
    return list(dict.fromkeys(Example(row[prompt], row[response]) for row in rows))


def stories() -> list[str]:
    """Read the stories that the models were pre-trained on the like of."""
    text = (REAL / "data" / "tinystories.txt").read_text(encoding="utf-8")
    return list(dict.fromkeys(story.strip() for story in text.split("<|endoftext|>") if story.strip()))


def split(examples: Sequence[Example], tokenizer: Any, longest: int, train: int, seed: int) -> Split:
    """Choose the rows of a seed: a third of what there is at most for training, 32 for validation, 96 for evaluation, half of the rest for the base.

    The base's rows, and those to measure by, are the same for every seed; training and validation rows are drawn from the remaining ones.

    Args:
        examples: all rows.
        tokenizer: the model's.
        longest: tokens of a sequence; responses that leave `MIN_PROMPT_TOKENS` for the prompt come first.
        train: training rows wanted.
        seed: seed of the choice.

    Returns:
        the rows.
    """
    lengths = [len(ids) for ids in tokenizer([one.response for one in examples], add_special_tokens=False, verbose=False)["input_ids"]]
    fits = sorted(range(len(examples)), key=lambda i: (lengths[i] + MIN_PROMPT_TOKENS + 2 > longest, i))
    train = min(train, len(examples) // 3)
    pool = [examples[i] for i in fits[: 4 * train + NUM_EVALUATION + NUM_VALIDATION]]
    random.Random(0).shuffle(pool)
    begin = NUM_EVALUATION + (len(pool) - NUM_EVALUATION - NUM_VALIDATION) // 2
    evaluation, prior, pool = pool[:NUM_EVALUATION], pool[NUM_EVALUATION:begin], pool[begin:]
    random.Random(seed).shuffle(pool)
    return Split(pool[NUM_VALIDATION : NUM_VALIDATION + train], pool[:NUM_VALIDATION], evaluation, prior)


def corrupted(examples: Sequence[Example], condition: str, seed: int) -> list[Example]:
    """Corrupt responses in spans of words, each response in one way.

    Args:
        examples: clean rows.
        condition: one of `CONDITIONS`.
        seed: seed of the damage.

    Returns:
        the rows in their order.
    """
    rng, (share, depth, kinds) = random.Random(seed), CONDITIONS[condition]
    chosen = set(rng.sample(range(len(examples)), round(share * len(examples))))
    words = [word for one in examples for word in one.response.split()]
    return [_damaged(one, words, depth, kinds[i % len(kinds)], rng) if i in chosen else one for i, one in enumerate(examples)]


def _damaged(example: Example, pool: Sequence[str], depth: float, kind: str, rng: random.Random) -> Example:
    pieces = re.findall(r"\S+|\s+", example.response)
    places = [i for i, piece in enumerate(pieces) if not piece.isspace()]
    new = list(pieces)
    for start, stop in _spans(len(places), depth, rng):
        old = [pieces[places[i]] for i in range(start, stop)]
        for i, word in zip(range(start, stop), _replacements(old, pool, kind, rng), strict=True):
            new[places[i]] = word
    begins = [0, *accumulate(map(len, new))]
    bad = tuple((begins[i], begins[i + 1]) for i in places if new[i] != pieces[i])
    return Example(example.prompt, "".join(new), bad, kind if bad else "clean")


def _spans(number: int, depth: float, rng: random.Random) -> list[Interval]:
    """Cut 0..number into good and bad stretches in turn, bad ones `SPAN_WORDS` long, good ones so that the shares come out."""
    spans, place = [], 0
    while place < number:
        length = rng.randint(*SPAN_WORDS)
        place += round(rng.expovariate(depth / ((1 - depth) * length))) if depth < 1 else 0
        spans.append((min(place, number), min(place + length, number)))
        place += length
    return [span for span in spans if span[0] < span[1]]


def _replacements(old: Sequence[str], pool: Sequence[str], kind: str, rng: random.Random) -> list[str]:
    if kind == "foreign":
        start = rng.randrange(max(1, len(pool) - len(old)))
        return list(pool[start : start + len(old)])
    if kind == "shuffled":
        return rng.sample(list(old), len(old))
    if kind == "garbage":
        return ["".join(rng.choices(ascii_letters, k=len(word))) for word in old]
    return [rng.choice(pool) for _ in old]


def bad_tokens(example: Example, offsets: Sequence[Interval]) -> list[bool]:
    """Tell of each token of a response whether a corrupted word has a part in it.

    Args:
        example: the row.
        offsets: character interval of each token.

    Returns:
        one flag per token.
    """
    return [any(start < stop_bad and begin_bad < stop for begin_bad, stop_bad in example.bad) for start, stop in offsets]


def write_rows(path: Path, examples: Sequence[Example]) -> None:
    """Write JSON lines with the number of each row."""
    lines = [json.dumps(row_of(number, one), ensure_ascii=False) for number, one in enumerate(examples)]
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")


def row_of(number: int, example: Example) -> Mapping[str, Any]:
    """Put a row as the product reads it; `row` is no part of its identity."""
    return {"prompt": example.prompt, "response": example.response, "row": number}
