"""Tables and plots of the controlled world: means over seeds."""

import statistics
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from bench.measurements import Row
from reports.frontier import Arm, gains
from reports.study import Study, plot


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


def studies(rows: Iterable[Row]) -> dict[tuple[str, str], Study]:
    """Put the trainings of each (regime, kind of damage) together, by their losses of the new skill and of the old ones."""
    rows, found = [r for r in rows if r["key"].startswith("frontier")], {}
    for regime, kind in dict.fromkeys((r["regime"], r["kind"]) for r in rows):
        mine = [r for r in rows if (r["regime"], r["kind"]) == (regime, kind)]
        before = next(r for r in mine if r["arm"] == "nothing")
        arms = [Arm(r["arm"], r["lr"], r["seed"], r["target_loss"], r["old_loss"], r["kept"]) for r in mine if r["arm"] != "nothing"]
        found[regime, kind] = Study((before["target_loss"], before["old_loss"]), tuple(arms), 0.0, 0.0)
    return found


def gain_table(rows: Iterable[Row]) -> str:
    """Write how far each arm lies beyond the frontier of training on every token: mean over seeds, least and largest."""
    by_kind = {name: {g.policy: g for g in gains(study.before, study.arms)} for name, study in studies(rows).items()}
    lines = [
        "| beyond the frontier | " + " | ".join(f"{regime}, {kind}" for regime, kind in by_kind) + " |",
        "|---" * (len(by_kind) + 1) + "|",
    ]
    for arm in dict.fromkeys(arm for measured in by_kind.values() for arm in measured):
        found = [measured.get(arm) for measured in by_kind.values()]
        cells = ["" if g is None else f"{g.mean:+.3f} ({min(g.by_seed):+.3f} … {max(g.by_seed):+.3f})" for g in found]
        lines.append(f"| {arm} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def gains_over_full(rows: Iterable[Row]) -> str:
    """Write by how much each arm's loss is lower than that of training on every token, in nats at the largest learning rate: new skill / old ones."""
    found = {name: study for name, study in studies(rows).items() if name[1] != "clean"}
    lines = [
        "| nats below every token | " + " | ".join(f"{regime}, {kind}" for regime, kind in found) + " |", "|---" * (len(found) + 1) + "|",
    ]  # fmt: skip
    for arm in dict.fromkeys(a.policy for study in found.values() for a in study.arms if a.policy != "full"):
        cells = []
        for study in found.values():
            rate = max(a.learning_rate for a in study.arms)
            full, mine = ([a for a in study.arms if a.policy == policy and a.learning_rate == rate] for policy in ("full", arm))
            cells.append(" / ".join(f"{f - m:+.3f}" for f, m in zip(_mean(full), _mean(mine), strict=True)) if full and mine else "")
        lines.append(f"| {arm} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _mean(arms: Iterable[Arm]) -> tuple[float, float]:
    arms = list(arms)
    return (statistics.fmean(a.target for a in arms), statistics.fmean(a.retention for a in arms))


def write_plots(rows: Iterable[Row], folder: Path) -> None:
    """Draw each (regime, kind of damage) as an SVG file."""
    folder.mkdir(parents=True, exist_ok=True)
    for (regime, kind), study in studies(rows).items():
        (folder / f"world-{regime}-{kind.replace(' ', '-')}.svg").write_text(plot(study), encoding="utf-8")
