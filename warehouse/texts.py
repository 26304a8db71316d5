"""Plain text from files and data sets, such as a retention text."""

import itertools
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from warehouse.content import BadRow
from warehouse.layouts import Normaliser
from warehouse.readers import READERS, read_rows, read_txt

if TYPE_CHECKING:
    from warehouse.ingest import SourceSettings


def read_texts(settings: "SourceSettings", base: Path) -> list[str]:
    r"""Read plain text, such as a retention text, in order of first appearance, stripped, without empty ones and duplicates.

    A .txt file is split at lines that consist of <|endoftext|>, or at blank lines if there are none. Rows of other files give
    their `text` column, else prompt and response joined by a newline. `limit` and `offset` count texts as they are read.

    Args:
        settings: where the texts are.
        base: folder that relative paths start from.

    Returns:
        Distinct texts.

    Raises:
        ValueError: a row has neither a text nor a prompt and response, or no text is left.
    """
    normalise = Normaliser(settings.columns)
    texts: dict[str, None] = {}
    stop = None if settings.limit is None else settings.offset + settings.limit
    rows = read_rows(settings, base, {**READERS, ".txt": read_txt})
    for file, (line, row, _) in itertools.islice(rows, settings.offset, stop):
        try:
            if isinstance(row, BadRow):
                raise row
            text = _text_of(row, normalise)
            text.encode()
        except (BadRow, UnicodeEncodeError) as error:
            raise ValueError(
                f"{file}:{line}: not a text ({error}); expected a column `text`, or `prompt` and `response`; correct the row or remove it"
            ) from None
        texts.setdefault(text.strip())
    texts.pop("", None)
    if not texts:
        raise ValueError(f"{settings.path}: no text in it; expected at least one that is not blank; check the path")
    return list(texts)


def _text_of(row: Any, normalise: Normaliser) -> str:
    if not isinstance(row, dict):
        raise BadRow("not an object")
    if "text" in row:
        if not isinstance(row["text"], str | None):
            raise BadRow("wrong type", "text is not text")
        return row["text"] or ""
    content = json.loads(normalise(row)[0])
    if "response" not in content:
        raise BadRow("wrong type", "a conversation" if "messages" in content else "a pair of responses")
    return f"{content['prompt']}\n{content['response']}"
