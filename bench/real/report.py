"""Tables and plots of what was measured: the product's own study report for every cell, gains over all cells, and AUROC."""

import math
import statistics
from collections.abc import Sequence
from pathlib import Path

from bench.measurements import Row
from reports.frontier import Arm, gains, verdict
from reports.study import Study, markdown, plot

CONTROLS = ("random", "random_like_default", "position_matched")
"""Arms that select at random."""

Name = tuple[str, str, str, str]
"""Model, data, regime, condition."""


def studies(rows: Sequence[Row]) -> dict[Name, Study]:
    """Put the measurements of each cell together, over the seeds in which `full`, `random` and `four_zscores` have every learning rate.

    Arms that lack a learning rate or one of these seeds are left out: an unfinished run is no smaller one.

    Returns:
        a study per cell, those of which nothing is complete left out.
    """
    found = {}
    for name in dict.fromkeys(name_of(row) for row in rows):
        own = [row for row in rows if name_of(row) == name]
        before = next(((row["target"], row["retention"]) for row in own if row["arm"] == "before"), None)
        trained = _complete([row for row in own if "rate" in row])
        if before is None or not trained:
            continue
        arms = [Arm(row["arm"], row["rate"], row["seed"], row["target"], row["retention"], row["kept"]) for row in trained]
        arms.sort(key=lambda arm: -arm.learning_rate)
        arms = [*(arm for arm in arms if arm.policy == "full"), *(arm for arm in arms if arm.policy != "full")]
        cost = statistics.median(row["value_s"] for row in trained)
        found[name] = Study(before, tuple(arms), cost, statistics.median(row["train_cpu_s"] for row in trained), CONTROLS)
    return found


def _complete(trained: Sequence[Row]) -> list[Row]:
    rates = {row["rate"] for row in trained if row["arm"] == "full"}
    seeds_of: dict[str, set[int]] = {}
    for arm, seed in dict.fromkeys((row["arm"], row["seed"]) for row in trained):
        if rates == {row["rate"] for row in trained if (row["arm"], row["seed"]) == (arm, seed)}:
            seeds_of.setdefault(arm, set()).add(seed)
    needed = [seeds_of[arm] for arm in ("full", "random", "four_zscores") if arm in seeds_of]
    seeds = set.intersection(*needed) if "full" in seeds_of else set()
    return [row for row in trained if row["seed"] in seeds and seeds <= seeds_of.get(row["arm"], set())]


def name_of(row: Row) -> Name:
    """Name the cell of a measurement, whatever its seed."""
    return (row["model"], row["data"], row["regime"], row["condition"])


def gain_table(found: dict[Name, Study]) -> str:
    """Write the gains beyond the frontier, a column per cell: mean over seeds, least and largest."""
    columns = {name: {g.policy: g for g in gains(study.before, study.arms)} for name, study in found.items()}
    policies = list(dict.fromkeys(policy for column in columns.values() for policy in column))
    policies.sort(key=lambda p: -statistics.fmean(c[p].mean for c in columns.values() if p in c))
    lines = ["| arm | " + " | ".join(" ".join(name) for name in columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for policy in policies:
        cells = []
        for column in columns.values():
            one = column.get(policy)
            cells.append("" if one is None else f"{one.mean:+.3f} ({min(one.by_seed):+.3f} … {max(one.by_seed):+.3f})")
        lines.append(f"| {policy} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def recovery_table(found: dict[Name, Study]) -> str:
    """Write, per arm, which share of the oracle's gain over training on every token it has at the same learning rate, on both axes, best learning rate first."""
    lines = ["| cell | arm | target | retention |", "|---|---|---|---|"]
    for name, study in found.items():
        rate = study.arms[0].learning_rate
        at = {p: [a for a in study.arms if a.policy == p and a.learning_rate == rate] for p in dict.fromkeys(a.policy for a in study.arms)}
        if "oracle" not in at:
            continue
        mean = {p: [statistics.fmean(a.point[axis] for a in arms) for axis in (0, 1)] for p, arms in at.items() if arms}
        for policy, point in mean.items():
            if policy not in ("full", "oracle"):
                shares = [(mean["full"][i] - point[i]) / (mean["full"][i] - mean["oracle"][i]) for i in (0, 1)]
                lines.append(f"| {' '.join(name)} | {policy} | " + " | ".join(f"{share:+.0%}" for share in shares) + " |")
    return "\n".join(lines)


def auroc_table(rows: Sequence[Row]) -> str:
    """Write the AUROC of corrupted tokens: mean over seeds, least in brackets."""
    parts = []
    for name in dict.fromkeys(name_of(row) for row in rows if row["arm"] == "auroc"):
        by_seed = {row["seed"]: row["auroc"] for row in rows if row["arm"] == "auroc" and name_of(row) == name}
        first = next(iter(by_seed.values()))
        kinds = list(next(iter(first.values())))
        lines = [f"| {' '.join(name)}: score | " + " | ".join(kinds) + " |", "|---" * (len(kinds) + 1) + "|"]
        means: list[tuple[float, str]] = []
        for score in first:
            values = [[seed[score][kind] for seed in by_seed.values() if score in seed] for kind in kinds]
            mean = statistics.fmean(values[0])
            cells = [f"{statistics.fmean(v):.3f} ({min(v):.3f})" for v in values]
            means.append((0.0 if math.isnan(mean) else mean, f"| {score} | " + " | ".join(cells) + " |"))
        lines += [line for _, line in sorted(means, key=lambda pair: -pair[0])]
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def print_report(rows: Sequence[Row], svg: Path | None) -> None:
    """Print all tables, and write the plots."""
    found = studies(rows)
    for name, study in found.items():
        said = verdict([g for g in study.gains() if g.policy != "oracle"], study.controls)
        tables = markdown(study).partition("\n")[2]  # what the product says first counts the oracle as a mask
        print(f"## {' '.join(name)}\n\n**{said}**\n{tables}")
        if svg is not None:
            svg.mkdir(parents=True, exist_ok=True)
            (svg / ("-".join(name) + ".svg")).write_text(plot(study), encoding="utf-8")
    print(f"## Gains beyond the frontier\n\n{gain_table(found)}\n")
    print(f"## Share of the oracle's gain at the highest learning rate\n\n{recovery_table(found)}\n")
    print(f"## AUROC of corrupted tokens\n\n{auroc_table(rows)}")
