"""Tables of the controlled world, as Markdown: means over seeds."""

import statistics
from collections.abc import Callable, Iterable, Mapping
from typing import Any

Row = dict[str, Any]
"""A measurement, named by its `key`."""


def auroc_tables(rows: Iterable[Row]) -> str:
    """Write two tables for each regime: how well scores tell damage, and what `keep: auto` keeps by them."""
    rows, parts = list(rows), []
    for regime in dict.fromkeys(r["regime"] for r in rows):
        mine = [r for r in rows if r["regime"] == regime]
        parts.append(_by_kind(f"{regime} base: AUROC", [r for r in mine if r["kind"] != "clean"], _area))
        parts.append(_by_kind(f"{regime} base: keep auto, damaged masked / good lost", mine, _kept))
    return "\n\n".join(parts)


def _by_kind(title: str, rows: list[Row], cell: Callable[[list[Row], str], str]) -> str:
    kinds = list(dict.fromkeys(r["kind"] for r in rows))
    lines = [f"| {title} | " + " | ".join(kinds) + " |", "|---" * (len(kinds) + 1) + "|"]
    names = dict.fromkeys(name for r in rows for name in r["auroc"])
    lines += [f"| {name} | " + " | ".join(cell([r for r in rows if r["kind"] == k], name) for k in kinds) + " |" for name in names]
    return "\n".join(lines)


def _area(rows: list[Row], name: str) -> str:
    """Write the mean, and the smallest in brackets."""
    values = [r["auroc"][name] for r in rows]
    return f"{statistics.mean(values):.3f} ({min(values):.3f})"


def _kept(rows: list[Row], name: str) -> str:
    masked, lost = (statistics.mean(r["auto"][name][what] for r in rows) for what in ("masked", "lost"))
    return f"{masked:.0%} / {lost:.1%}" if rows[0]["kind"] != "clean" else f"{lost:.1%}"


def frontier_table(rows: Iterable[Row]) -> str:
    """Average over seeds, with half the range: accuracy of the new skill / of the old ones, by arm and learning rate."""
    rows, parts = list(rows), []
    for regime, kind in dict.fromkeys((r["regime"], r["kind"]) for r in rows):
        mine = [r for r in rows if (r["regime"], r["kind"]) == (regime, kind)]
        lrs = sorted({r["lr"] for r in mine}, reverse=True)
        lines = [f"| {regime} base, {kind}: arm | kept | " + " | ".join(f"lr {lr:g}" for lr in lrs) + " |", "|---" * (len(lrs) + 2) + "|"]
        for arm in dict.fromkeys(r["arm"] for r in mine):
            own = [r for r in mine if r["arm"] == arm]
            cells = [_cell([r for r in own if r["lr"] == lr]) for lr in lrs]
            lines.append(f"| {arm} | {statistics.mean(r['kept'] for r in own):.0%} | " + " | ".join(cells) + " |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def _cell(rows: list[Mapping[str, float]]) -> str:
    if not rows:
        return ""
    target, old = ([r[name] for r in rows] for name in ("target", "old"))
    return " / ".join(f"{statistics.mean(v):.3f} ± {(max(v) - min(v)) / 2:.3f}" for v in (target, old))
