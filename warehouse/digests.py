"""Content digests: the one way anything in the warehouse gets an identity."""

import hashlib
import json
from typing import Any


def digest(*parts: Any) -> str:
    """Digest JSON-able parts, order kept, keys of mappings sorted.

    Returns:
        32 hexadecimal digits (BLAKE2b, 16 bytes) of the canonical JSON text.
    """
    return _blake(json.dumps(parts, sort_keys=True, separators=(",", ":"), ensure_ascii=False))


def example_identity(content: str) -> str:
    """Digest the content of an example: `digest("example", content)`, in a tenth of its time.

    Args:
        content: canonical JSON, in which no control character is left to escape.

    Returns:
        the identity.
    """
    escaped = content.replace("\\", "\\\\").replace('"', '\\"')
    return _blake(f'["example","{escaped}"]')


def _blake(text: str) -> str:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
