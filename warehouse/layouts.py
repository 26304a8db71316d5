"""Layouts of training rows: what an example says, whatever its columns are called and wherever it came from.

A row becomes canonical content: `{"prompt", "response"}`, `{"messages"}` (and `"tools"` where the row has some), or a pair of responses,
`{"prompt", "chosen", "rejected"}` (warehouse/preferences.py). Text is never trimmed or repaired: a row that does not fit is refused as a
`BadRow` (warehouse/content.py).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from warehouse.content import BadRow as BadRow
from warehouse.content import canonical_json as canonical_json
from warehouse.content import parsed, parsed_list, quoted, says_something, text_of, turns_of
from warehouse.preferences import build_implicit_pair, build_pair, build_pair_after_chat, build_pair_after_instruction, instruction_prompt


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
        self._known: dict[tuple[str, ...], list[tuple[Layout, tuple[str, ...], tuple[str, ...]]]] = {}

    def __call__(self, row: Mapping[str, Any]) -> tuple[str, str | None, str | None]:
        """Normalise one row.

        Returns:
            content: canonical JSON of the example.
            source: text of the source column; None where it is absent, null or empty.
            extra: canonical JSON object of all columns that are neither content nor source and not null; None where there is none.

        Raises:
            BadRow: the row is not an example; the exception says why.
        """
        layout, columns, others = self._find_layout(row)
        try:
            content = layout.build(*map(row.get, columns))
            source = row.get(self.source)
            if source is not None and not isinstance(source, str):
                source = canonical_json(source)
            rest = {key: row[key] for key in others if row[key] is not None} if others else None
            extra = canonical_json(rest) if rest else None
            for text in (content, source, extra):
                if text is not None and not text.isascii():
                    text.encode()
        except RecursionError:
            raise BadRow("wrong type", "nested too deeply") from None
        except UnicodeEncodeError:
            raise BadRow("not UTF-8", "half of a surrogate pair") from None
        return content, source or None, extra

    def _find_layout(self, row: Mapping[str, Any]) -> tuple[Layout, tuple[str, ...], tuple[str, ...]]:
        """Find the layout of a row, with the columns of its content and the row's other ones."""
        keys = tuple(row)
        found = self._known.get(keys)  # the same for most rows of a file
        if found is None:
            found = [self._split(layout, keys) for layout in self.layouts if set(layout.required) <= set(keys)]
            if len(self._known) < _MOST_KNOWN:
                self._known[keys] = found
        for layout, columns, others in found:
            for column in layout.required:
                if row[column] is None:
                    break
            else:
                return layout, columns, others
        absent = min(([c for c in layout.required if row.get(c) is None] for layout in self.layouts), key=len)
        raise BadRow("missing column", f"no {' and no '.join(absent)}" if self.explicit else "")

    def _split(self, layout: Layout, keys: tuple[str, ...]) -> tuple[Layout, tuple[str, ...], tuple[str, ...]]:
        columns = layout.required + layout.optional
        return layout, columns, tuple(key for key in keys if key not in columns and key != self.source)


_MOST_KNOWN = 1000
"""Sets of columns whose layouts are remembered; rows of one file have few."""


def describe_layouts() -> str:
    """List the known layouts, optional columns in brackets."""
    return "; ".join(" + ".join((*layout.required, *(f"[{name}]" for name in layout.optional))) for layout in LAYOUTS)


def _build_answer(prompt: Any, response: Any) -> str:
    prompt, response = text_of(prompt, "prompt"), text_of(response, "response")
    if not response or response.isspace():
        raise BadRow("empty response")
    return f'{{"prompt":{quoted(prompt)},"response":{quoted(response)}}}'


def _build_instruction(instruction: Any, output: Any, context: Any) -> str:
    return _build_answer(instruction_prompt(instruction, context), output)


def _build_chat(messages: Any, tools: Any) -> str:
    turns = turns_of(messages, "messages")
    if not turns:
        raise BadRow("empty conversation")
    answers = [turn for turn in turns if turn["role"] == "assistant"]
    if not answers:
        raise BadRow("no assistant turn")
    if not any(map(says_something, answers)):
        raise BadRow("empty response")
    tools = parsed_list([] if tools is None or tools == "" else tools, "tools")
    content = {"messages": turns, "tools": [parsed(tool, "tools") for tool in tools]} if tools else {"messages": turns}
    return canonical_json(content)


LAYOUTS = (
    Layout(("prompt", "chosen", "rejected"), ("tools",), build_pair),
    Layout(("conversations", "chosen", "rejected"), ("tools",), build_pair_after_chat),
    Layout(("instruction", "chosen", "rejected"), ("input",), build_pair_after_instruction),
    Layout(("chosen", "rejected"), ("tools",), build_implicit_pair),
    Layout(("messages",), ("tools",), _build_chat),
    Layout(("conversations",), ("tools",), _build_chat),
    Layout(("prompt", "response"), (), _build_answer),
    Layout(("prompt", "completion"), (), _build_answer),
    Layout(("instruction", "output"), ("input",), _build_instruction),
    Layout(("question", "answer"), (), _build_answer),
)
"""In the order in which they are tried: pairs first, as data sets of pairs often repeat one response under another name."""
