"""The content of examples: refused rows, canonical JSON, texts and turns of a conversation.

A row that does not become an example is refused as a `BadRow`, whose reason is one of

    not JSON, not an object, not UTF-8, ragged row      found while reading
    missing column                                      no layout finds all its columns in this row (null counts as absent)
    wrong type                                          a number or list where text belongs
    empty response, no assistant turn, empty conversation, unknown role
    equal branches, different prompts                   a pair that compares nothing (warehouse/preferences.py)
    no rating, no pair                                  rated responses that make no pair (warehouse/ratings.py)
"""

import base64
import datetime
import json
import math
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


def text_of(value: Any, what: str) -> str:
    """Return a text as it is.

    Raises:
        BadRow: it is something else.
    """
    if isinstance(value, str):
        return value
    raise BadRow("wrong type", f"{what} is {JSON_TYPES.get(type(value), type(value).__name__)}")


def build_turn(turn: Any, where: str) -> dict[str, Any]:
    """Keep what chat templates read of a turn; keys that are null or an empty list count as absent."""
    turn = parsed(turn, where)
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
    return {"role": role, "content": text_of(content, f"{where}.content"), **kept}


def _text_part(part: Any, where: str) -> str:
    if isinstance(part, dict) and part.get("type", "text") == "text":
        return text_of(part.get("text"), f"{where} part")
    raise BadRow("wrong type", f"{where} has a part that is not text")


def parsed_list(value: Any, what: str) -> list[Any]:
    """Return a list, given as it is or as JSON text.

    Raises:
        BadRow: it is none.
    """
    value = parsed(value, what)
    if not isinstance(value, list):
        raise BadRow("wrong type", f"{what} is {JSON_TYPES.get(type(value), type(value).__name__)}")
    return value


def parsed(value: Any, what: str) -> Any:
    """Parse JSON kept as text: the only way for CSV, and how Arrow stores objects whose keys differ between rows."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError:
        raise BadRow("wrong type", f"{what} is text that is not JSON") from None


def turns_of(messages: Any, what: str) -> list[dict[str, Any]]:
    """Normalise the turns of a conversation."""
    return [build_turn(turn, f"{what}[{index}]") for index, turn in enumerate(parsed_list(messages, what))]


def says_something(turn: dict[str, Any]) -> bool:
    """Tell whether a turn has a text or a tool call."""
    return any(str(turn.get(key, "")).strip() for key in ("content", "tool_calls", "reasoning_content", "thinking"))


def quoted(text: str) -> str:
    """Write a text as `canonical_json` does, in half of the time where it has no control characters but line feeds."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    if escaped.encode("utf-8", "surrogatepass").translate(None, _NO_CONTROLS):
        return json.encoder.encode_basestring(text)
    return f'"{escaped}"'


_NO_CONTROLS = bytes(range(0x20, 0x100))
