"""The documents tell the truth: generated pages equal the code, and the README names every view and command."""

from pathlib import Path

from docs.generate import configuration, schema
from warehouse.migrate import columns

ROOT = Path(__file__).parent.parent


def test_generated_pages_are_up_to_date():
    assert (ROOT / "docs" / "configuration.md").read_text() == configuration(), "run: python -m docs.generate"
    assert (ROOT / "docs" / "schema.md").read_text() == schema(), "run: python -m docs.generate"


def test_every_setting_has_a_meaning():
    rows = [line for line in configuration().splitlines() if line.startswith("| `")]
    assert len(rows) > 50
    assert [line for line in rows if line.rstrip("|").rstrip().endswith("|")] == []


def test_readme_names_every_view():
    readme = (ROOT / "README.md").read_text()
    assert [view for view in columns() if f"`{view}`" not in readme] == []
