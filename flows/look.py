"""The commands `report` and `show`: the current release for people. No torch, no Prefect."""

from pathlib import Path
from typing import Annotated

import typer

from flows.ask import DEFAULT_CONFIG, age, say_which, warehouse_here
from warehouse.read import Reader

Folder = Annotated[Path | None, typer.Option(help="The warehouse's folder; that of alphatoken.yaml when absent.")]


def report(
    config: Annotated[Path, typer.Argument(help="The configuration file.", show_default=True)] = DEFAULT_CONFIG,
    out: Annotated[Path, typer.Option(help="The file to write.")] = Path("report.html"),
    policy: Annotated[str | None, typer.Option(help="Whose mask is shown at first; training.policy when absent.")] = None,
    examples: Annotated[int, typer.Option(min=1, help="Examples embedded at most; fewer where the file would exceed 5 MB.")] = 2000,
    warehouse: Annotated[Path | None, typer.Option(help="The warehouse's folder, instead of that of the configuration.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Override a setting; may be given several times.")
    ] = None,
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
