"""The figures of a report: head, columns with their distributions, masks, trainings, drift. All are over all values, not a sample."""

from pathlib import PurePath
from typing import Any

import polars as pl

from warehouse.migrate import columns as documented
from warehouse.read import Reader

NUM_BINS = 41
"""Bins of a histogram; odd, so that one bin is around 0."""

_PAIR_MEANS = ("accuracy", "mean_margin", "mean_weight", "mean_extra_tokens", "mean_log_ratio_chosen", "mean_log_ratio_rejected")
_MOMENTS = ("pearson", "spearman", "mean_change", "mean_size")
_KEPT_BY = ("kept_by_source", "kept_by_position_decile", "kept_by_token_class")


def figures(reader: Reader) -> dict[str, Any]:
    """Gather what a report shows beside its examples.

    Args:
        reader: the release.

    Returns:
        `head`, `columns` (each with its meaning, range and moments), `histograms` (without a mask), `pairs` (margin and weight likewise, and
        means by source; None where the examples are single responses), `policies` (each with its kept shares and histograms), `trainings`,
        `curves` and `drift` (None where there is no earlier scoring).
    """
    known = documented()["token_values"]["columns"]
    columns = [
        _steady(row, "mean", "deviation") | {key: known[row["name"]][key] for key in ("meaning", "unit")}
        for row in reader.frame("report/columns").to_dicts()
    ]
    policies = [_policy(reader, columns, row) for row in reader.frame("report/masks").iter_rows(named=True)]
    unmasked = policies[0]["histograms"] if policies else _histograms(reader, columns, None)
    return {
        "head": _head(reader),
        "columns": columns,
        "histograms": {name: bins | {"num_kept": [0] * NUM_BINS} for name, bins in unmasked.items()},
        "pairs": _pairs(reader),
        "policies": policies,
        "trainings": reader.frame("report/trainings").to_dicts(),
        "curves": reader.frame("report/curves").to_dict(as_series=False),
        "drift": _drift(reader),
    }


def _head(reader: Reader) -> dict[str, Any]:
    row = reader.frame("report/header").row(0, named=True)
    release = reader.release
    folder = release.folder.parent.parent.resolve()
    # A report is sent to others: of a model's folder on this machine its name is told, of a hub name all.
    models = {
        key: PurePath(row[key]).name if row[key] and PurePath(row[key]).is_absolute() else row[key]
        for key in ("reference_model", "scoring_model")
    }
    return (
        row
        | models
        | {
            "warehouse_name": folder.name if folder.name != "warehouse" else f"{folder.parent.name}/{folder.name}",
            "release_id": release.release_id,
            "released_at": f"{release.created_at:%Y-%m-%d %H:%M}",
        }
    )


def _policy(reader: Reader, columns: list[dict[str, Any]], mask: dict[str, Any]) -> dict[str, Any]:
    kept = {name: reader.named(name, policy=mask["policy"]).to_dicts() for name in _KEPT_BY}
    kept["kept_by_branch"] = reader.frame("report/kept_by_branch", mask_id=mask["mask_id"]).to_dicts()
    return mask | kept | {"histograms": _histograms(reader, columns, mask["mask_id"])}


def _histograms(reader: Reader, columns: list[dict[str, Any]], mask_id: str | None) -> dict[str, Any]:
    """Count the tokens in each bin of each column, and the kept ones."""
    return _bins(columns, reader.frame("report/histogram", **_bounds(columns), mask_id=mask_id))


def _pairs(reader: Reader) -> dict[str, Any] | None:
    """Tell how the pairs stand at the scoring model: a pair of a large margin has a weight near 0, and so have its values."""
    known = documented()["pairs"]["columns"]
    columns = [
        _steady(row, "mean", "deviation") | {"meaning": known[row["name"].removeprefix("pair_")]["meaning"], "unit": None}
        for row in reader.frame("report/pair_columns").to_dicts()
    ]
    if not columns:
        return None
    by_source = [_steady(row, *_PAIR_MEANS) for row in reader.named("margins_by_source").to_dicts()]
    return {
        "columns": columns,
        "histograms": _bins(columns, reader.frame("report/pair_histogram", **_bounds(columns))),
        "margins_by_source": by_source,
    }


def _bounds(columns: list[dict[str, Any]]) -> dict[str, Any]:
    names, lows, highs = ([column[key] for column in columns] for key in ("name", "low", "high"))
    return {"names": names, "lows": lows, "highs": highs, "num_bins": NUM_BINS}


def _bins(columns: list[dict[str, Any]], rows: pl.DataFrame) -> dict[str, Any]:
    """Put counts into their bins; those without a row are empty."""
    told = {}
    for name in (column["name"] for column in columns):
        bins = rows.filter(pl.col("name") == name).to_dict(as_series=False)
        counts = {key: [0] * NUM_BINS for key in ("num_tokens", "num_kept")}
        for key, filled in counts.items():
            for place, number in zip(bins["bin"], bins[key], strict=True):
                filled[place] = number
        told[name] = counts | {"num_outside": sum(bins["num_outside"])}
    return told


def _drift(reader: Reader) -> dict[str, Any] | None:
    """Compare with the newest scoring that is not the current one, where there is one."""
    scorings = [(str(scoring_id), bool(is_current)) for scoring_id, is_current in reader.run("explain/scorings").fetchall()]
    earlier = [scoring_id for scoring_id, is_current in scorings if not is_current]
    if not earlier:
        return None
    rows = reader.named("scoring_drift", scoring_before=earlier[0]).to_dicts()
    return {"scoring_before": earlier[0], "rows": [_steady(row, *_MOMENTS) for row in rows]}


def _steady(row: dict[str, Any], *names: str) -> dict[str, Any]:
    """Round sums of many numbers: their last digits differ with the order in which threads add, and a page should not."""
    return row | {name: float(f"{row[name]:.6g}") for name in names if row[name] is not None}
