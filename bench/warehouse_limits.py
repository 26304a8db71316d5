"""What the warehouse must show at 20 million tokens, as a table of limits: measured by the clock and by processor time, passed or not.

On a machine that does other work the clock tells little: processor time, and ratios of it, are then the figures to read.
"""

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from bench.warehouse_case import Case

Cases = Mapping[str, Case]
_COMMIT = ("commit sequences", "commit seven columns")


@dataclass(frozen=True)
class Limit:
    """A limit.

    Attributes:
        what: what is limited, with its unit.
        bound: the limit.
        of: the measured number, from the cases and the kind of time (`seconds` or `cpu`).
        at_least: whether the number must reach the limit, not stay below it.
        needs: the cases that it is of.
        of_size: whether the limit is one for 20 million tokens.
    """

    what: str
    bound: float
    of: Callable[[Cases, str], float]
    needs: tuple[str, ...]
    at_least: bool = False
    of_size: bool = True


def _time(name: str) -> Callable[[Cases, str], float]:
    return lambda cases, kind: statistics.median(getattr(cases[name], kind))


def _rate(name: str, rate: str) -> Callable[[Cases, str], float]:
    return lambda cases, kind: cases[name].rates[rate] / _time(name)(cases, kind)


def _share(names: tuple[str, ...]) -> Callable[[Cases, str], float]:
    def share(cases: Cases, kind: str) -> float:
        return sum(_time(name)(cases, kind) for name in names) / sum(_time(name)(cases, kind) for name in _COMMIT)

    return share


_VALUES, _MASK = "1% replaced: commit sequences and values", "1% replaced: mask of independent responses"
_RESUMED = "stream: first batch after resume"
_LIMITS = (
    Limit("commit, million tokens/s", 3, _rate(_COMMIT[1], "million tokens"), _COMMIT[1:], at_least=True),
    Limit("mask of each response by the four components, s", 4, _time("mask: default"), ("mask: default",)),
    Limit("release, s", 3, _time("release"), ("release",)),
    Limit("file, bytes/token", 30, lambda cases, _: cases[_COMMIT[0]].rates["bytes per token"], _COMMIT[:1]),
    Limit("stream, thousand examples/s", 100, _rate("stream: an epoch", "thousand examples"), ("stream: an epoch",), at_least=True),
    Limit("first batch after resume, s", 0.1, _time(_RESUMED), (_RESUMED,)),
    Limit("plan when nothing changed, s", 1, _time("unchanged: plan and three masks"), ("unchanged: plan and three masks",)),
    Limit("1% replaced: values, share of the first commit", 0.02, _share((_VALUES,)), (*_COMMIT, _VALUES)),
    Limit("1% replaced: mask of independent responses, share of the first commit", 0.02, _share((_MASK,)), (*_COMMIT, _MASK)),
)
_RATIO, _MEMORY_GB = 1.25, 6.0


def _all(cases: Cases) -> list[Limit]:
    """Give the limits that the cases can be held to."""
    found = [limit for limit in _LIMITS if all(name in cases for name in limit.needs)]
    for name, case in cases.items():
        if case.raw_seconds:
            found.append(Limit(f"ratio: {name}", _RATIO, _ratio(name), (name,), of_size=False))
    most = max(cases, key=lambda name: cases[name].peak_bytes)
    found.append(Limit(f"most memory, GB ({most})", _MEMORY_GB, lambda cases, _: cases[most].peak_bytes / 1e9, (most,), of_size=False))
    return found


def _ratio(name: str) -> Callable[[Cases, str], float]:
    return lambda cases, kind: _time(name)(cases, kind) / statistics.median(getattr(cases[name], f"raw_{kind}"))


def table(cases: Cases, num_tokens: int) -> str:
    """Write the limits with what was measured; those for 20 million tokens only where there are so many."""
    lines = ["| must show | limit | measured | passed | by processor time | passed |", "|---|---|---|---|---|---|"]
    for limit in _all(cases):
        if limit.of_size and num_tokens != 20_000_000:
            continue
        cells = []
        for kind in ("seconds", "cpu"):
            number = limit.of(cases, kind)
            passed = number >= limit.bound if limit.at_least else number <= limit.bound
            cells += [f"{number:.3g}", "yes" if passed else "**no**"]
        lines.append(f"| {limit.what} | {'≥' if limit.at_least else '≤'} {limit.bound:g} | {' | '.join(cells)} |")
    return "\n".join(lines)
