"""Small numbers for a web page: arrays as compressed base64 text, values in steps of equal relative size, texts that end no element."""

import base64
import json
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

RELATIVE_STEP = 0.01
"""Neighbouring codes of a value differ by this share of it: a value is off by half a percent at most."""

_NO_VALUE = -32768
_MAX_CODE = 32000


def pack(array: NDArray[Any]) -> dict[str, Any]:
    """Write an array of integers or truth values as text.

    Bytes of the same weight stand together, which compresses a third better than number after number.

    Args:
        array: [N]; bool, uint8, uint16, uint32 or int16.

    Returns:
        `kind` (bits, u1, u2, u4, i2), `length` and `data`: zlib-compressed little-endian byte planes in base64.
    """
    if array.dtype == np.bool_:
        kind, raw = "bits", np.packbits(array, bitorder="little").tobytes()
    else:
        kind = f"{array.dtype.kind}{array.dtype.itemsize}"
        assert kind in ("u1", "u2", "u4", "i2"), f"{array.dtype} has no kind"
        little = array.astype(array.dtype.newbyteorder("<"))
        raw = little.view(np.uint8).reshape(len(array), array.dtype.itemsize).T.tobytes()
    return {"kind": kind, "length": len(array), "data": base64.b64encode(zlib.compress(raw, 9)).decode("ascii")}


def smallest(numbers: NDArray[np.int64]) -> NDArray[Any]:
    """Store counts that are not negative in the narrowest type that holds them."""
    most = int(numbers.max(initial=0))
    return numbers.astype(np.uint8 if most < 1 << 8 else np.uint16 if most < 1 << 16 else np.uint32)


def quantise(values: NDArray[np.float64]) -> tuple[NDArray[np.int16], float, float]:
    """Give values codes whose steps grow with the value: near 0 of one size, further out of one share.

    Args:
        values: [N]; NaN where there is none.

    Returns:
        (codes [N], unit, step): a value is `unit * sinh(step * code)`; code −32768 says that there is none.
    """
    there = ~np.isnan(values)
    sizes = np.abs(values[there])
    positive = sizes[sizes > 0]
    unit = float(np.median(positive)) / 50 if len(positive) else 1.0
    step = max(RELATIVE_STEP, float(np.arcsinh(sizes.max(initial=0) / unit)) / _MAX_CODE)
    codes = np.full(len(values), _NO_VALUE, np.int16)
    codes[there] = np.rint(np.arcsinh(values[there] / unit) / step).astype(np.int16)
    return codes, unit, step


def script_json(content: Mapping[str, Any]) -> str:
    """Write JSON that can stand in a script element: no text in it can end the element or begin a comment.

    Returns:
        the JSON text.

    Raises:
        ValueError: a number is not finite.
    """
    text = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    # Outside texts JSON has none of these characters, so replacing them by their escapes changes no content.
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text
