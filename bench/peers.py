"""Our values beside those of bergson and kronfluence: agreement, time and memory on one task, each tool in its own environment and process.

python -m bench.peers [--tokens 512 1024 2048] [--repeats 3] [--threads 2] [--documents 512] [--peers bergson kronfluence]

Scope is what the peers can do: weights of the Linears inside the blocks, one direction (the gradient of the summed validation loss), losses of a
document summed. Environments are made in `.bench/` by the first run (minutes) and kept. A peer that fails is named with its command, left out,
and gives exit status 1. Linux only: peak memory is read from /proc.
"""

import argparse
import json
import platform
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from bench.peer_child import block_linears
from bench.peer_environments import REQUIREMENTS, PeerError, child_environment, make_environment, run
from bench.peer_task import TaskSizes, read_documents, write_task

ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class Case:
    """A row of the table.

    Attributes:
        tool: key of `bench.peer_child.TOOLS`.
        label: what the table calls it.
        gives: axes and number of directions.
    """

    tool: str
    label: str
    gives: str

    @property
    def peer(self) -> str | None:
        """The package whose environment it needs; none for ours."""
        return None if self.tool.startswith("ours") else self.tool.split("-")[0]


CASES = (
    Case("ours", "ours", "context, 1 direction"),
    Case("bergson", "bergson", "context, 1 direction"),
    Case("kronfluence", "kronfluence", "context, 1 direction"),
    Case("ours-target", "ours", "target, 1 direction"),
    Case("bergson-output", "bergson, `token_influence=output`", "target, 1 direction"),
    Case("ours-all", "ours", "context and target, 2 directions"),
)


@dataclass
class Measured:
    """What the repeats of one case at one batch size gave.

    Attributes:
        reports: one per repeat, see bench/peer_child.py.
        values: axis to table, of the last repeat.
    """

    reports: list[dict] = field(default_factory=list)
    values: dict[str, np.ndarray] = field(default_factory=dict)

    def median(self, key: str) -> float:
        """Take the median of a figure over the repeats."""
        return statistics.median(report[key] for report in self.reports)


def ranks(values: np.ndarray) -> np.ndarray:
    """Rank values from 0, ties by their mean rank."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts + 1) / 2)[inverse]


def agreement(values: np.ndarray, reference: np.ndarray) -> tuple[float, float]:
    """Compare two tables of values.

    Args:
        values: float32, [documents, positions], NaN where there is no row.
        reference: the same, of the other tool.

    Returns:
        (the worst document's max |Δ| / max |v|, v the reference; Spearman over all values).

    Raises:
        ValueError: the tables have different rows.
    """
    if values.shape != reference.shape or not np.array_equal(np.isnan(values), np.isnan(reference)):
        raise ValueError(
            f"peers: tables of {values.shape} with {np.isfinite(values).sum()} rows and {reference.shape} with "
            f"{np.isfinite(reference).sum()} rows cannot be compared; both must have the same documents and positions"
        )
    there = ~np.isnan(reference)
    gaps = [np.abs(v[t] - r[t]).max() / np.abs(r[t]).max() for v, r, t in zip(values, reference, there, strict=True)]
    return float(max(gaps)), float(np.corrcoef(ranks(values[there]), ranks(reference[there]))[0, 1])


def run_case(case: Case, python: Path, task: Path, folder: Path, tokens: int, threads: int) -> tuple[dict, dict[str, np.ndarray]]:
    """Run a tool once in a process of its own.

    Returns:
        (its report, its values by axis).
    """
    run([python, ROOT / "bench" / "peer_child.py", case.tool, task, folder, str(tokens)], environ=child_environment(threads))
    return json.loads((folder / "report.json").read_text()), {path.stem: np.load(path) for path in folder.glob("*.npy")}


def measure(
    cases: Sequence[Case], pythons: dict[str | None, Path], task: Path, args: argparse.Namespace
) -> dict[tuple[str, int], Measured]:
    """Run all cases at all batch sizes in turn, several times.

    Returns:
        (tool, tokens per batch) to what was measured; a case that failed is absent.

    Raises:
        PeerError: one of our own cases failed.
    """
    measured = {(case.tool, tokens): Measured() for tokens in args.tokens for case in cases}
    for repeat in range(args.repeats):
        for case, tokens in [(case, tokens) for tokens in args.tokens for case in cases if (case.tool, tokens) in measured]:
            try:
                report, values = run_case(case, pythons[case.peer], task, task / f"{case.tool}-{tokens}-{repeat}", tokens, args.threads)
            except PeerError as failed:
                if case.peer is None:
                    raise
                print(f"{case.label} at {tokens} tokens per batch left out: {failed}", flush=True)
                del measured[case.tool, tokens]
            else:
                measured[case.tool, tokens].reports.append(report)
                measured[case.tool, tokens].values = values
    return measured


def table(cases: Sequence[Case], measured: dict[tuple[str, int], Measured], num_tokens: int) -> list[str]:
    """Write the rows of the table, batch sizes ascending; every value is compared with ours at the smallest batch.

    Args:
        cases: in the order of the rows.
        measured: from `measure`.
        num_tokens: tokens of all training documents, padding not counted.

    Returns:
        lines of Markdown.
    """
    sizes = sorted({tokens for _, tokens in measured})
    reference = {**measured["ours", sizes[0]].values, **measured["ours-target", sizes[0]].values}
    lines = [
        "| tokens per batch | tool | gives | max \\|Δ\\| / max \\|v\\| | Spearman | seconds | tokens/s | CPU seconds | peak memory, MB |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for tokens, case in [(tokens, case) for tokens in sizes for case in cases if (case.tool, tokens) in measured]:
        one = measured[case.tool, tokens]
        gaps, orders = zip(*(agreement(values, reference[axis]) for axis, values in sorted(one.values.items())), strict=True)
        seconds = one.median("seconds")
        lines.append(
            f"| {tokens} | {case.label} | {case.gives} | {max(gaps):.1e} | {min(orders):.7f} | {seconds:.2f} | {num_tokens / seconds:,.0f} "
            f"| {one.median('cpu_seconds'):.2f} | {one.median('peak_bytes') / 1e6:.0f} |"
        )
    return lines


def environments(peers: Sequence[str], root: Path) -> tuple[dict[str | None, Path], list[str]]:
    """Make the environments of the peers asked for.

    Returns:
        (interpreters by peer, ours under None; peers that could not be had).
    """
    pythons: dict[str | None, Path] = {None: Path(sys.executable)}
    missing = []
    for peer in peers:
        print(f"{peer}: environment {root / peer} (the first time, minutes)", flush=True)
        try:
            pythons[peer] = make_environment(peer, root, REQUIREMENTS[peer]).python
        except PeerError as failed:
            print(f"{peer} left out, its environment cannot be made: {failed}", flush=True)
            missing.append(peer)
    return pythons, missing


def heading(task: Path, measured: dict[tuple[str, int], Measured], args: argparse.Namespace) -> str:
    """Say what was measured, on what, with which releases.

    Returns:
        a paragraph.
    """
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(task / "model")
    total, parameters = sum(p.numel() for p in model.parameters()), dict(model.named_parameters())
    scope = sum(parameters[f"{name}.weight"].numel() for name in block_linears(model))
    first = {tool.split("-")[0]: one.reports[0] for (tool, _), one in measured.items()}
    versions = ", ".join(f"{tool} {report['version']}".strip() + f" (torch {report['torch']})" for tool, report in first.items())
    return (
        f"{platform.machine()}, {args.threads} thread(s), float32; {total:,} parameters, {scope:,} of them in scope; {args.documents} documents, "
        f"{args.validation} for validation; medians of {args.repeats} interleaved repeats; {versions}."
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Compare and print the table.

    Args:
        argv: arguments; the process's own if None.

    Returns:
        exit status: 1 if a peer had to be left out somewhere, otherwise 0.
    """
    sizes = TaskSizes()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, nargs="+", default=[512, 1024, 2048])
    for name, default in (("repeats", 3), ("threads", 2), ("documents", sizes.documents), ("validation", sizes.validation)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--peers", nargs="*", choices=list(REQUIREMENTS), default=list(REQUIREMENTS))
    parser.add_argument("--environments", type=Path, default=ROOT / ".bench")
    args = parser.parse_args(argv)
    pythons, missing = environments(args.peers, args.environments.resolve())
    cases = [case for case in CASES if case.peer in pythons]
    with tempfile.TemporaryDirectory(prefix="alphatoken-peers-") as name:
        task = Path(name)
        write_task(task, TaskSizes(documents=args.documents, validation=args.validation))
        measured = measure(cases, pythons, task, args)
        num_tokens = sum(len(d.input_ids) for d in read_documents(task, "train"))
        print("\n".join([heading(task, measured, args), "", *table(cases, measured, num_tokens)]))
    return int(bool(missing) or len(measured) < len(cases) * len(args.tokens))


if __name__ == "__main__":
    raise SystemExit(main())
