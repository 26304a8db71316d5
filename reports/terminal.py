"""Terminal output: summaries, answers to SQL, status, a response coloured by its tokens' values."""

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import polars as pl
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from reports.summary import rows, training_rows
from warehouse import named_queries
from warehouse.prune import PrunePlan
from warehouse.read import Reader

__all__ = ["print_answer", "print_pruning", "print_queries", "print_response", "print_rows", "print_status", "rows", "training_rows"]

_MAX_ROWS = 40


def print_rows(lines: Iterable[tuple[str, str]], title: str | None = None) -> None:
    """Print (label, sentence) lines in two columns."""
    table = Table(show_header=False, box=None, title=title, title_justify="left", title_style="bold", padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for label, text in lines:
        table.add_row(Text(label), Text(text))
    Console().print(table)


def print_answer(frame: pl.DataFrame, form: str, out: Path | None) -> None:
    """Write the answer to a query.

    Args:
        frame: the answer.
        form: table, csv, json (an array of objects) or parquet.
        out: file to write; standard output when absent.

    Raises:
        ValueError: Parquet or a table cannot go where it was asked to.
    """
    if form == "parquet":
        if out is None:
            raise ValueError("Parquet cannot be printed; name a file with --out")
        frame.write_parquet(out)
    elif form in ("csv", "json"):
        flat = frame if form == "json" else _without_nesting(frame)
        text = flat.write_json() if form == "json" else flat.write_csv()
        if out is None:
            sys.stdout.write(text if text.endswith("\n") else text + "\n")
        else:
            out.write_text(text, encoding="utf-8")
    elif out is not None:
        raise ValueError("a table is for the terminal; choose --format csv, json or parquet for a file")
    else:
        _print_frame(frame)


def print_queries() -> None:
    """Print the directory of named queries: what each answers, and its parameters with their defaults."""
    lines = []
    for query in map(named_queries.load, named_queries.names()):
        lines.append((query.name, query.purpose))
        lines.extend(
            (f"  {key}", parameter.meaning + ("" if parameter.default is None else f" [{parameter.default}]"))
            for key, parameter in query.parameters.items()
        )
    print_rows(lines)


def _without_nesting(frame: pl.DataFrame) -> pl.DataFrame:
    """Write lists and structs as JSON text: CSV has none."""
    nested = [name for name, kind in frame.schema.items() if kind.is_nested()]
    return frame.with_columns(pl.Series(name, [_json(value) for value in frame[name].to_list()], pl.String) for name in nested)


def _json(value: object) -> str | None:
    return None if value is None else json.dumps(value, ensure_ascii=False, default=str)


def print_pruning(plan: PrunePlan, releases: Mapping[str, int]) -> None:
    """Print what goes and what stays.

    Args:
        plan: rows and files that go, scorings and snapshots that stay.
        releases: bytes on disk of each release that goes.
    """
    print_rows(
        ((f"{kind} {one[:8]}", f"made {made:%Y-%m-%d %H:%M} UTC; {why}") for kind, one, made, why in plan.kept),
        title="stays, beside others",
    )
    lines = [(gone.kind, f"{gone.number:,} rows, {gone.num_bytes:,} bytes of content") for gone in plan.rows]
    lines += [(gone.kind, f"{gone.number:,} on disk, {gone.num_bytes:,} bytes") for gone in plan.files]
    lines += [("releases", f"{len(releases):,} on disk, {sum(releases.values()):,} bytes")] if releases else []
    print_rows(lines or [("nothing", "")], title="goes")


def _print_frame(frame: pl.DataFrame) -> None:
    table = Table()
    for name, kind in frame.schema.items():
        table.add_column(Text(name), justify="right" if kind.is_numeric() else "left", overflow="fold")
    for row in frame.head(_MAX_ROWS).iter_rows():
        table.add_row(*(Text(_cell(value)) for value in row))
    Console().print(table)
    if len(frame) > _MAX_ROWS:
        Console(stderr=True).print(f"{_MAX_ROWS} of {len(frame):,} rows; --format csv, json or parquet gives all")


def _cell(value: object) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, float):
        return f"{value:.6g}"
    text = str(value)
    return text if len(text) <= 200 else text[:199] + "…"


def print_status(
    reader: Reader, head: str, warning: str | None, pinned: Sequence[tuple[str, str]], plan: Sequence[tuple[str, str]]
) -> None:
    """Print what a warehouse holds and what the next run would do."""
    console = Console()
    console.print(Text(head, style="bold"))
    if warning is not None:
        console.print(Text(f"WARNING {warning}", style="bold red"))
    for title, query in (
        ("snapshots", "report/status_snapshots"), ("scorings", "report/status_scorings"), ("masks", "report/status_masks"),
        ("runs", "report/status_runs"), ("bad rows", "report/status_bad_rows"),
    ):  # fmt: skip
        frame = reader.frame(query)
        console.print(Text(title if len(frame) else f"{title}: none", style="bold"))
        if len(frame):
            _print_overview(frame)
    print_rows(pinned, title="pinned artefacts")
    print_rows(plan, title="the next `alphatoken value` would do")


def _print_overview(frame: pl.DataFrame) -> None:
    """Print a table of few rows without ruling: thousands apart, a mark where something is true, nothing for NULL."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for name, kind in frame.schema.items():
        table.add_column(Text(name), justify="right" if kind.is_numeric() or name == "share" else "left", no_wrap=kind != pl.String)
    for row in frame.iter_rows():
        table.add_row(*(Text(_overview_cell(value)) for value in row))
    Console().print(Padding(table, (0, 0, 1, 2)))


def _overview_cell(value: object) -> str:
    if value is None or isinstance(value, bool):
        return "●" if value else ""
    return f"{value:,}" if isinstance(value, int) else _cell(value)


def print_response(tokens: pl.DataFrame, title: str) -> None:
    """Print a response with the tokens that are masked struck through and the kept ones coloured by rank of their value.

    Args:
        tokens: one row per response token in order: token, score (null where there is none), keep.
        title: a line above it.
    """
    ranks = tokens["score"].rank("average") / max(tokens["score"].count(), 1)
    text = Text()
    for token, keep, rank in zip(tokens["token"].to_list(), tokens["keep"].to_list(), ranks.to_list(), strict=True):
        text.append(token or "", style=_style(keep, rank))
    console = Console()
    console.print(Text(title, style="bold"))
    console.print(text)


def _style(keep: bool, rank: float | None) -> str:
    """Blue for high, orange for low (told apart by colour-blind readers); masked tokens are struck through as well."""
    if not keep:
        return "strike color(208)"
    if rank is None:
        return ""
    return "bold color(33)" if rank > 0.75 else "color(33)" if rank > 0.5 else ""
