"""The table, the plot and the verdict of a study."""

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

from reports.frontier import Arm, Gain, Point, frontier, gains, verdict

_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#8a6d00")
"""Of Okabe and Ito: told apart by colour-blind people; shapes tell policies apart, too."""

_SHAPES = ("circle", "square", "triangle", "diamond")
_WIDTH, _HEIGHT, _LEFT, _TOP, _RIGHT, _BOTTOM = 820, 480, 70, 30, 220, 60


@dataclass(frozen=True)
class Study:
    """What a study measured.

    Attributes:
        before: losses of the model before training.
        arms: its trainings; the first one's learning rate is that of the configuration.
        scoring_seconds: seconds spent on valuing the tokens; 0 where they were there.
        train_seconds: median seconds of a training.
        controls: its policies that select at random.
    """

    before: Point
    arms: tuple[Arm, ...]
    scoring_seconds: float
    train_seconds: float
    controls: tuple[str, ...] = ("random",)

    def gains(self) -> list[Gain]:
        """Measure the policies against the frontier."""
        return gains(self.before, self.arms)


def markdown(study: Study) -> str:
    """Write verdict and tables as Markdown."""
    rates = list(dict.fromkeys(a.learning_rate for a in study.arms))
    measured = study.gains()
    lines = [
        f"**{verdict(measured, study.controls)}**", "",
        f"Target / retention loss in nats per token, means over {len({a.seed for a in study.arms})} seeds ± half the range; "
        f"before training {study.before[0]:.3f} / {study.before[1]:.3f}. Equal steps everywhere. Valuing took {study.scoring_seconds:.0f} s, "
        f"a training {study.train_seconds:.0f} s.", "",
        "| policy | kept | " + " | ".join(f"learning rate {r:g}" for r in rates) + " |", "|---" * (len(rates) + 2) + "|",
    ]  # fmt: skip
    for policy in dict.fromkeys(a.policy for a in study.arms):
        own = [a for a in study.arms if a.policy == policy]
        cells = [_cell([a for a in own if a.learning_rate == r]) for r in rates]
        lines.append(f"| {policy} | {statistics.fmean(a.kept_share for a in own):.0%} | " + " | ".join(cells) + " |")
    lines += [
        "",
        "Beyond the frontier of training on every token (in units of what that training changes; above 0 is better than free):",
        "",
    ]
    lines += ["| policy | mean gain | 95% interval, all policies together | by seed |", "|---|---|---|---|"]
    lines += [
        f"| {g.policy} | {g.mean:+.3f} | {g.low:+.3f} to {g.high:+.3f} | {', '.join(f'{v:+.3f}' for v in g.by_seed)} |" for g in measured
    ]
    missing = {a.policy for a in study.arms} - {g.policy for g in measured} - {"full"}
    if missing:
        lines += ["", f"Not comparable, ended outside the learning rates that were tried: {', '.join(sorted(missing))}."]
    return "\n".join(lines) + "\n"


def _cell(arms: Sequence[Arm]) -> str:
    if not arms:
        return ""
    axes = ([a.target for a in arms], [a.retention for a in arms])
    return " / ".join(f"{statistics.fmean(v):.3f} ± {(max(v) - min(v)) / 2:.3f}" for v in axes)


def plot(study: Study) -> str:
    """Draw target loss against retention loss as SVG: lower left is better; means over seeds, the frontier as a line, ranges as bars."""
    means = {
        (policy, rate): [a for a in study.arms if a.policy == policy and a.learning_rate == rate]
        for policy in dict.fromkeys(a.policy for a in study.arms) for rate in dict.fromkeys(a.learning_rate for a in study.arms)
    }  # fmt: skip
    means = {key: arms for key, arms in means.items() if arms}
    line = frontier(study.before, [_mean(arms) for (policy, _), arms in means.items() if policy == "full"])
    everything = [study.before, *(a.point for a in study.arms)]
    xs, ys = _Axis([p[0] for p in everything], _LEFT, _WIDTH - _RIGHT), _Axis([p[1] for p in everything], _HEIGHT - _BOTTOM, _TOP)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="sans-serif" font-size="12">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#ffffff"/>', *_grid(xs, ys),
        '<polyline fill="none" stroke="#555555" stroke-dasharray="5 4" points="' + " ".join(f"{xs(p[0])},{ys(p[1])}" for p in line) + '"/>',
    ]  # fmt: skip
    policies = list(dict.fromkeys(policy for policy, _ in means))
    for index, policy in enumerate(policies):
        again, which = divmod(index, len(_COLOURS))  # a colour that comes again has another shape
        colour, shape = _COLOURS[which], _SHAPES[(which + again) % len(_SHAPES)]
        along = [_mean(arms) for (name, _), arms in means.items() if name == policy]  # from one learning rate to the next
        parts.append(
            f'<polyline fill="none" stroke="{colour}" stroke-opacity="0.35" points="'
            + " ".join(f"{xs(p[0])},{ys(p[1])}" for p in along)
            + '"/>'
        )
        for (name, rate), arms in means.items():
            if name == policy:
                parts += _bars(arms, xs, ys, colour)
                parts.append(_mark(shape, xs(_mean(arms)[0]), ys(_mean(arms)[1]), colour, f"{policy}, learning rate {rate:g}"))
        y = _TOP + 20 * index
        parts += [_mark(shape, _WIDTH - _RIGHT + 24, y, colour, policy), _text(_WIDTH - _RIGHT + 38, y + 4, policy)]
    y = _TOP + 20 * len(policies)
    parts += [
        _mark("cross", xs(study.before[0]), ys(study.before[1]), "#000000", "before training"),
        _mark("cross", _WIDTH - _RIGHT + 24, y, "#000000", "before training"), _text(_WIDTH - _RIGHT + 38, y + 4, "before training"),
        _text(_WIDTH - _RIGHT + 14, y + 24, "- - frontier of every token"), "</svg>",
    ]  # fmt: skip
    return "\n".join(parts) + "\n"


class _Axis:
    """Maps losses to pixels."""

    def __init__(self, values: Sequence[float], start: float, end: float) -> None:
        margin = 0.06 * ((max(values) - min(values)) or 1.0)
        self.low, self.high, self.start, self.end = min(values) - margin, max(values) + margin, start, end

    def __call__(self, value: float) -> float:
        return round(self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start), 1)

    def ticks(self) -> list[str]:
        """Write round numbers within the axis, four to eight."""
        rough = (self.high - self.low) / 8
        size = 10.0 ** math.floor(math.log10(rough))
        step = next(size * factor for factor in (1, 2, 5, 10) if size * factor >= rough)
        places = max(0, -math.floor(math.log10(step)))
        return [f"{step * i:.{places}f}" for i in range(math.ceil(self.low / step), math.floor(self.high / step) + 1)]


def _mean(arms: Iterable[Arm]) -> Point:
    arms = list(arms)
    return (statistics.fmean(a.target for a in arms), statistics.fmean(a.retention for a in arms))


def _grid(xs: _Axis, ys: _Axis) -> list[str]:
    found = []
    for label in xs.ticks():
        x = xs(float(label))
        found.append(f'<line x1="{x}" x2="{x}" y1="{_TOP}" y2="{_HEIGHT - _BOTTOM}" stroke="#e5e5e5"/>')
        found.append(_text(x, _HEIGHT - _BOTTOM + 18, label, "middle"))
    for label in ys.ticks():
        y = ys(float(label))
        found.append(f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y}" y2="{y}" stroke="#e5e5e5"/>')
        found.append(_text(_LEFT - 8, y + 4, label, "end"))
    middle = (_TOP + _HEIGHT - _BOTTOM) / 2
    found.append(_text((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 18, "target loss, nats per token", "middle"))
    found.append(
        f'<text x="18" y="{middle}" text-anchor="middle" transform="rotate(-90 18 {middle})">retention loss, nats per token</text>'
    )
    return found


def _bars(arms: Sequence[Arm], xs: _Axis, ys: _Axis, colour: str) -> list[str]:
    x, y = xs(_mean(arms)[0]), ys(_mean(arms)[1])
    lows, highs = ([pick(a.point[axis] for a in arms) for axis in (0, 1)] for pick in (min, max))
    style = f'stroke="{colour}" stroke-opacity="0.5"'
    return [
        f'<line x1="{xs(lows[0])}" x2="{xs(highs[0])}" y1="{y}" y2="{y}" {style}/>',
        f'<line x1="{x}" x2="{x}" y1="{ys(lows[1])}" y2="{ys(highs[1])}" {style}/>',
    ]


def _mark(shape: str, x: float, y: float, colour: str, title: str) -> str:
    drawn = {
        "circle": f'<circle cx="{x}" cy="{y}" r="5" fill="{colour}">', "square": f'<rect x="{x - 5}" y="{y - 5}" width="10" height="10" fill="{colour}">',
        "triangle": f'<path d="M{x} {y - 6}l6 11h-12z" fill="{colour}">', "diamond": f'<path d="M{x} {y - 7}l6 7l-6 7l-6 -7z" fill="{colour}">',
        "cross": f'<path d="M{x - 5} {y - 5}l10 10m0 -10l-10 10" fill="none" stroke="{colour}" stroke-width="2">',
    }[shape]  # fmt: skip
    closing = drawn[1 : drawn.index(" ")]
    return f"{drawn}<title>{escape(title)}</title></{closing}>"


def _text(x: float, y: float, text: str, anchor: str = "start") -> str:
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}">{escape(text)}</text>'
