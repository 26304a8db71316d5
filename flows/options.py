"""Arguments and options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

DEFAULT_CONFIG = Path("alphatoken.yaml")

Config = Annotated[Path, typer.Argument(help="The configuration file.", show_default=True)]
Set = Annotated[
    list[str] | None, typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Override a setting; may be given several times.")
]
Folder = Annotated[Path | None, typer.Option(help="The warehouse's folder; that of alphatoken.yaml when absent.")]
