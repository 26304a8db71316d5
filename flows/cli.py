"""The command line: `alphatoken`. Heavy imports happen inside the commands that need them."""

import os
import signal
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from flows import look
from flows.options import DEFAULT_CONFIG, Config, Set

app = typer.Typer(
    help="Value every response token of a data set, keep the values in SQL, mask the tokens of low value, train on the rest.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def main() -> None:
    """Run the command line; faults of input end with one clear line and status 1."""
    from tasks.quiet import configure

    configure(served=sys.argv[1:2] == ["serve"])
    signal.signal(signal.SIGTERM, _end)
    try:
        app()
    except BaseException as error:
        if not _is_expected(error):
            raise
        sys.stderr.write(f"error: {error}\n")
        raise SystemExit(1) from None


def _end(number: int, frame: object) -> None:
    """End an order to stop in good order: without this, Prefect's temporary server would outlive us.

    Raises:
        SystemExit: always.
    """
    raise SystemExit(128 + number)


def _is_expected(error: BaseException) -> bool:
    """Whether a message says it all: faults of data, settings, files and SQL; anything else keeps its traceback."""
    if os.environ.get("ALPHATOKEN_TRACEBACK"):
        return False
    module = type(error).__module__ or ""
    ours = module.startswith(("tasks", "warehouse", "models", "flows"))
    return ours or module.startswith(("duckdb", "_duckdb")) or isinstance(error, ValueError | OSError | ImportError | MemoryError)


@app.command()
def init(
    model: Annotated[str, typer.Option(help="Reference model: folder or hub name.")],
    train: Annotated[str, typer.Option(help="Training data: file, glob, data set folder or hub name.")],
    validation: Annotated[str, typer.Option(help="Validation data: a small clean sample of the target task.")],
    path: Annotated[Path, typer.Argument(help="Where to write.")] = DEFAULT_CONFIG,
    evaluation: Annotated[str | None, typer.Option(help="Evaluation data, other rows of the target task.")] = None,
    retention: Annotated[str | None, typer.Option(help="Text that the model knows, to measure forgetting.")] = None,
) -> None:
    """Write a commented configuration file."""
    from flows.template import configuration_text

    if path.exists():
        raise FileExistsError(f"{path} exists; give another path, or remove it first")
    path.write_text(configuration_text(model, train, validation, evaluation, retention), encoding="utf-8")
    typer.echo(f"wrote {path}; next: alphatoken value {path}")


@app.command()
def value(
    config: Config = DEFAULT_CONFIG,
    set_: Set = None,
    refresh_scoring: Annotated[bool, typer.Option(help="Remake the pinned warm-up checkpoint, Fisher and directions.")] = False,
) -> None:
    """Ingest, tokenize, make directions, score, mask, release: only what changed."""
    _value(config, set_ or [], refresh_scoring)


@app.command()
def mask(
    config: Config = DEFAULT_CONFIG,
    set_: Set = None,
    policy: Annotated[str | None, typer.Option(help="One policy of the configuration; all of them when absent.")] = None,
) -> None:
    """Mask again from stored values; no model is loaded."""
    from flows.value_tokens import mask_tokens
    from reports.terminal import print_rows, rows

    began = time.monotonic()
    done = mask_tokens(str(config), list(set_ or []), policy)
    print_rows(rows(done.counts))
    _say_release(done, began)


@app.command()
def prune(
    config: Config = DEFAULT_CONFIG,
    set_: Set = None,
    keep_last: Annotated[int, typer.Option(help="How many of the newest scorings, snapshots of a role and masks of a policy stay.")] = 3,
    older_than: Annotated[float | None, typer.Option(metavar="DAYS", help="Only what was made more than so many days ago goes.")] = None,
    unfinished: Annotated[bool, typer.Option("--unfinished", help="What interrupted runs left for their next turn goes, too.")] = False,
    apply: Annotated[bool, typer.Option("--apply", help="Remove it; without this, only tell what would go.")] = False,
) -> None:
    """Remove old scorings, masks and snapshots with all that is only theirs; tell what would go, unless --apply is given."""
    from flows.prune import prune_warehouse
    from reports.terminal import print_pruning

    done = prune_warehouse(str(config), list(set_ or []), keep_last, older_than, unfinished, apply)
    print_pruning(done.plan, done.releases)
    if not apply:
        typer.echo("a dry run: nothing was removed; --apply removes it")
        return
    typer.echo(f"{done.warehouse}: removed; the live file took {done.num_bytes_before:,} bytes and takes {done.num_bytes_after:,}")


@app.command()
def train(
    config: Config = DEFAULT_CONFIG,
    set_: Set = None,
    policy: Annotated[str | None, typer.Option(help="Whose mask to train on; training.policy when absent.")] = None,
) -> None:
    """Fine-tune on a mask of the current release; measure target and retention loss before and after."""
    _train(config, set_ or [], policy)


@app.command()
def run(
    config: Config = DEFAULT_CONFIG,
    set_: Set = None,
    refresh_scoring: Annotated[bool, typer.Option(help="Remake the pinned warm-up checkpoint, Fisher and directions.")] = False,
) -> None:
    """Do `value`, then `train`."""
    _value(config, set_ or [], refresh_scoring)
    _train(config, set_ or [], None)


@app.command()
def rounds(
    config: Config = DEFAULT_CONFIG,
    set_: Set = None,
    rounds: Annotated[int, typer.Option(help="Rounds that share the steps of one training.")] = 2,
    policy: Annotated[str | None, typer.Option(help="Whose mask to train on; training.policy when absent.")] = None,
) -> None:
    """Value and train in turn: every round values the tokens at the model that the round before trained, and trains it on."""
    from flows.rounds import rounds as alternate
    from reports.terminal import print_rows, training_rows

    for one in alternate(str(config), list(set_ or []), rounds, policy):
        print_rows(training_rows(one.training.metrics), title=f"round {one.number} of {rounds}, {one.steps} steps")
        state = "trained" if one.training.trained else "unchanged, not trained again"
        typer.echo(f"training {one.training.training_id[:12]} on mask {one.training.policy!r}: {state}; {one.training.checkpoint}")


@app.command()
def study(
    config: Config = DEFAULT_CONFIG,
    set_: Set = None,
    out: Annotated[Path, typer.Option(help="Folder for the table (study.md) and the plot (study.svg).")] = Path("study"),
) -> None:
    """Do masks help on your model and data? Train every policy at several learning rates and seeds, and compare with what costs nothing."""
    from flows.study import study as compare
    from reports.study import markdown, plot

    done = compare(str(config), list(set_ or []))
    out.mkdir(parents=True, exist_ok=True)
    (out / "study.md").write_text(markdown(done), encoding="utf-8")
    (out / "study.svg").write_text(plot(done), encoding="utf-8")
    typer.echo(markdown(done))
    typer.echo(f"table and plot: {out / 'study.md'}, {out / 'study.svg'}")


@app.command()
def selftest(config: Config = DEFAULT_CONFIG, set_: Set = None) -> None:
    """Check the engine on your model, dtype and directions: exact, batched, low-rank, half precision; status 1 where it fails."""
    from flows.self_test import self_test
    from reports.terminal import print_rows

    checks = self_test(str(config), list(set_ or []))
    told = [
        (c.name, f"{c.measure} {c.value:.3g}" + (f", limit {c.limit:g}: {'passed' if c.passed else 'FAILED'}" if c.limit > 0 else ""))
        for c in checks
    ]
    print_rows(told)
    failed = [c for c in checks if not c.passed]
    typer.echo(f"{len(failed)} of {len(checks)} checks failed: do not trust these values" if failed else "all checks passed")
    if failed:
        raise typer.Exit(1)


def _value(config: Path, overrides: list[str], refresh_scoring: bool) -> None:
    from flows.value_tokens import value_tokens
    from reports.terminal import print_rows, rows

    began = time.monotonic()
    done = value_tokens(str(config), overrides, refresh_scoring)
    print_rows(rows(done.counts))
    _say_release(done, began)


def _say_release(done: Any, began: float) -> None:
    state = "written" if done.wrote_release else "unchanged, nothing was written"
    typer.echo(f"release {done.release_id} in {done.warehouse}: {state} ({time.monotonic() - began:.1f} s)")


def _train(config: Path, overrides: list[str], policy: str | None) -> None:
    from flows.train_masked import join_training, train_masked
    from reports.terminal import print_rows, training_rows
    from tasks.ranks import rank

    if rank() > 0:
        join_training(str(config), overrides, policy)
        return
    began = time.monotonic()
    receipt = train_masked(str(config), overrides, policy)
    print_rows(training_rows(receipt.metrics))
    state = "trained" if receipt.trained else "unchanged, not trained again"
    typer.echo(
        f"training {receipt.training_id[:12]} on mask {receipt.policy!r}: {state}; {receipt.checkpoint} ({time.monotonic() - began:.1f} s)"
    )


@app.command()
def serve(config: Config = DEFAULT_CONFIG) -> None:
    """Register the deployments at the Prefect server, and start their runs by schedule and event until stopped."""
    from flows.serve import serve as serve_deployments

    serve_deployments(config)


@app.command()
def watch(config: Config = DEFAULT_CONFIG) -> None:
    """Look at the data files and send Prefect an event when one changed: beside workers; `serve` does it by itself."""
    from flows.serve import watch as watch_files

    watch_files(config)


@app.command()
def demo(
    folder: Annotated[Path | None, typer.Argument(help="Where to put the demo; a folder of the user's cache when absent.")] = None,
) -> None:
    """Show the main job on a small generated world: nothing is downloaded, two minutes on two cores."""
    from flows.demo import run_demo

    run_demo(folder)


for command in (look.sql, look.explain, look.show, look.report, look.export, look.status):
    app.command()(command)


if __name__ == "__main__":
    main()
