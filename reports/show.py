"""One example on the terminal: its responses, coloured by a column of values, with what a policy masks."""

from collections.abc import Iterator

import polars as pl
from rich.console import Console
from rich.table import Table
from rich.text import Text

from warehouse.explain import Story

_COMPONENTS = ("adapt_direct", "adapt_causal", "stab_direct", "stab_causal")
_NUM_EXTREMES = 3
_VISIBLE = str.maketrans({"\n": "↵", "\t": "⇥", "\r": "␍", " ": "␣"})


def print_example(story: Story, column: str, policy: str, *, console: Console | None = None) -> None:
    """Print the responses of an example.

    On a terminal with colours: components are blue where they help and orange where they hurt, signals blue above their median; bold are the
    quarters at the ends; masked tokens are struck through. Elsewhere, and under NO_COLOR: `[-masked-]`, `{+the highest quarter+}`.

    Args:
        story: the example, whole, as `warehouse.explain` tells it.
        column: the column of values that colours the tokens.
        policy: whose mask is shown.
        console: where to; standard output when absent.

    Raises:
        ValueError: the example has no values, or there is no such column or policy.
    """
    tokens = _tokens(story, column, policy)
    console = console or Console(highlight=False, soft_wrap=True)
    plain = not console.is_terminal or console.no_color
    for (branch,), response in tokens.group_by("branch", maintain_order=True):
        kept, known = response["keep"].sum(), response["value"].drop_nulls()
        mean = f"mean {column} {_figure(column, float(known.to_numpy().mean()))}" if len(known) else f"no {column}"
        console.print(Text(f"{story.example_id} ({branch}), policy {policy}: {kept} of {len(response)} tokens kept, {mean}", style="bold"))
        console.print(_legend(column, plain))
        console.print(_marked(response) if plain else _coloured(response, column))
        console.print(_extremes(response, column))
        console.print()


def _tokens(story: Story, column: str, policy: str) -> pl.DataFrame:
    """Join values and decisions.

    Returns:
        a row per branch and position, in order: token, value (null where there is none), keep, and rank in (0, 1] among the response's values.

    Raises:
        ValueError: the example has no values, or there is no such column or policy.
    """
    if story.values.is_empty():
        why = "has no values in this release" if story.is_current else "is not in the current training snapshot"
        raise ValueError(f"example {story.example_id} {why}; `alphatoken explain {story.example_id}` tells what is known of it")
    columns, policies = (
        frame[key].unique(maintain_order=True).to_list() for frame, key in ((story.values, "column"), (story.lineage, "policy"))
    )
    for what, given, known in (("column of values", column, columns), ("policy with a current mask", policy, policies)):
        if given not in known:
            raise ValueError(f"there is no {what} {given!r}; there are: {', '.join(known) or 'none'}")
    decisions = story.lineage.filter(pl.col("policy") == policy).select("branch", "position", "keep")
    values = story.values.filter(pl.col("column") == column).select("branch", "position", "token", "value")
    ranks = (pl.col("value").rank("average") / pl.col("value").count()).over("branch")
    return values.join(decisions, on=["branch", "position"], how="left", maintain_order="left").with_columns(rank=ranks)


def _figure(column: str, value: float) -> str:
    return f"{value:+.3g}" if column in _COMPONENTS else f"{value:.3g}"


def _legend(column: str, plain: bool) -> Text:
    what = "positive = helps" if column in _COMPONENTS else "a signal: larger is neither better nor worse"
    if plain:
        return Text(f"[-masked-]  {{+the highest quarter of {column}+}}  ({what})")
    text = Text(f"{column} ({what}): ")
    samples = [("highest quarter", 1.0, 1.0), ("above 0" if column in _COMPONENTS else "upper half", 1.0, 0.7)]
    if column in _COMPONENTS:
        samples += [("below 0", -1.0, 0.3), ("lowest quarter", -1.0, 0.1)]
    for words, value, rank in samples:
        text.append(words, style=_style(column, value, rank)).append("  ")
    return text.append("masked", style="strike").append("\n")


def _style(column: str, value: float | None, rank: float | None) -> str:
    """Give the style of a value: hue by its sign, or by its half for a signal; bold at both ends."""
    if value is None or rank is None:
        return "dim"
    if column not in _COMPONENTS:
        return "bold color(33)" if rank > 0.75 else "color(33)" if rank > 0.5 else ""
    if value == 0:
        return ""
    return ("bold " if (rank > 0.75 if value > 0 else rank <= 0.25) else "") + ("color(33)" if value > 0 else "color(208)")


def _coloured(response: pl.DataFrame, column: str) -> Text:
    text = Text()
    for token, value, keep, rank in response.select("token", "value", "keep", "rank").iter_rows():
        text.append(_shown(token), style=" ".join(filter(None, (_style(column, value, rank), None if keep else "strike"))))
    return text


def _marked(response: pl.DataFrame) -> Text:
    """Write with signs alone what colours say: runs of masked tokens and of kept tokens of the highest quarter."""
    text, last = "", ""
    ends = {"": ("", ""), "masked": ("[-", "-]"), "high": ("{+", "+}")}
    for token, keep, rank in response.select("token", "keep", "rank").iter_rows():
        kind = "masked" if not keep else "high" if rank is not None and rank > 0.75 else ""
        text += ("" if kind == last else ends[last][1] + ends[kind][0]) + _shown(token)
        last = kind
    return Text(text + ends[last][1])


def _shown(token: str | None) -> str:
    """Draw what would not show: a token of blanks alone, a line break, a control character."""
    if token is None:
        return "⟨outside the vocabulary⟩"
    if token.strip(" ") == "":
        return token.translate(_VISIBLE) or "∅"
    return "".join(_character(one) for one in token)


def _character(one: str) -> str:
    if one == "\n":
        return "↵\n"
    return one if one.isprintable() else one.translate(_VISIBLE) if ord(one) in _VISIBLE else f"⟨U+{ord(one):04X}⟩"


def _extremes(response: pl.DataFrame, column: str) -> Table:
    """Tell the highest and lowest tokens of a response with their positions, for `explain EXAMPLE_ID POSITION`."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for name in ("", "position", "token", column, ""):
        table.add_column(name, justify="right" if name in ("position", column) else "left", no_wrap=True)
    known = response.filter(pl.col("value").is_not_null()).sort("value", descending=True, maintain_order=True)
    for label, rows in _ends(known):
        for place, (position, token, value, keep) in enumerate(rows.select("position", "token", "value", "keep").iter_rows()):
            table.add_row(
                Text(label if place == 0 else ""),
                str(position),
                Text(_shown(token).replace("\n", "").replace(" ", "␣")),
                _figure(column, value),
                "kept" if keep else "masked",
            )
    return table


def _ends(known: pl.DataFrame) -> Iterator[tuple[str, pl.DataFrame]]:
    num = min(_NUM_EXTREMES, len(known) // 2)
    if num:
        yield "highest", known.head(num)
        yield "lowest", known.tail(num)
