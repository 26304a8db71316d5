"""The commands that read: the current release for people, for SQL and for other trainers. No torch, no Prefect."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from flows.ask import age, say_which, warehouse_here
from flows.options import DEFAULT_CONFIG, Config, Folder, Set
from warehouse.read import Reader


def report(
    config: Config = DEFAULT_CONFIG,
    out: Annotated[Path, typer.Option(help="The file to write.")] = Path("report.html"),
    policy: Annotated[str | None, typer.Option(help="Whose mask is shown at first; training.policy when absent.")] = None,
    examples: Annotated[int, typer.Option(min=1, help="Examples embedded at most; fewer where the file would exceed 5 MB.")] = 2000,
    warehouse: Annotated[Path | None, typer.Option(help="The warehouse's folder, instead of that of the configuration.")] = None,
    set_: Set = None,
) -> None:
    """Write one HTML file to look at: tokens by value and mask, distributions, kept shares, trainings, drift."""
    from reports.page import write_report
    from tasks.settings import load

    if warehouse is not None and set_:
        raise ValueError("--warehouse reads no configuration, so --set has nothing to override; give one of them")
    if warehouse is None:
        loaded = load(config, set_ or [])
        warehouse, policy = loaded.warehouse_folder, policy or loaded.training.policy
    with Reader(warehouse) as reader:
        done = write_report(reader, out, policy=policy or "default", num_examples=examples)
        release = reader.release
    which = "all" if done.num_examples == done.num_examples_valued else f"{done.num_examples:,} of"
    typer.echo(
        f"{out}: {which} {done.num_examples_valued:,} examples, {done.num_bytes / 1e6:.1f} MB, on release {release.release_id} "
        f"({age(release.age_s())} old); open it in a browser, it needs no network"
    )


def show(
    example_id: Annotated[str, typer.Argument(help="The example: its id, or the beginning of it.")],
    column: Annotated[str, typer.Option(help="The column of values that colours the tokens.")] = "adapt_direct",
    policy: Annotated[str, typer.Option(help="Whose mask is shown.")] = "default",
    warehouse: Folder = None,
) -> None:
    """Print the responses of an example, coloured by value, with what a policy masks."""
    from reports.show import print_example
    from warehouse.explain import explain

    with Reader(warehouse or warehouse_here()) as reader:
        story = explain(reader, example_id)
        say_which(reader)
        print_example(story, column, policy)


def sql(
    query: Annotated[str | None, typer.Argument(help="One SQL query; the views are listed in the README.")] = None,
    named: Annotated[str | None, typer.Option(help="A query of the directory instead of one of yours.")] = None,
    param: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="Value of $KEY in the query; may be given several times.")
    ] = None,
    list_: Annotated[bool, typer.Option("--list", help="Tell the named queries and what they take.")] = False,
    format_: Annotated[Literal["table", "csv", "json", "parquet"], typer.Option("--format", help="Form of the answer.")] = "table",
    out: Annotated[Path | None, typer.Option(help="File to write instead of standard output.")] = None,
    warehouse: Folder = None,
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


def explain(
    example_id: Annotated[str, typer.Argument(help="The example: its id, or the beginning of it.")],
    position: Annotated[int | None, typer.Argument(help="Position of one response token.", min=0)] = None,
    warehouse: Folder = None,
) -> None:
    """Tell the story of an example or token: where from, worth what by which scoring, kept by which policy."""
    from flows.ask import tell_story

    tell_story(example_id, position, warehouse)


def export(
    form: Annotated[Literal["jsonl", "parquet", "trl-sft", "trl-dpo"], typer.Option("--format", help="For whom: see the README.")],
    out: Annotated[Path, typer.Option(help="Folder to write; new or empty.")],
    config: Config = DEFAULT_CONFIG,
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
        mask_id = current_mask(loaded, queries.pointers(), name)
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


def status(config: Config = DEFAULT_CONFIG, set_: Set = None) -> None:
    """Show snapshots, scorings, masks, runs and bad rows, and what the next run would do and cost."""
    from flows.ask import age, busy
    from reports.terminal import print_status
    from tasks import status as plans
    from tasks.settings import load
    from warehouse.read import Reader
    from warehouse.release import NoReleaseError

    loaded = load(config, set_ or [])
    try:
        with Reader(loaded.warehouse_folder) as reader:
            head = f"release {reader.release.release_id}, {age(reader.release.age_s())} old{busy(loaded.warehouse_folder)}, in {loaded.warehouse_folder}"
            warning = plans.STABILITY_HINT if plans.stability_is_zero(reader) else None
            print_status(reader, head, warning, plans.pinned(reader), plans.plan(loaded, reader))
    except NoReleaseError:
        typer.echo(f"no warehouse yet at {loaded.warehouse_folder}; `alphatoken value {config}` values everything")


def _tokenizer(queries: Any, config: Any) -> Any:
    """Find the tokenizer of the reference model."""
    from tasks import identities
    from warehouse.export import Tokenizer

    folder = identities.reference_folder(config, download=False)
    return Tokenizer(folder / "tokenizer.json", identities.tokenization(queries, config).tokenizer_digest)
