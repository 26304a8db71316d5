"""The story of an example or a token on the terminal: text, snapshots, sequence, values, what each policy decides, and the lineage."""

import json
from collections.abc import Iterator

import polars as pl
from rich.console import Console
from rich.text import Text

from reports.terminal import print_answer, print_response, print_rows
from warehouse.explain import Story

Line = tuple[str, str]


def print_story(story: Story) -> None:
    """Print where an example comes from, what it is worth, and what the policies make of it."""
    what = "example" if story.position is None else f"token at position {story.position} of example"
    print_rows([*_origin(story), *_sequence_lines(story)], title=f"{what} {story.example_id}")
    if story.values.is_empty():
        why = "it has no values in this release" if story.is_current else "it is not in the current training snapshot"
        print_rows([("no current values", why)])
        return
    if story.position is None:
        _print_responses(story)
    else:
        _title("values; place 1 is the highest of the response")
        print_answer(story.values.select("branch", "token", "column", "value", "place", "num_values"), "table", None)
    print_rows(_decisions(story), title="what the policies make of it")
    print_rows(_lineage_lines(story.lineage.row(0, named=True)), title="what is behind these values")


def _title(text: str) -> None:
    Console().print(Text(text, style="bold"))


def _origin(story: Story) -> Iterator[Line]:
    content = json.loads(story.content)
    for name, part in content.items():
        if part is not None:
            yield name, part if isinstance(part, str) else json.dumps(part, ensure_ascii=False)
    for row in story.snapshots.iter_rows(named=True):
        source = "" if row["source"] is None else f", source {row['source']}"
        times = f", {row['multiplicity']} times" if row["multiplicity"] > 1 else ""
        now = " (current)" if row["is_current"] else ""
        yield f"{row['role']} snapshot", f"{row['snapshot_id']}{now}: {row['file']} line {row['line']}{source}{times}; run {row['run_id']}"


def _sequence_lines(story: Story) -> Iterator[Line]:
    for row in story.sequences.iter_rows(named=True):
        if row["sequence_id"] is None:
            yield f"no sequence ({row['branch']})", f"{row['reason']}: {row['detail']}"
            continue
        cut = [f"{row[f'num_{part}_tokens_cut']} {part} tokens cut" for part in ("prompt", "response") if row[f"num_{part}_tokens_cut"]]
        told = ", ".join([f"{row['num_tokens']} tokens, {row['num_response_tokens']} of them response tokens", *cut])
        yield (
            f"sequence ({row['branch']})",
            f"{row['sequence_id']}: {told}; tokenizer {row['tokenizer_digest']}, settings {row['settings']}",
        )


def _print_responses(story: Story) -> None:
    """Print each branch as each policy leaves it, coloured by adapt_direct + adapt_causal + stab_direct + stab_causal of its tokens."""
    components = ("adapt_direct", "adapt_causal", "stab_direct", "stab_causal")
    scores = story.values.filter(pl.col("column").is_in(components)).group_by("branch", "position", maintain_order=True)
    totals = scores.agg(pl.when(pl.col("value").null_count() == 0).then(pl.col("value").sum()).alias("score"))
    for (branch, policy), tokens in story.lineage.group_by("branch", "policy", maintain_order=True):
        joined = tokens.join(totals, on=["branch", "position"], how="left", maintain_order="left")
        print_response(
            joined.select("token", "score", "keep"), f"{branch}, policy {policy}: {joined['keep'].sum()} of {len(joined)} tokens kept"
        )


def _decisions(story: Story) -> Iterator[Line]:
    """Tell what each policy keeps, by which rule, and which run applied it."""
    for (policy, branch), tokens in story.lineage.group_by("policy", "branch", maintain_order=True):
        num_kept = tokens["keep"].sum()
        what = f"{num_kept} of {len(tokens)} tokens kept" if story.position is None else "kept" if num_kept else "masked"
        first = tokens.row(0, named=True)
        yield f"{policy} ({branch})", f"{what}; mask {first['mask_id']}, run {first['mask_run_id']}, settings {first['policy_settings']}"


def _lineage_lines(row: dict[str, object]) -> list[Line]:
    """Tell model digests, directions, validation set, run and code."""
    return [
        ("scoring", f"{row['scoring_id']}, estimator {row['estimator']}, {row['dtype']}"),
        ("reference model", f"{row['reference_model']}, digest {row['reference_digest']}"),
        ("scoring model", f"{row['scoring_model']}, digest {row['scoring_digest']}"),
        ("adaptation", f"direction {row['adapt_digest']}: validation snapshot {row['validation_snapshot_id']}, {row['num_validation_examples']} examples"),
        ("stability", f"direction {row['stab_digest']}; made on training snapshot {row['made_on_snapshot_id']}"),
        ("made by", f"run {row['scoring_run_id']} ({row['scoring_flow']}, {row['scoring_started_at']} UTC)"),
        ("code", f"AlphaToken {row['alphatoken_version']}, commit {row['git_sha'] or 'unknown: not run from a git checkout'}"),
        ("code versions", _code_versions(row["code_versions"])),
        ("configuration", "column configuration of that run in the view runs"),
    ]  # fmt: skip


def _code_versions(told: object) -> str:
    """Write versions of the numerics as `directions 2, probe 2`; scorings of before they were stored have none."""
    if told is None:
        return "not stored: the scoring is older"
    return ", ".join(f"{name} {version}" for name, version in json.loads(str(told)).items())
