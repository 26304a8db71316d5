"""The report: one HTML file that shows a release to people; nothing is loaded from a network, nothing else is needed."""

import base64
import hashlib
import re
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

from reports.figures import figures
from reports.packing import RELATIVE_STEP, script_json
from reports.sample import MAX_PROMPT_TOKENS, sample
from warehouse.read import Reader

MAX_BYTES = 5_000_000
"""A report is smaller than this; where the sample asked for does not fit, fewer examples are embedded."""

_SCRIPTS = ("dom", "data", "words", "tooltip", "tokens", "cards", "examples", "charts", "figures", "main")
"""Files of `assets`, in the order in which they stand in the page."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """A report that was written.

    Attributes:
        num_bytes: size of the file.
        num_examples: embedded examples.
        num_examples_valued: all examples with values.
    """

    num_bytes: int
    num_examples: int
    num_examples_valued: int


def write_report(reader: Reader, out: Path, *, policy: str = "default", num_examples: int = 2000) -> Report:
    """Write the report on a release.

    Args:
        reader: the release.
        out: the file.
        policy: whose mask the page shows at first; another one where it has none.
        num_examples: how many examples are embedded at most. Which ones follows from their ids.

    Returns:
        what was written.

    Raises:
        ValueError: there are no values to show, or `num_examples` is below 1.
    """
    if num_examples < 1:
        raise ValueError(f"a report shows at least 1 example, got {num_examples}")
    content = figures(reader)
    head, masks = content["head"], reader.frame("report/masks")
    if not head["num_examples"]:
        raise ValueError(f"the release {reader.release.release_id} has no values to show; run `alphatoken value` first")
    columns = [column["name"] for column in content["columns"]]
    wanted, text = min(num_examples, head["num_examples"]), ""
    while not text or (len(text.encode()) >= MAX_BYTES and wanted > 1):
        if text:
            wanted = max(1, min(wanted - 1, int(wanted * 0.97 * MAX_BYTES / len(text.encode()))))
        embedded = {"num_examples": wanted, "asked": num_examples, "max_prompt_tokens": MAX_PROMPT_TOKENS, "relative_step": RELATIVE_STEP}
        text = page(content | {"policy": policy, "embedded": embedded, "sample": sample(reader, wanted, columns, masks)})
    out.write_text(text, encoding="utf-8")
    return Report(num_bytes=len(text.encode()), num_examples=wanted, num_examples_valued=head["num_examples"])


def page(content: dict[str, Any]) -> str:
    """Compose the page from the files in `reports/assets` and its data.

    The page's own policy forbids it to load anything and to run any script but this one.

    Args:
        content: what the scripts read.

    Returns:
        HTML.
    """
    style = _asset("report.css")
    script = '"use strict";\n(() => {\n' + "\n".join(_asset(f"{name}.js") for name in _SCRIPTS) + "})();\n"
    assert "</script" not in script, "a script of ours would end its element"
    assert "</style" not in style, "the style of ours would end its element"
    parts = {
        "TITLE": escape(f"AlphaToken report: {content['head']['warehouse_name']}, release {content['head']['release_id']}"),
        "POLICY": f"default-src 'none'; script-src {_hash(script)}; style-src {_hash(style)}; img-src data:; base-uri 'none'; form-action 'none'",
        "STYLE": style,
        "DATA": script_json(content),
        "SCRIPT": script,
    }
    return re.sub(r"\{\{([A-Z]+)\}\}", lambda hit: parts[hit[1]], _asset("report.html"))


def _asset(name: str) -> str:
    return (files("reports") / "assets" / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """Name an inline script or style as a content security policy does."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode('ascii')}'"
