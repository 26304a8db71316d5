"""Identities of 32 hexadecimal digits for rows written by hand, with short names to read them by, in the order of the names."""

import re

LENGTH = 16
"""Bytes of an identity: the most that a name may have."""


def beginning(name):
    """The digits by which identities begin whose names begin so: two for each letter."""
    return name.encode("ascii").hex()


def full(name):
    """The identity that stands for a name: the name's bytes, filled up with zeros."""
    assert 0 < len(name) <= LENGTH, f"no name for an identity: {name!r}"
    return beginning(name).ljust(2 * LENGTH, "0")


def filled(sql):
    """A statement with the identities of the names that it has as 'id:name', and with the beginnings of those that it has as 'id:name%'."""
    sql = re.sub(r"'id:([^'%]+)'", lambda found: f"'{full(found[1])}'", sql)
    return re.sub(r"'id:([^'%]+)%'", lambda found: f"'{beginning(found[1])}%'", sql)


def short(value):
    """A value with names in place of the identities in it: in texts, and in lists, tuples, sets and dicts of whatever depth."""
    if isinstance(value, str):
        return re.sub(r"(?<![0-9a-f])[0-9a-f]{32}(?![0-9a-f])", lambda found: _name(found[0]), value)
    if isinstance(value, dict):
        return {short(key): short(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return type(value)(short(item) for item in value)
    return value


def _name(identity):
    """The name of an identity; one that stands for no name stays as it is."""
    name = bytes.fromhex(identity).rstrip(b"\0").decode("latin-1")
    return name if name and name.isascii() and name.isprintable() else identity
