"""What bench/warehouse.py compares with: plain DuckDB on one table of lists, or two, without views, lineage, receipts and checks.

Each statement gives the result of ours on the synthetic data, in the fastest plain form found; it may use what it knows of them: values
without ties or NULLs, one end-of-turn token at the end of each response.
"""

from pathlib import Path

import duckdb
import polars as pl
import pyarrow as pa

from bench.warehouse_data import Shard

_COMPONENTS = ("adapt_direct", "adapt_causal", "stab_direct", "stab_causal")
_SIGNALS = ("loss", "ref_loss", "entropy")


class Raw:
    """A DuckDB file with the table `tokens`: everything of a sequence in one row."""

    def __init__(self, folder: Path, memory_limit: str) -> None:
        """Open it, or make it."""
        self.con = duckdb.connect(config={"memory_limit": memory_limit, "temp_directory": str(folder / "temp")})
        self.con.execute(f"ATTACH '{folder / 'raw.duckdb'}' AS raw (ROW_GROUP_SIZE 8192)")
        self.con.execute("USE raw")
        self.con.execute("SET enable_progress_bar = false")
        lists = ", ".join(f"{name} FLOAT[]" for name in _COMPONENTS + _SIGNALS)
        self.con.execute(
            f"CREATE TABLE IF NOT EXISTS tokens (sequence_id UUID, source VARCHAR, token_ids INTEGER[], response_positions INTEGER[], {lists})"
        )

    def __enter__(self) -> "Raw":
        return self

    def __exit__(self, *_: object) -> None:
        self.con.close()

    def insert(self, incoming: pa.Table) -> None:
        """Insert the rows of a shard in one transaction."""
        self.con.register("incoming", incoming)
        self.con.execute("INSERT INTO tokens BY NAME SELECT * FROM incoming").fetchall()
        self.con.unregister("incoming")

    def run(self, statement: str) -> None:
        """Execute a statement."""
        self.con.execute(statement).fetchall()


def raw_rows(shard: Shard) -> pa.Table:
    """Put the columns of a shard side by side."""
    columns = {"sequence_id": shard.values.column("sequence_id"), "source": pa.array(shard.examples["source"].to_list())}
    columns |= {name: shard.sequences.column(name) for name in ("token_ids", "response_positions")}
    columns |= {name: shard.values.column(name) for name in (*_COMPONENTS, "loss", "entropy")}
    return pa.table(columns | {"ref_loss": shard.reference.column("loss")})


_LONG = f"SELECT {', '.join(f'unnest({name}) AS {name}' for name in _COMPONENTS)} FROM tokens"
_STATISTICS = f"SELECT {', '.join(f'avg({c}) AS {c}_mean, stddev_pop({c}) AS {c}_deviation' for c in _COMPONENTS)} FROM ({_LONG})"
_Z_SUM = " + ".join(f"({c}[i] - {c}_mean) / {c}_deviation" for c in _COMPONENTS)
_Z_SCORES = f"SELECT sequence_id, list_transform(adapt_direct[:-2], lambda x, i: {_Z_SUM}) AS s FROM tokens, ({_STATISTICS})"
_MASK = "CREATE OR REPLACE TABLE mask AS "
_TOP = "list_sort(s, 'DESC')[ceil(0.7 * len(s))::BIGINT]"


def _kept(scores: str) -> str:
    """Keep the highest 70% of each response, and the end of turn."""
    return f"{_MASK} SELECT sequence_id, list_transform(s, lambda x: x >= t) || [true] AS keep FROM (SELECT *, {_TOP} AS t FROM ({scores}))"


_POOLED = f"SELECT sequence_id, list_transform(s, lambda x, i: list_avg(s[greatest(i - 4, 1):i + 4])) AS s FROM ({_Z_SCORES})"
_RANKS = ", ".join(f"rank() OVER (ORDER BY {c}) AS {c}" for c in _COMPONENTS)
_NUMBERED = f"SELECT sequence_id, unnest(range(len(adapt_direct))) AS i, {_LONG.removeprefix('SELECT ')}"
_RANK_SCORES = f"SELECT sequence_id, list({' + '.join(_COMPONENTS)} ORDER BY i)[:-2] AS s FROM (SELECT sequence_id, i, {_RANKS} FROM ({_NUMBERED})) GROUP BY sequence_id"

MASKS = {
    "default": _kept(_Z_SCORES),
    "random": _kept("SELECT sequence_id, list_transform(response_positions[:-2], lambda p: hash(sequence_id, p)) AS s FROM tokens"),
    "expression": _kept(
        f"SELECT sequence_id, list_transform(adapt_direct[:-2], lambda x, i: {' + '.join(f'{c}[i]::DOUBLE' for c in _COMPONENTS)} - 0.5 * ref_loss[i]) AS s FROM tokens"
    ),
    "window 9": _kept(_POOLED),
    "scope data set": f"{_MASK} WITH scored AS MATERIALIZED ({_Z_SCORES}), "
    "threshold AS (SELECT quantile_disc(x, -0.7) AS t FROM (SELECT unnest(s) AS x FROM scored)) "
    "SELECT sequence_id, list_transform(s, lambda x: x >= t) || [true] AS keep FROM scored, threshold",
    "soft ranks": f"{_MASK} SELECT *, list_transform(list_grade_up(list_grade_up(s)), lambda place, i: CASE WHEN keep[i] THEN place / len(s) ELSE 0 END)::FLOAT[] || [1] AS weight "
    f"FROM (SELECT *, list_transform(s, lambda x: x >= t) || [true] AS keep FROM (SELECT *, {_TOP} AS t FROM ({_Z_SCORES})))",
    "ranks over the data set": _kept(_RANK_SCORES),
}
"""By the names of `bench.warehouse.POLICIES`."""

CONTENTS = "CREATE OR REPLACE TABLE contents AS SELECT sequence_id, token_ids, response_positions FROM tokens"


def _top_tokens(tables: str) -> str:
    response_ids = "token_ids[response_positions[1] + 1:response_positions[-1] + 1]"
    return (
        f"SELECT token_id, count(*), avg(value), stddev_pop(value) FROM (SELECT unnest({response_ids}) AS token_id, unnest(adapt_direct) AS value FROM {tables}) "
        "GROUP BY token_id HAVING count(*) >= 5 ORDER BY 3 DESC LIMIT 20"
    )


QUERIES = {
    "kept_by_source": "SELECT source, count(*), sum(len(keep)), sum(len(list_filter(keep, lambda k: k))) FROM mask JOIN tokens USING (sequence_id) GROUP BY source",
    "value_by_source": f"SELECT source, count(*), avg((adapt_direct > 0)::INTEGER), {', '.join(f'avg({c})' for c in _COMPONENTS + _SIGNALS)} FROM (SELECT source, "
    f"{', '.join(f'unnest({c}) AS {c}' for c in _COMPONENTS + _SIGNALS)} FROM tokens) GROUP BY source",
    "top_tokens": _top_tokens("contents JOIN (SELECT sequence_id, adapt_direct FROM tokens) USING (sequence_id)"),
}
"""By the names of the product's queries. `top_tokens` reads ids and values, which no store keeps in one table whose tokens may be valued again:
its counterpart reads them from two."""

WIDE_QUERIES = {"top_tokens": _top_tokens("tokens")}
"""The same from one table of everything, to be told beside it."""


def ingest(raw: Raw, path: Path) -> None:
    """Read JSON lines into a table of distinct examples: canonical content, its digest, the line of the first."""
    raw.run(
        "CREATE OR REPLACE TABLE examples AS SELECT sha256(content) AS id, any_value(content) AS content, min(source) AS source, "
        "count(*) AS multiplicity, min(line) AS line FROM (SELECT to_json({'prompt': prompt, 'response': response})::VARCHAR AS content, source, "
        f"row_number() OVER () AS line FROM read_json('{path}')) GROUP BY id ORDER BY id"
    )


def ordered(raw: Raw, order: pl.DataFrame, batch_size: int) -> int:
    """Read ids and flags in an order (sequence_id, place), batch by batch; returns the number of rows."""
    raw.con.register("ordered", order)
    query = "SELECT token_ids, keep FROM ordered JOIN tokens USING (sequence_id) JOIN mask USING (sequence_id) ORDER BY place"
    return sum(batch.num_rows for batch in raw.con.sql(query).to_arrow_reader(batch_size))
