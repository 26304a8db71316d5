"""Content digests: the one way anything in the warehouse gets an identity."""

import hashlib
import json
from json.encoder import encode_basestring
from typing import Any


def digest(*parts: Any) -> str:
    """Digest JSON-able parts, order kept, keys of mappings sorted.

    Returns:
        32 hexadecimal digits (BLAKE2b, 16 bytes) of the canonical JSON text.
    """
    return _blake(json.dumps(parts, sort_keys=True, separators=(",", ":"), ensure_ascii=False))


def example_identity(content: str) -> str:
    """Digest the content of an example: `digest("example", content)`, in a third of its time."""
    return _blake(f'["example",{encode_basestring(content)}]')


def _blake(text: str) -> str:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
