"""The command line: `alphatoken`. Heavy imports happen inside the commands that need them."""

import os
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
    try:
        app()
    except BaseException as error:
        if not _is_expected(error):
            raise
        sys.stderr.write(f"error: {error}\n")
        raise SystemExit(1) from None


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
<<<<<<< HEAD
def sql(
    query: Annotated[str | None, typer.Argument(help="One SQL query; the views are listed in the README.")] = None,
    named: Annotated[str | None, typer.Option(help="A query of the directory instead of one of yours.")] = None,
    param: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="Value of $KEY in the query; may be given several times.")
    ] = None,
    list_: Annotated[bool, typer.Option("--list", help="Tell the named queries and what they take.")] = False,
    format_: Annotated[Literal["table", "csv", "json", "parquet"], typer.Option("--format", help="Form of the answer.")] = "table",
    out: Annotated[Path | None, typer.Option(help="File to write instead of standard output.")] = None,
    warehouse: Annotated[Path | None, typer.Option(help="The warehouse's folder; that of alphatoken.yaml when absent.")] = None,
    allow_files: Annotated[bool, typer.Option("--allow-files", help="Let the query read and write other files.")] = False,
) -> None:
    """Ask the current release; read-only, also while a run is writing."""
    if (query is not None) + (named is not None) + list_ != 1:
        raise ValueError("give one of: a query, --named NAME, --list")
    if list_:
        from reports.terminal import print_queries

        print_queries()
        return
    from flows.ask import answer

    answer(query, named, param or [], format_, out, warehouse, allow_files=allow_files)


@app.command()
def explain(
    example_id: Annotated[str, typer.Argument(help="The example: its id, or the beginning of it.")],
    position: Annotated[int | None, typer.Argument(help="Position of one response token.", min=0)] = None,
    warehouse: Annotated[Path | None, typer.Option(help="The warehouse's folder; that of alphatoken.yaml when absent.")] = None,
) -> None:
    """Tell the story of an example or token: where from, worth what by which scoring, kept by which policy."""
    from flows.ask import tell_story

    tell_story(example_id, position, warehouse)


@app.command()
def export(
    form: Annotated[Literal["jsonl", "parquet", "trl-sft", "trl-dpo"], typer.Option("--format", help="For whom: see the README.")],
    out: Annotated[Path, typer.Option(help="Folder to write; new or empty.")],
    config: Config = _DEFAULT_CONFIG,
    set_: Set = None,
    policy: Annotated[str | None, typer.Option(help="Whose mask; training.policy when absent.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier export in that folder.")] = False,
) -> None:
    """Write a mask of the current release, with its sequences, for another trainer."""
    from tasks.settings import load
    from tasks.training_plan import current_mask
    from warehouse.export import export as write
    from warehouse.queries import Queries
    from warehouse.release import opened

    loaded = load(config, set_ or [])
    name = policy or loaded.training.policy
    with opened(loaded.warehouse_folder) as (con, release):
        queries = Queries(con)
        mask_id = current_mask(loaded, dict(queries.run("release/pointers").fetchall()), name)
        done = write(
            queries,
            release,
            mask_id,
            name,
            form,
            out,
            tokenizer=_tokenizer(queries, loaded) if form == "jsonl" else None,
            overwrite=overwrite,
        )
    counts = done.manifest["counts"]
    left_out = f", {counts['num_rows_left_out']} without a kept token left out" if counts["num_rows_left_out"] else ""
    typer.echo(
        f"{out}: {counts['num_rows']} rows, {counts['num_tokens']} tokens, {counts['num_supervised_tokens']} of them supervised{left_out} "
        f"(mask {name!r} of release {release.release_id}); how to read them: {out / 'manifest.json'}"
    )


@app.command()
def status(config: Config = _DEFAULT_CONFIG, set_: Set = None) -> None:
    """Show snapshots, scorings, masks, runs and bad rows, and what the next run would do and cost."""
    from flows.ask import age, busy
    from reports.terminal import print_status
    from tasks import status as plans
    from tasks.settings import load
    from warehouse.read import read
    from warehouse.release import NoReleaseError

    loaded = load(config, set_ or [])
    try:
        with read(loaded.warehouse_folder) as reader:
            head = f"release {reader.release.release_id}, {age(reader.release.age_s())} old{busy(loaded.warehouse_folder)}, in {loaded.warehouse_folder}"
            warning = plans.STABILITY_HINT if plans.stability_is_zero(reader) else None
            print_status(reader, head, warning, plans.pinned(reader), plans.plan(loaded, reader))
    except NoReleaseError:
        typer.echo(f"no warehouse yet at {loaded.warehouse_folder}; `alphatoken value {config}` values everything")


@app.command()
def serve(config: Config = _DEFAULT_CONFIG) -> None:
    """Register the deployments at the Prefect server, and start their runs by schedule and event until stopped."""
    from flows.serve import serve as serve_deployments

    serve_deployments(config)


@app.command()
def watch(config: Config = _DEFAULT_CONFIG) -> None:
    """Look at the data files and send Prefect an event when one changed: beside workers; `serve` does it by itself."""
    from flows.serve import watch as watch_files

    watch_files(config)


@app.command()
=======
>>>>>>> c7a7613a6476a74e4a913b9a5fe340dd1f72b5f7
def demo(
    folder: Annotated[Path | None, typer.Argument(help="Where to put the demo; a folder of the user's cache when absent.")] = None,
) -> None:
    """Show the main job on a small generated world: nothing is downloaded, two minutes on two cores."""
    from flows.demo import run_demo

    run_demo(folder)


<<<<<<< HEAD
def _tokenizer(queries: Any, config: Any) -> Any:
    """Find the tokenizer of the reference model."""
    from tasks import identities
    from warehouse.export import Tokenizer

    folder = identities.reference_folder(config, download=False)
    return Tokenizer(folder / "tokenizer.json", identities.tokenization(queries, config).tokenizer_digest)


if __name__ == "__main__":
    main()
=======
for command in (look.sql, look.explain, look.show, look.report, look.export, look.status):
    app.command()(command)
>>>>>>> c7a7613a6476a74e4a913b9a5fe340dd1f72b5f7
