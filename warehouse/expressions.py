"""Scores written by users: an SQL expression over the columns of a token, checked before it comes near the warehouse.

The safest way found to run another person's expression inside our own statement:

1. DuckDB's own parser reads it (`json_serialize_sql`, in an empty database without extensions or file access) and hands out the tree.
2. The tree is walked: everything that is not on the short lists below is refused, a subquery and a file function as much as random().
3. DuckDB prints the tree that was checked (`json_deserialize_sql`). The user's own characters go no further, nor can a comment or a
   second statement survive.
4. The printed text is bound once against an empty table of exactly these columns, which tells its type.

The caller makes it the body of a temporary scalar macro; the statement that calls the macro is a static file.
"""

import difflib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from threading import Lock
from typing import Any, NoReturn

import duckdb

FUNCTIONS = frozenset({
    "+", "-", "*", "/", "%", "**", "^",
    "abs", "ceil", "exp", "floor", "greatest", "if", "isfinite", "isnan", "least", "ln", "log10", "log2", "nullif", "pow", "round", "sign",
    "sqrt", "trunc",
})  # fmt: skip
"""Functions and operators that an expression may call: scalar, deterministic, of numbers."""

_OPERATORS = frozenset({"OPERATOR_IS_NULL", "OPERATOR_IS_NOT_NULL", "OPERATOR_NOT", "OPERATOR_COALESCE", "COMPARE_IN", "COMPARE_NOT_IN"})
_LITERALS = frozenset({"INTEGER", "NUMERIC", "BOOLEAN", "NULL_LITERAL"})
_TYPES = frozenset({"DOUBLE", "FLOAT", "REAL", "INTEGER", "INT", "BIGINT", "BOOLEAN"})
_REFUSED = {
    "SUBQUERY": "a subquery",
    "WINDOW": "a window function",
    "LAMBDA": "a lambda",
    "PARAMETER": "a parameter",
    "STAR": "a star",
    "POSITIONAL_REFERENCE": "a positional reference",
    "COLLATE": "a collation",
}
_HOW = "; a score is one number per token, such as adapt_causal - 0.5 * ref_loss"


@dataclass(frozen=True)
class Expression:
    """A checked expression.

    Attributes:
        text: as DuckDB prints the tree that was checked; safe inside a macro.
        columns: the columns it reads, in the order of the known ones.
    """

    text: str
    columns: tuple[str, ...]


_opening = Lock()


@cache
def _closed_database() -> duckdb.DuckDBPyConnection:
    return duckdb.connect(
        config={
            "enable_external_access": False,
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
            "lock_configuration": True,
            "threads": 1,
        }
    )


def connect_closed() -> duckdb.DuckDBPyConnection:
    """Connect to the database in memory that expressions are parsed and evaluated in: no files, no extensions, one thread per connection.

    Returns:
        a connection of its own, for temporary objects, which others do not see; the database is one per process, as opening one takes 12 ms.
    """
    with _opening:
        database = _closed_database()
    return database.cursor()


@cache
def check_expression(text: str, known: tuple[str, ...]) -> Expression:
    """Parse, check and print an expression.

    Args:
        text: what the user wrote.
        known: columns it may read, all of type DOUBLE.

    Returns:
        the expression.

    Raises:
        ValueError: it is not one, does more than compute a number of known columns, or reads none.
    """
    with connect_closed() as con:
        (serialized,) = con.execute("SELECT json_serialize_sql('SELECT ' || $text)", {"text": text}).fetchall()[0]
        parsed = json.loads(serialized)
        columns = set()
        for node in _column_references(text, _single_expression(text, parsed)):
            name = _column(text, node["column_names"], known)
            node["column_names"] = [name]  # in its own spelling: LOSS and loss are one expression
            columns.add(name)
        if not columns:
            _refuse(text, "it reads no column", f"expected some of {', '.join(known[:10])}, or one of them behind zscore_ or rank_")
        (printed,) = con.execute("SELECT json_deserialize_sql($tree::JSON)", {"tree": json.dumps(parsed)}).fetchall()[0]
        body = str(printed).removeprefix("SELECT ")
        _check_type(con, text, body, known)
    return Expression(body, tuple(name for name in known if name in columns))


def _single_expression(text: str, parsed: Mapping[str, Any]) -> Any:
    """Return the tree of the one expression, after comparing everything around it with that of a bare SELECT.

    Raises:
        ValueError: it is not SQL, or more than one expression.
    """
    if parsed["error"]:
        _refuse(text, str(parsed["error_message"]), "expected one SQL expression")
    statements = parsed["statements"]
    if len(statements) != 1 or statements[0]["node"]["type"] != "SELECT_NODE":
        _refuse(text, "it is more than one statement", "expected one SQL expression")
    node = statements[0]["node"]
    if len(node["select_list"]) != 1:
        _refuse(text, f"it is {len(node['select_list'])} expressions", "expected one")
    empty = node["from_table"]["type"] == "EMPTY" and node["from_table"]["sample"] is None and not node["cte_map"]["map"]
    clauses = ("modifiers", "where_clause", "group_expressions", "group_sets", "having", "sample", "qualify")
    if not empty or any(node[clause] for clause in clauses) or node["aggregate_handling"] != "STANDARD_HANDLING":
        _refuse(text, "it has a clause after the expression", "expected no FROM, WHERE, GROUP BY, ORDER BY, LIMIT or the like")
    return node["select_list"][0]


def _column_references(text: str, node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Walk a tree.

    Yields:
        every node that reads a column.

    Raises:
        ValueError: a node is none of those that compute numbers of columns.
    """
    kind = node["class"]
    if node["alias"]:
        _refuse(text, f"it names something {node['alias']!r}", "expected no name")
    if kind == "COLUMN_REF":
        yield node
    elif kind == "CONSTANT":
        if node["literal"]["kind"] not in _LITERALS:
            _refuse(text, f"the constant {node['literal']['text']!r} is no number", "expected numbers, true, false or NULL")
    else:
        for child in _children(text, kind, node):
            yield from _column_references(text, child)


def _children(text: str, kind: str, node: dict[str, Any]) -> list[dict[str, Any]]:
    """Check what a node does.

    Returns:
        what it does it to.

    Raises:
        ValueError: it is not allowed.
    """
    if kind == "FUNCTION":
        _check_function(text, node)
        return [argument["expression"] for argument in node["arguments"]]
    if kind == "OPERATOR" and node["type"] in _OPERATORS:
        return list(node["children"])
    if kind == "CAST" and not node["try_cast"] and _type_name(node) in _TYPES:
        return [node["child"]]
    if kind == "CASE":
        checks = [child for check in node["case_checks"] for child in (check["when_expr"], check["then_expr"])]
        return [*checks, node["else_expr"]]
    if kind == "COMPARISON":
        return [node["left"], node["right"]]
    if kind == "CONJUNCTION":
        return list(node["children"])
    if kind == "BETWEEN":
        return [node["input"], node["lower"], node["upper"]]
    cast = "TRY_CAST" if kind == "CAST" and node["try_cast"] else "a cast"
    what = f"{cast} to {_type_name(node)}" if kind == "CAST" else _REFUSED.get(kind, f"the operation {node['type']}")
    return _refuse(text, f"{what} is not allowed", "expected arithmetic on columns of the same token")


def _check_function(text: str, node: Mapping[str, Any]) -> None:
    """Refuse a function that is not on the list, or that is called as an aggregate.

    Raises:
        ValueError: it is.
    """
    name = str(node["function_name"]).lower()
    if name not in FUNCTIONS or node["schema"] or node["catalog"]:
        words = sorted(f for f in FUNCTIONS if f.isidentifier())
        nearest = difflib.get_close_matches(name, words, n=1)
        hint = f"; did you mean {nearest[0]}?" if nearest else ""
        _refuse(text, f"the function {name} is not allowed", f"expected operators and {', '.join(words)}{hint}")
    plain = not (node["filter"] or node["order_bys"]["orders"] or node["distinct"] or node["export_state"])
    if not plain or any(argument["name"] for argument in node["arguments"]):
        _refuse(text, f"{name} is called with a clause of aggregates or a named argument", "expected plain arguments")


def _type_name(node: Mapping[str, Any]) -> str:
    kind = node["type_expr"]
    return str(kind["type_name"]).upper() if not (kind["children"] or kind["schema"] or kind["catalog"]) else "another type"


def _column(text: str, names: Sequence[str], known: Sequence[str]) -> str:
    """Return the name of a known column.

    Raises:
        ValueError: it is unknown.
    """
    name = ".".join(names).lower()
    if name not in known:
        nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]
        _refuse(text, f"there is no column {name!r}", f"did you mean {nearest!r}?")
    return name


def _check_type(con: duckdb.DuckDBPyConnection, text: str, body: str, known: Sequence[str]) -> None:
    """Bind the checked expression on an empty table of exactly the known columns.

    Raises:
        ValueError: it does not fit together, or gives no number.
    """
    try:
        kind = str(con.from_arrow(_empty(known)).project(body).types[0])
    except duckdb.Error as error:
        _refuse(text, str(error).splitlines()[0], "expected an expression of numbers")
    if not (kind in {*_TYPES, "TINYINT", "SMALLINT", "HUGEINT", '"NULL"', "NULL"} or kind.startswith("DECIMAL")):
        _refuse(text, f"it gives {kind}", "expected a number")


def _empty(known: Sequence[str]) -> Any:
    import pyarrow as pa

    return pa.table({name: pa.array([], pa.float64()) for name in known})


def _refuse(text: str, fault: str, expected: str) -> NoReturn:
    raise ValueError(f"expression: got {text!r}: {fault}; {expected}{_HOW}")
