"""Rules of warehouse/expressions.py: what a user's score may be, and that nothing else gets past the check."""

from concurrent.futures import ThreadPoolExecutor

import duckdb
import pytest

from warehouse.expressions import FUNCTIONS, check_expression, connect_closed
from warehouse.policy_settings import KNOWN, PolicySettings


@pytest.mark.parametrize(
    ("text", "printed", "columns"),
    [
        ("adapt_causal - 0.5 * ref_loss", "(adapt_causal - (0.5 * ref_loss))", ("adapt_causal", "ref_loss")),
        ("LOSS -- a comment", "loss", ("loss",)),
        ('/* */ "Loss" + 1', "(loss + 1)", ("loss",)),
        ("zscore_loss + rank_el2n", "(zscore_loss + rank_el2n)", ("zscore_loss", "rank_el2n")),
        ("loss > 1 AND entropy < 2 OR NOT loss IN (1, 2)", None, ("loss", "entropy")),
        ("CASE WHEN loss BETWEEN 0 AND 1 THEN ln(entropy) ELSE NULL END", None, ("loss", "entropy")),
        ("if(loss IS NULL, 0, pow(loss, 2)) ^ 2 % 3", None, ("loss",)),
        ("coalesce(margin, 0)::DOUBLE / nullif(grad_norm, 0)", None, ("margin", "grad_norm")),
        ("loss::INTEGER", "CAST(loss AS INTEGER)", ("loss",)),
    ],
)
def test_arithmetic_on_the_columns_of_a_token_is_allowed_and_printed_anew(text, printed, columns):
    checked = check_expression(text, KNOWN)
    assert checked.columns == columns
    assert printed is None or checked.text == printed
    assert check_expression(checked.text, KNOWN) == checked


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "SELECT clause without selection list; expected one SQL expression"),
        ("loss +", "syntax error"),
        ("loss; DROP TABLE record.meta", "Only SELECT statements"),
        ("loss; SELECT 1", "it is more than one statement"),
        ("loss, entropy", "it is 2 expressions; expected one"),
        ("loss FROM record.signal_values", "it has a clause after the expression"),
        ("loss WHERE true", "it has a clause after the expression"),
        ("loss ORDER BY 1", "it has a clause after the expression"),
        ("loss LIMIT 1", "it has a clause after the expression"),
        ("loss UNION SELECT 1", "it is more than one statement"),
        ("DISTINCT loss", "it has a clause after the expression"),
        ("loss AS x", "it names something 'x'; expected no name"),
        ("(SELECT 1) + loss", "a subquery is not allowed"),
        ("loss IN (SELECT 1)", "a subquery is not allowed"),
        ("EXISTS (SELECT 1)", "a subquery is not allowed"),
        ("sum(loss) OVER ()", "a window function is not allowed"),
        ("sum(loss)", "the function sum is not allowed"),
        ("random() * loss", "the function random is not allowed; expected operators and abs, "),
        ("epoch(now()) + loss", "the function epoch is not allowed"),
        ("read_text('/etc/hostname')", "the function read_text is not allowed"),
        ("getenv('HOME')", "the function getenv is not allowed"),
        ("nextval('s')", "the function nextval is not allowed"),
        ("flor(loss)", "did you mean floor?"),
        ("main.abs(loss)", "the function abs is not allowed"),
        ("abs(DISTINCT loss)", "abs is called with a clause of aggregates"),
        ("abs(x := loss)", "it names something 'x'|named argument"),
        ("list_transform([loss], lambda x: x)[1]", "the operation ARRAY_EXTRACT is not allowed"),
        ("loss[1]", "the operation ARRAY_EXTRACT is not allowed"),
        ("loss.real", "there is no column 'loss.real'; did you mean"),
        ("{'a': loss}", "the function .* is not allowed"),
        ("$threshold + loss", "a parameter is not allowed"),
        ("*", "a star is not allowed"),
        ("COLUMNS('loss')", "a star is not allowed"),
        ("#1", "a positional reference is not allowed"),
        ("loss COLLATE nocase", "a collation is not allowed"),
        ("TRY(loss)", "the operation OPERATOR_TRY is not allowed"),
        ("TRY_CAST(loss AS DOUBLE)", "TRY_CAST to DOUBLE is not allowed"),
        ("loss::VARCHAR", "a cast to VARCHAR is not allowed"),
        ("loss::DECIMAL(10, 2)", "a cast to another type is not allowed"),
        ("loss::main.mood", "a cast to another type is not allowed"),
        ("DATE '2026-01-01'", "a cast to DATE is not allowed"),
        ("'a' || loss", r"the function \|\| is not allowed"),
        ("CASE WHEN loss > 0 THEN 'a' END", "the constant 'a' is no number"),
        ("1 + 1", "it reads no column; expected some of adapt_direct, "),
        ("adapt_dirct + loss", "there is no column 'adapt_dirct'; did you mean 'adapt_direct'?"),
        ("zscore_los", "did you mean 'zscore_loss'?"),
        ("rank_loss + rowid", "there is no column 'rowid'"),
        ("pow(loss)", "No function matches"),
    ],
)
def test_anything_else_is_refused_with_what_came_and_what_was_expected(text, message):
    with pytest.raises(ValueError, match=message) as refused:
        PolicySettings(expression=text)
    assert str(refused.value).startswith(f"expression: got {text!r}: ")
    assert str(refused.value).endswith("a score is one number per token, such as adapt_causal - 0.5 * ref_loss")


def test_allowed_functions_are_deterministic_and_scalar():
    import duckdb

    with duckdb.connect() as con:
        rows = con.execute("SELECT DISTINCT function_name, function_type, stability FROM duckdb_functions()").fetchall()
    kinds = {}
    for name, kind, stability in rows:
        kinds.setdefault(name, set()).add((kind, stability))
    syntax = {"if", "nullif"}  # rewritten by the parser or the binder, or macros over CASE
    for name in FUNCTIONS - syntax:
        assert {kind for kind, _ in kinds[name]} == {"scalar"}, name
        assert {stability for _, stability in kinds[name]} == {"CONSISTENT"}, name


def test_what_is_evaluated_at_one_time_does_not_mix():
    def evaluate(number):
        with connect_closed() as con:
            con.execute(f"CREATE TEMP MACRO mask_score(x) AS x + {number}")
            con.execute("CREATE TEMP TABLE token AS SELECT 1000 AS x")
            return con.execute("SELECT mask_score(x) FROM token").fetchall()

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(evaluate, range(64))) == [[(1000 + number,)] for number in range(64)]


@pytest.mark.parametrize(
    "query", ["SELECT * FROM read_text('/etc/hostname')", "COPY (SELECT 1) TO 'out.csv'", "LOAD httpfs", "SET threads = 9"]
)
def test_the_database_of_expressions_reaches_nothing(query):
    with connect_closed() as con, pytest.raises(duckdb.Error, match=r"disabled|locked"):
        con.execute(query)
