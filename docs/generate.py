"""Writes docs/configuration.md and docs/schema.md from the code: `python -m docs.generate`; a test holds them equal."""

import dataclasses
import inspect
import re
import types
import typing
from pathlib import Path

from tasks.settings import Configuration
from warehouse.migrate import columns, comment_text

HERE = Path(__file__).parent

_KEYS = {"policy": ".NAME", "branches": ".BRANCH"}
"""Settings that hold sections under names of the user's choice, or of a few known ones."""


def configuration() -> str:
    """Write a table per section of the configuration."""
    parts = ["# Configuration\n", "One YAML file; paths are relative to it. Generated from the code.\n"]
    parts.extend(_section(Configuration, ""))
    return "\n".join(parts)


def _section(kind: type, where: str) -> typing.Iterator[str]:
    hints = typing.get_type_hints(kind)
    meanings = _attributes(kind)
    rows, below = [], []
    for field in dataclasses.fields(kind):
        nested = _dataclass_in(hints[field.name])
        name = f"{where}{field.name}"
        if name == "base":
            continue
        if nested is not None:
            below.append((f"{name}{_KEYS.get(field.name, '')}.", nested))
        rows.append(f"| `{name}` | {'section' if nested else _default(field)} | {meanings.get(field.name, '')} |")
    yield f"## {where.rstrip('.') or 'Sections'}\n\n{(inspect.getdoc(kind) or '').splitlines()[0]}\n"
    yield "| setting | default | meaning |\n|---|---|---|\n" + "\n".join(rows) + "\n"
    for deeper, nested in below:
        yield from _section(nested, deeper)


def _dataclass_in(hint: typing.Any) -> type | None:
    options = [hint, *typing.get_args(hint)] if isinstance(hint, types.UnionType) or typing.get_origin(hint) else [hint]
    return next((o for o in options if dataclasses.is_dataclass(o)), None)


def _default(field: "dataclasses.Field[typing.Any]") -> str:
    if field.default is not dataclasses.MISSING:
        return f"`{field.default!r}`"
    if field.default_factory is not dataclasses.MISSING:
        return f"`{field.default_factory()!r}`"
    return "required"


def _attributes(kind: type) -> dict[str, str]:
    text = (inspect.getdoc(kind) or "").partition("Attributes:\n")[2]
    found = re.findall(r"^    (\w+): (.*(?:\n {8}.*)*)", text, flags=re.M)
    return {name: re.sub(r"\s+", " ", meaning) for name, meaning in found}


def schema() -> str:
    """Write a table per view of the warehouse."""
    parts = [
        "# Views of the warehouse\n",
        "Generated from `warehouse/columns.yaml`, which is also written into the database as comments.\n",
    ]
    for view, entry in columns().items():
        rows = [f"| `{name}` | {c['type']} | {comment_text(c)} |" for name, c in entry["columns"].items()]
        parts.append(f"## {view}\n\n{entry['comment']}\n\n| column | type | meaning |\n|---|---|---|\n" + "\n".join(rows) + "\n")
    return "\n".join(parts)


if __name__ == "__main__":
    (HERE / "configuration.md").write_text(configuration(), encoding="utf-8")
    (HERE / "schema.md").write_text(schema(), encoding="utf-8")
