"""Layouts of training rows: what an example says, whatever its columns are called and wherever it came from.

A row becomes canonical content, either `{"prompt", "response"}` or `{"messages"}` (and `"tools"` where the row has some).
Text is never trimmed or repaired: a row that does not fit is refused as a `BadRow`, whose reason is one of

    not JSON, not an object, not UTF-8, ragged row      found while reading
    missing column                                      no layout finds all its columns in this row (null counts as absent)
    wrong type                                          a number or list where text belongs
    empty response, no assistant turn, empty conversation, unknown role
"""

import base64
import datetime
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

ROLES = {
    "system": "system",
    "developer": "developer",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "tool": "tool",
    "function": "tool",
    "observation": "tool",
}
TURN_KEYS = ("tool_calls", "name", "tool_call_id", "reasoning_content", "thinking")
JSON_TYPES = {bool: "a boolean", int: "a number", float: "a number", str: "text", list: "a list", dict: "an object", type(None): "null"}


class BadRow(Exception):  # ruff: ignore[error-suffix-on-exception-name] - an outcome that is counted and kept, not a failure of the program
    """A row that cannot become an example.

    Attributes:
        reason: one of the reasons listed at the top of this module.
        detail: what exactly is wrong, or an empty string where the reason says it all.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True)
class Layout:
    """Columns that together make an example, and the function that makes canonical content of their values, in this order."""

    required: tuple[str, ...]
    optional: tuple[str, ...]
    build: Callable[..., str]


class Normaliser:
    """Turns rows into content, source and extra, under one mapping of roles to columns.

    The layout is found row by row, the first of `LAYOUTS` whose required columns are all there and not null: rows of one JSONL
    file may differ, and files in which a column is null for some rows read the same from Parquet and from JSONL. Once the mapping
    names a role of a layout, only layouts with all the named roles are tried.
    """

    def __init__(self, columns: Mapping[str, str]) -> None:
        """Prepare the layouts that the mapping allows.

        Args:
            columns: role -> column name; roles that are absent are read from the column of the same name.

        Raises:
            ValueError: a role is unknown, a column is empty or named twice, or no layout has all the named roles.
        """
        known = sorted({role for layout in LAYOUTS for role in layout.required + layout.optional} | {"source"})
        if unknown := sorted(set(columns) - set(known)):
            raise ValueError(
                f"columns: unknown role {', '.join(unknown)}; expected roles among {', '.join(known)}, each with a column's name"
            )
        if "" in columns.values() or len(set(columns.values())) < len(columns):
            raise ValueError(f"columns: got {dict(columns)}; give every role its own, non-empty column name")
        named = set(columns) - {"source", "tools"}
        fitting = [layout for layout in LAYOUTS if set(columns) - {"source"} <= {*layout.required, *layout.optional}]
        if not fitting:
            raise ValueError(
                f"columns: no layout has the roles {', '.join(sorted(columns))} together; use the roles of one of: {describe_layouts()}"
            )
        self.explicit = bool(named)
        self.layouts = [
            replace(
                layout,
                required=tuple(columns.get(role, role) for role in layout.required),
                optional=tuple(columns.get(role, role) for role in layout.optional),
            )
            for layout in fitting
        ]
        self.source = columns.get("source", "source")

    def __call__(self, row: Mapping[str, Any]) -> tuple[str, str | None, str | None]:
        """Normalise one row.

        Returns:
            content: canonical JSON of the example.
            source: text of the source column; None where it is absent, null or empty.
            extra: canonical JSON object of all columns that are neither content nor source and not null; None where there is none.

        Raises:
            BadRow: the row is not an example; the exception says why.
        """
        layout = self._find_layout(row)
        columns = layout.required + layout.optional
        try:
            content = layout.build(*map(row.get, columns))
            source = row.get(self.source)
            if source is not None and not isinstance(source, str):
                source = canonical_json(source)
            rest = {key: value for key, value in row.items() if value is not None and key not in columns and key != self.source}
            extra = canonical_json(rest) if rest else None
            for text in (content, source, extra):
                if text is not None and not text.isascii():
                    text.encode()
        except RecursionError:
            raise BadRow("wrong type", "nested too deeply") from None
        except UnicodeEncodeError:
            raise BadRow("not UTF-8", "half of a surrogate pair") from None
        return content, source or None, extra

    def _find_layout(self, row: Mapping[str, Any]) -> Layout:
        for layout in self.layouts:
            for column in layout.required:
                if row.get(column) is None:
                    break
            else:
                return layout
        absent = min(([c for c in layout.required if row.get(c) is None] for layout in self.layouts), key=len)
        raise BadRow("missing column", f"no {' and no '.join(absent)}" if self.explicit else "")

    def is_preference(self, row: Mapping[str, Any]) -> bool:
        """Say whether this is a preference row, which only an explicit mapping may read as something else."""
        return not self.explicit and row.get("chosen") is not None and row.get("rejected") is not None


def describe_layouts() -> str:
    """List the known layouts, optional columns in brackets."""
    return "; ".join(" + ".join((*layout.required, *(f"[{name}]" for name in layout.optional))) for layout in LAYOUTS)


def canonical_json(value: Any) -> str:
    """Write a value as JSON with sorted keys, without spaces, non-ASCII text as itself.

    Returns:
        JSON. What it has no form for becomes text: dates and times in ISO 8601, decimals digit by digit, bytes in base64, numbers
        that are not finite as "NaN", "Infinity" or "-Infinity"; a duration becomes its seconds.
    """
    try:
        return _ENCODER.encode(value)
    except ValueError:  # JSON has no NaN; searching every row for one would cost more than this rare second pass
        return _ENCODER.encode(_with_finite_numbers(value))


def _plain(value: Any) -> Any:
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, datetime.timedelta):
        return value.total_seconds()
    if isinstance(value, bytes | bytearray):
        return base64.b64encode(value).decode()
    return str(value)


def _with_finite_numbers(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _with_finite_numbers(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_with_finite_numbers(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}[str(value)]
    return value


_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False, default=_plain)


def _text(value: Any, what: str) -> str:
    if isinstance(value, str):
        return value
    raise BadRow("wrong type", f"{what} is {JSON_TYPES.get(type(value), type(value).__name__)}")


def _build_pair(prompt: Any, response: Any) -> str:
    prompt, response = _text(prompt, "prompt"), _text(response, "response")
    if not response or response.isspace():
        raise BadRow("empty response")
    quote = json.encoder.encode_basestring  # what canonical_json does, at 1 instead of 2.3 µs for a row of 1 kB
    return f'{{"prompt":{quote(prompt)},"response":{quote(response)}}}'


def _build_instruction(instruction: Any, output: Any, context: Any) -> str:
    context = _text("" if context is None else context, "input")
    prompt = _text(instruction, "instruction")
    return _build_pair(prompt if not context.strip() else f"{prompt}\n\n{context}", output)


def _build_chat(messages: Any, tools: Any) -> str:
    messages = _parsed_list(messages, "messages")
    if not messages:
        raise BadRow("empty conversation")
    turns = [_build_turn(turn, f"messages[{index}]") for index, turn in enumerate(messages)]
    answers = [turn for turn in turns if turn["role"] == "assistant"]
    if not answers:
        raise BadRow("no assistant turn")
    said = ("content", "tool_calls", "reasoning_content", "thinking")
    if not any(str(turn.get(key, "")).strip() for turn in answers for key in said):
        raise BadRow("empty response")
    tools = _parsed_list([] if tools is None or tools == "" else tools, "tools")
    content = {"messages": turns, "tools": [_parsed(tool, "tools") for tool in tools]} if tools else {"messages": turns}
    return canonical_json(content)


def _build_turn(turn: Any, where: str) -> dict[str, Any]:
    """Keep what chat templates read of a turn; keys that are null or an empty list count as absent."""
    turn = _parsed(turn, where)
    if not isinstance(turn, dict):
        raise BadRow("wrong type", f"{where} is {JSON_TYPES.get(type(turn), type(turn).__name__)}")
    named = turn.get("role") if turn.get("role") is not None else turn.get("from")
    role = ROLES.get(named) if isinstance(named, str) else None
    if role is None:
        raise BadRow("unknown role", f"{where} has role {named!r}")
    kept = {key: turn[key] for key in TURN_KEYS if turn.get(key) not in (None, [])}
    content = turn.get("content") if turn.get("content") is not None else turn.get("value")
    if isinstance(content, list):
        content = "".join(_text_part(part, f"{where}.content") for part in content)
    if content is None and "tool_calls" in kept:
        return {"role": role, **kept}
    return {"role": role, "content": _text(content, f"{where}.content"), **kept}


def _text_part(part: Any, where: str) -> str:
    if isinstance(part, dict) and part.get("type", "text") == "text":
        return _text(part.get("text"), f"{where} part")
    raise BadRow("wrong type", f"{where} has a part that is not text")


def _parsed_list(value: Any, what: str) -> list[Any]:
    value = _parsed(value, what)
    if not isinstance(value, list):
        raise BadRow("wrong type", f"{what} is {JSON_TYPES.get(type(value), type(value).__name__)}")
    return value


def _parsed(value: Any, what: str) -> Any:
    """Parse JSON kept as text: the only way for CSV, and how Arrow stores objects whose keys differ between rows."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError:
        raise BadRow("wrong type", f"{what} is text that is not JSON") from None


LAYOUTS = (
    Layout(("messages",), ("tools",), _build_chat),
    Layout(("conversations",), ("tools",), _build_chat),
    Layout(("prompt", "response"), (), _build_pair),
    Layout(("prompt", "completion"), (), _build_pair),
    Layout(("instruction", "output"), ("input",), _build_instruction),
    Layout(("question", "answer"), (), _build_pair),
)
