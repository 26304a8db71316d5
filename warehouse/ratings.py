"""Pairs out of rated responses: rows with one prompt, each with a response and a number that says how good it is."""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any, ClassVar, Literal, get_args

from warehouse.content import BadRow, canonical_json, says_something
from warehouse.preferences import PAIR_BEGINS, build_pair

RAW_CHARACTERS = 500
"""What is kept of a rejected row."""


@dataclass(frozen=True, kw_only=True)
class RatingSettings:
    """How rated responses become pairs.

    Attributes:
        column: Column of the rating, a number; larger is better.
        pairs: `best_worst`, one pair per prompt; `best_rest`, the best response against every one rated lower; `all`, every two
            responses of different rating.
        min_difference: Ratings of a pair differ by at least this, and differ.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    column: str = "rating"
    pairs: Literal["best_worst", "best_rest", "all"] = "best_worst"
    min_difference: float = 0.0

    def __post_init__(self) -> None:
        choices = get_args(type(self).__annotations__["pairs"])
        if self.pairs not in choices:
            raise ValueError(f"ratings.pairs: got {self.pairs!r}, expected one of {', '.join(choices)}")
        if not self.column:
            raise ValueError("ratings.column: got an empty name, expected the column of the rating")
        if not 0 <= self.min_difference < math.inf:
            raise ValueError(f"ratings.min_difference: got {self.min_difference}, expected 0 or more")


@dataclass
class _Rated:
    """A response of a prompt with the ratings of all rows that have it, and where the first of these rows stands."""

    response: Any
    source: str | None
    extra: str | None
    file: str
    line: int
    raw: str
    ratings: list[float] = field(default_factory=list)

    def add(self, rating: float, source: str | None, extra: str | None, raw: str) -> None:
        """Take in a row with this response; which source, which other columns and which text count depends on no order."""
        self.ratings.append(rating)
        self.raw = min(self.raw, raw)
        self.source, self.extra = min(
            (self.source, self.extra), (source, extra), key=lambda pair: [(one is None, one or "") for one in pair]
        )

    @property
    def rating(self) -> float:
        """Mean of its ratings; the same in any order of the rows."""
        return math.fsum(self.ratings) / len(self.ratings)


class RatedResponses:
    """Responses gathered by prompt until all rows are read."""

    def __init__(self, settings: RatingSettings) -> None:
        """Begin without any."""
        self._settings = settings
        self._by_prompt: dict[str, dict[str, _Rated]] = {}

    def split(self, row: dict[str, Any]) -> tuple[dict[str, Any], float]:
        """Take the rating out of a row.

        Returns:
            (the other columns, the rating).

        Raises:
            BadRow: there is none, or it is no finite number.
        """
        value = row.get(self._settings.column)
        if value is None or isinstance(value, bool):
            raise BadRow("no rating", f"column {self._settings.column!r} is {'absent' if value is None else 'a boolean'}")
        try:
            rating = float(value)
        except (TypeError, ValueError):
            rating = math.nan
        if not math.isfinite(rating):
            raise BadRow("no rating", f"column {self._settings.column!r} is {str(value)[:40]!r}, expected a finite number")
        return {name: one for name, one in row.items() if name != self._settings.column}, rating

    def add(self, content: str, rating: float, source: str | None, extra: str | None, file: str, line: int, raw: str) -> None:
        """Take a response in.

        Raises:
            BadRow: the row is a pair already, or a conversation that does not end with a response, or with an empty one.
        """
        if content.startswith(PAIR_BEGINS):
            raise BadRow("wrong type", "a pair of responses, where a rated response is expected")
        whole = json.loads(content)
        if "messages" in whole:
            *prompt, last = whole["messages"]
            if last["role"] != "assistant" or not prompt:
                raise BadRow("no assistant turn", "expected a conversation that ends with the rated response")
            if not says_something(last):
                raise BadRow("empty response")
            asked, response = {"prompt": prompt, "tools": whole.get("tools")}, [last]
        else:
            asked, response = {"prompt": whole["prompt"], "tools": None}, whole["response"]
        of_prompt = self._by_prompt.setdefault(canonical_json(asked), {})
        raw = raw[:RAW_CHARACTERS]
        one = of_prompt.setdefault(canonical_json(response), _Rated(response, source, extra, file, line, raw))
        one.add(rating, source, extra, raw)

    def pairs(self) -> Iterator[tuple[str, str | None, str, str, int]]:
        """Yield (content, source, extra, file, line) of every pair; source, file and line are those of the chosen response.

        `extra` holds its other columns and both ratings.
        """
        for key, of_prompt in self._by_prompt.items():
            asked = json.loads(key)
            for better, worse in self._chosen(of_prompt):
                content = build_pair(asked["prompt"], better.response, worse.response, asked["tools"])
                known = json.loads(better.extra) if better.extra else {}
                extra = canonical_json(known | {"chosen_rating": better.rating, "rejected_rating": worse.rating})
                yield content, better.source, extra, better.file, better.line

    def unpaired(self) -> Iterator[tuple[str, int, str, str]]:
        """Yield (file, line, reason, detail and row) of the responses whose prompt makes no pair at all."""
        for of_prompt in self._by_prompt.values():
            if next(self._chosen(of_prompt), None) is None:
                why = "the prompt's only response" if len(of_prompt) == 1 else "all responses of the prompt are rated alike"
                for one in of_prompt.values():
                    yield one.file, one.line, "no pair", f"{why} | {one.raw}"[:RAW_CHARACTERS]

    def _chosen(self, of_prompt: dict[str, _Rated]) -> Iterator[tuple[_Rated, _Rated]]:
        """Yield (better, worse), the same in any order of the rows: by rating, then by text."""
        ranked = [one for _, one in sorted(of_prompt.items(), key=lambda item: (-item[1].rating, item[0]))]
        couples = combinations(ranked, 2) if self._settings.pairs == "all" else ((ranked[0], other) for other in ranked[1:])
        fitting = [(a, b) for a, b in couples if a.rating > b.rating and a.rating - b.rating >= self._settings.min_difference]
        yield from fitting[-1:] if self._settings.pairs == "best_worst" else fitting
