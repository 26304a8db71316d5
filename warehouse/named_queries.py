"""The directory of named queries: what each is for and takes is read from the header comment of its file."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from warehouse import sql
from warehouse.queries import Queries

_FOLDER = "queries"

BRANCHES = ("all", "sft", "chosen", "rejected")
"""What a parameter `branch` may be."""

_PARAMETER = re.compile(r"\$(\w+)(?: = (\S*))?: (.+)")


_ALSO_NAMED = {"bottom_tokens": ("top_tokens", {"end": "lowest"})}
"""Further names of queries: the query, and the defaults that are others under that name."""


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """A parameter of a query.

    Attributes:
        default: its value when none is given; None where one must be given.
        meaning: what it is, in words.
    """

    default: str | None
    meaning: str


@dataclass(frozen=True, kw_only=True)
class NamedQuery:
    """A query of the directory.

    Attributes:
        name: its file's name.
        purpose: what it answers.
        grain: what one row is.
        parameters: what it takes, by name. `policy...` is the name of a current policy; `scoring...` the beginning of a scoring's id,
            or `current` or `previous`.
        sql: the statement.
    """

    name: str
    purpose: str
    grain: str
    parameters: dict[str, Parameter]
    sql: str


def names() -> list[str]:
    """List the names of all queries, in the order of the alphabet."""
    return sorted([*_ALSO_NAMED, *(path.stem for path in (sql.FOLDER / _FOLDER).glob("*.sql"))])


def load(name: str) -> NamedQuery:
    """Read a query with its header: lines of purpose, a line `Grain: ...`, a line `$name = default: meaning` per parameter.

    Returns:
        the query.

    Raises:
        ValueError: there is none of this name.
    """
    if name not in names():
        raise ValueError(f"there is no query {name!r}; there are: {', '.join(names())}")
    if name in _ALSO_NAMED:
        other, defaults = _ALSO_NAMED[name]
        found = load(other)
        changed = {key: replace(found.parameters[key], default=value) for key, value in defaults.items()}
        return replace(found, name=name, parameters=found.parameters | changed)
    text = sql.load(f"{_FOLDER}/{name}")
    header = [line.removeprefix("-- ") for line in text.splitlines() if line.startswith("-- ")]
    grain = next(line for line in header if line.startswith("Grain: "))
    parameters = [match.groups() for match in map(_PARAMETER.fullmatch, header) if match]
    return NamedQuery(
        name=name,
        purpose=" ".join(header[: header.index(grain)]),
        grain=grain.removeprefix("Grain: "),
        parameters={key: Parameter(default=default, meaning=meaning) for key, default, meaning in parameters},
        sql=text,
    )


def bind(queries: Queries, query: NamedQuery, given: Mapping[str, Any]) -> dict[str, Any]:
    """Complete and check the parameters of a query.

    Args:
        queries: the release that the query will be run on.
        query: the query.
        given: values that replace defaults.

    Returns:
        a value for each parameter; names of scorings replaced by their ids.

    Raises:
        ValueError: a parameter is missing or unknown; or there is no such policy or scoring.
    """
    takes = ", ".join(f"{key} ({parameter.meaning})" for key, parameter in query.parameters.items()) or "no parameter"
    unknown = sorted(given.keys() - query.parameters.keys())
    missing = sorted(key for key, parameter in query.parameters.items() if parameter.default is None and key not in given)
    if unknown or missing:
        fault = f"does not know {', '.join(unknown)}" if unknown else f"needs {', '.join(missing)}"
        raise ValueError(f"the query {query.name!r} {fault}; it takes: {takes}")
    values = {key: parameter.default for key, parameter in query.parameters.items()} | dict(given)
    for key, value in values.items():
        if key.startswith("policy"):
            _check_policy(queries, str(value))
        elif key.startswith("scoring"):
            values[key] = _scoring(queries, str(value))
        elif key == "branch" and value not in BRANCHES:
            raise ValueError(f"there is no branch {value!r}; there are: {', '.join(BRANCHES)}")
    return values


def _check_policy(queries: Queries, policy: str) -> None:
    """Refuse a policy without a mask: a query would have no rows, as if nothing were kept.

    Raises:
        ValueError: the current scoring and snapshot have no mask of it.
    """
    known = [str(row[0]) for row in queries.run("explain/policies").fetchall()]
    if policy not in known:
        raise ValueError(f"there is no current mask of the policy {policy!r}; there are: {', '.join(known) or 'none'}")


def _scoring(queries: Queries, wanted: str) -> str:
    """Find a scoring by the beginning of its id; `previous` is the newest that is not the current one.

    Returns:
        its id.

    Raises:
        ValueError: none fits, or several do.
    """
    rows = [(str(scoring_id), bool(is_current)) for scoring_id, is_current in queries.run("explain/scorings").fetchall()]
    if wanted in ("current", "previous"):
        fitting = [scoring_id for scoring_id, is_current in rows if is_current == (wanted == "current")][:1]
    else:
        fitting = [scoring_id for scoring_id, _ in rows if scoring_id.startswith(wanted)]
    if len(fitting) != 1:
        there = ", ".join(scoring_id[:12] + (" (current)" if is_current else "") for scoring_id, is_current in rows) or "none"
        raise ValueError(f"{len(fitting) or 'no'} scorings fit {wanted!r}; the warehouse has, newest first: {there}")
    return fitting[0]
