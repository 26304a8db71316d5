"""Short texts and tables about runs, for the terminal and for Prefect's artifacts."""

from collections.abc import Mapping
from typing import Any


def rows(counts: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Describe what each stage of `value_tokens` did.

    Returns:
        (stage, sentence) in order.
    """
    lines: list[tuple[str, str]] = []
    if "ingest" in counts:
        one = counts["ingest"]
        lines.append(("ingest", f"{one['num_examples']:,} examples from {one['num_rows']:,} rows, {one['num_rejected']:,} rows set aside"))
    if "tokenize" in counts:
        one = counts["tokenize"]
        lines.append((
            "tokenize",
            f"{one['num_tokenized']:,} examples tokenized now; {one['num_sequences']:,} sequences with {one['num_tokens']:,} tokens, "
            f"{one['num_response_tokens']:,} of them response tokens; {one['num_prompts_cut']:,} prompts and "
            f"{one['num_responses_cut']:,} responses cut, {one['num_rejected']:,} examples rejected",
        ))
    if "directions" in counts:
        one = counts["directions"]
        zero = "; STABILITY IS ZERO: the scoring model is the reference" if one["stability_is_zero"] else ""
        told = "".join(
            f"; {text}"
            for text in (alignment_text(one["stability_alignment"]) if one.get("stability_alignment") else "", one.get("coverage"))
            if text
        )
        lines.append(("directions", f"{one['num_made']} artefacts made now{zero}{told}"))
    if "score" in counts:
        one = counts["score"]
        rate = f", {one['num_tokens'] / one['seconds']:,.0f} tokens/s" if one["num_tokens"] and one["seconds"] else ""
        bad = f"; {one['num_not_finite']:,} values not finite, stored as NULL" if one["num_not_finite"] else ""
        text = f"{one['num_tokens']:,} tokens of {one['num_sequences']:,} sequences scored in {one['seconds']:.1f} s{rate}{bad}"
        lines.append(("score", text))
    lines.extend(
        ("data alert", f"{one['rule']} of {one['what']} is {one['figure']:g}, limit {one['limit']:g} ({one['detail']})")
        for one in counts.get("alerts", [])
    )
    for one in counts.get("masks", []):
        share = one["num_kept"] / one["num_tokens"] if one["num_tokens"] else 0.0
        state = "written" if one["written"] else "unchanged"
        lines.append((f"mask {one['policy']}", f"{one['num_kept']:,} of {one['num_tokens']:,} response tokens kept ({share:.1%}), {state}"))
    return lines


def alignment_text(alignment: Mapping[str, Any]) -> str:
    """Say how well the stability direction stands for the gradient of the retention loss."""
    return (
        f"stability alignment {alignment['scope']:.3f} (cosine with the retention gradient over its scope; {alignment['all']:.3f} over all "
        f"parameters; {alignment['num_texts']:,} texts)"
    )


def markdown(counts: Mapping[str, Any]) -> str:
    """Write a run's summary as a markdown table."""
    return "| stage | what was done |\n|---|---|\n" + "\n".join(f"| {stage} | {text} |" for stage, text in rows(counts))


def failure_markdown(flow: str, error: BaseException, counts: Mapping[str, Any]) -> str:
    """Say why a run failed, how far it came, and what to do."""
    done = rows(counts)
    table = (
        "| stage | what was done |\n|---|---|\n" + "\n".join(f"| {stage} | {text} |" for stage, text in done)
        if done
        else "No stage was finished."
    )
    return (
        f"**{flow} failed:** {type(error).__name__}: {error}\n\n{table}\n\n"
        "What was committed stays, and finished parts of the scoring are kept: correct the cause and run again (in the interface: Retry or "
        "Quick run); the run goes on where this one stopped. Readers and trainings have the release before it meanwhile."
    )


def training_rows(metrics: Mapping[str, float]) -> list[tuple[str, str]]:
    """Describe what a training measured.

    Returns:
        (metric, sentence) in order.
    """
    lines = [
        (name.replace("_", " "), f"{metrics[f'{name}_before']:.4f} → {metrics[name]:.4f} nats/token")
        for name in ("target_loss", "retention_loss")
        if name in metrics
    ]
    if "margin_accuracy" in metrics:
        accuracy, loss, margin = (
            f"{metrics[f'{name}_before']:.4f} → {metrics[name]:.4f}" for name in ("margin_accuracy", "dpo_loss", "margin")
        )
        lines.append(("held-out pairs", f"margin accuracy {accuracy}, DPO loss {loss} nats/pair, mean margin {margin}"))
    if "supervised_tokens_per_epoch" in metrics:
        lines.append((
            "supervised tokens",
            f"{metrics['supervised_tokens_per_epoch']:,.0f} per epoch; every batch that the model saw was compared with the store",
        ))
    return lines


def training_markdown(policy: str, trained: bool, metrics: Mapping[str, float]) -> str:
    """Write a training's summary as a markdown table."""
    head = f"Mask of policy `{policy}`" + ("" if trained else " (unchanged, not trained again)")
    return f"{head}\n\n| metric | before → after |\n|---|---|\n" + "\n".join(
        f"| {name} | {text} |" for name, text in training_rows(metrics)
    )
