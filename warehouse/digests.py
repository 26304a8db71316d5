"""Content digests: the one way anything in the warehouse gets an identity."""

import hashlib
import json
from typing import Any


def digest(*parts: Any) -> str:
    """Digest JSON-able parts, order kept, keys of mappings sorted.

    Returns:
        32 hexadecimal digits (BLAKE2b, 16 bytes) of the canonical JSON text.
    """
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
