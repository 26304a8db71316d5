"""What the commands `sql` and `explain` do: open the current release, ask, print. No torch, no Prefect."""

from pathlib import Path

import typer

from flows.options import DEFAULT_CONFIG
from warehouse.read import Reader


def answer(
    query: str | None, named: str | None, parameters: list[str], form: str, out: Path | None, warehouse: Path | None, *, allow_files: bool
) -> None:
    """Run a query of the user's or of the directory, and print its rows."""
    from reports.terminal import print_answer

    values = _values(parameters)
    with Reader(warehouse or warehouse_here(), allow_files=allow_files) as reader:
        frame = reader.sql(query, **values) if query is not None else reader.named(str(named), **values)
        say_which(reader)
        print_answer(frame, form, out)


def tell_story(example_id: str, position: int | None, warehouse: Path | None) -> None:
    """Print the story of an example or a token."""
    from reports.story import print_story
    from warehouse.explain import explain

    with Reader(warehouse or warehouse_here()) as reader:
        story = explain(reader, example_id, position)
        say_which(reader)
        print_story(story)


def _values(given: list[str]) -> dict[str, str]:
    """Read `KEY=VALUE` each.

    Returns:
        key to value.

    Raises:
        ValueError: there is no equals sign, or a key twice.
    """
    pairs = [one.partition("=")[::2] for one in given]
    keys = [key for key, _ in pairs]
    if not all("=" in one for one in given) or len(set(keys)) < len(keys):
        raise ValueError(f"--param takes KEY=VALUE, each key once; got: {' '.join(given)}")
    return dict(pairs)


def say_which(reader: Reader) -> None:
    """Tell on stderr which release answers, and how old it is."""
    release = reader.release
    typer.echo(f"release {release.release_id}, {age(release.age_s())} old{busy(release.folder.parent.parent)}", err=True)


def warehouse_here() -> Path:
    """Find the warehouse of the configuration in this folder."""
    from tasks.settings import load

    if not DEFAULT_CONFIG.is_file():
        raise FileNotFoundError("there is no alphatoken.yaml in this folder; name the warehouse with --warehouse FOLDER")
    return load(DEFAULT_CONFIG).warehouse_folder


def age(seconds: float) -> str:
    """Write a time in the unit that fits it."""
    for unit, size in (("days", 86400.0), ("hours", 3600.0), ("minutes", 60.0)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} seconds"


def busy(folder: Path) -> str:
    """Say when a run is writing a newer state at this moment."""
    from warehouse.connect import current_writer

    holder = current_writer(folder)
    return f"; {holder} is writing a newer one" if holder else ""
