"""Laws of reports/packing.py: what is packed comes back, values within their stated share and in their order, and no text ends the element."""

import base64
import json
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from reports.packing import RELATIVE_STEP, pack, quantise, script_json, smallest

KINDS = {"u1": np.uint8, "u2": np.uint16, "u4": np.uint32, "i2": np.int16}


def unpack(packed):
    """Read as the page reads, plane by plane."""
    raw = np.frombuffer(zlib.decompress(base64.b64decode(packed["data"])), np.uint8)
    if packed["kind"] == "bits":
        return np.unpackbits(raw, count=packed["length"], bitorder="little").astype(bool)
    kind = np.dtype(KINDS[packed["kind"]]).newbyteorder("<")
    return raw.reshape(kind.itemsize, packed["length"]).T.copy().view(kind).reshape(-1)


@pytest.mark.parametrize("kind", [*KINDS.values(), np.bool_])
@settings(max_examples=20)
@given(data=st.data())
def test_what_is_packed_comes_back(kind, data):
    array = data.draw(arrays(kind, st.integers(0, 40)))
    packed = pack(array)
    assert packed["length"] == len(array)
    assert np.array_equal(unpack(packed), array)


@pytest.mark.parametrize(("most", "kind"), [(0, "u1"), (255, "u1"), (256, "u2"), (65535, "u2"), (65536, "u4")])
def test_counts_take_the_narrowest_type_that_holds_them(most, kind):
    numbers = np.array([0, most])
    assert pack(smallest(numbers))["kind"] == kind
    assert np.array_equal(unpack(pack(smallest(numbers))), numbers)
    assert len(smallest(np.zeros(0, np.int64))) == 0


FLOATS = st.floats(-1e9, 1e9, width=32, allow_subnormal=False)


@settings(max_examples=50)
@given(st.lists(FLOATS | st.just(float("nan")), max_size=60))
def test_values_come_back_within_their_share_in_their_order_and_with_their_sign(values):
    values = np.array(values, np.float64)
    codes, unit, step = quantise(values)
    there = ~np.isnan(values)
    assert np.array_equal(codes != -32768, there)
    read, values = unit * np.sinh(step * codes[there].astype(np.float64)), values[there]
    # Half a step: of the value's own size far from 0, of the unit (a fiftieth of a median size) near it.
    assert np.all(np.abs(read - values) <= 0.51 * step * np.hypot(values, unit) + 1e-12)
    assert np.all(np.diff(read[np.argsort(values)]) >= 0)
    assert not np.any(read * values < 0)


@given(st.lists(st.floats(0.0625, 128, width=32), min_size=1, max_size=60))
def test_ordinary_values_are_off_by_half_the_relative_step_at_most(values):
    values = np.array(values, np.float64)
    codes, unit, step = quantise(values)
    assert step == RELATIVE_STEP
    large = values > 10 * unit
    assert np.all(np.abs(unit * np.sinh(step * codes[large]) / values[large] - 1) < 0.51 * RELATIVE_STEP)


def test_no_text_ends_the_element_and_every_text_comes_back():
    content = {"</script>": ["<!--", "]]>", "&lt;", "\u2028", '"\\', "\u0000", "ü", None, 0.5, True]}
    text = script_json(content)
    assert not set(text) & set("<>&\u2028\u2029")
    assert json.loads(text) == content
    with pytest.raises(ValueError, match=r"JSON|float"):
        script_json({"a": float("nan")})
