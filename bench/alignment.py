"""Which stability direction stands best for the unavailable retention gradient, on real small models.

For every model, target data set, length of the warm-up and seed: warm a copy of the reference up, take the true gradient g of the loss on
held-out retention text at the warmed-up weights, and compare every candidate D with it by

* `cos`: the cosine of D with g over all parameters, D being 0 outside its scope, and `cos_scope`: over the scope of D alone;
* `cos_change`: as `cos`, with the change of g since the reference: a reference that has not learned the text fully has a gradient there
  already, which no drift can tell;
* `direct`, `causal`: Spearman over the response tokens of training rows of the values of D with those of g, on both axes of the probe.
  This decides: masks are made of values.

python -m bench.alignment [--models stories260K ...] [--data gsm8k mbpp p3] [--steps 40 100 300] [--seeds 0 1] [--out rows.jsonl]
python -m bench.alignment --read rows.jsonl      # the table of an earlier run

Real models and data are read from ../shared/real, or from ALPHATOKEN_REAL; without them it says so and ends.
"""

import argparse
import itertools
import json
import os
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bench.measurements import add, earlier
from models.batches import TokenBatch, collate
from models.directions import cosine, divergence_gradient, in_scope, validation_gradient
from models.fisher import Text, diagonal_fisher, sample_continuations, sample_sequences, whole_texts
from models.losses import counted
from models.probe import Direction, probe
from models.reference import float32_parameters, load_model, load_tokenizer
from models.settings import FisherSettings, WarmupSettings
from models.training import fit

REAL = Path(os.environ.get("ALPHATOKEN_REAL", Path(__file__).parents[1] / ".." / "shared" / "real"))
DATA = {"gsm8k": ("gsm8k_train", "question", "answer"), "mbpp": ("mbpp", "prompt", "response"), "p3": ("p3_sample", "prompt", "response")}
HALF_LENGTH = 64
"""Tokens kept of a prompt's end and of a response's start; retention texts are cut to twice as many."""

SCOPES = {
    "no embeddings": ("*embed_tokens*",),
    "no norms": ("*norm*",),
    "matrices only": ("*embed_tokens*", "*norm*"),
    "MLP only": ("*embed_tokens*", "*norm*", "*self_attn*"),
    "attention only": ("*embed_tokens*", "*norm*", "*mlp*"),
    "last layer": ("*embed_tokens*", "model.norm*", "model.layers.[!L]*"),
}
"""Patterns left out; L stands for the number of the last layer."""

Tensors = dict[str, Tensor]


def rows_of(name: str, tokenizer: Any, number: int) -> list[tuple[list[int], list[int]]]:
    """Read and tokenize the first rows of a data set: prompt, newline, response, end of text."""
    file, prompt, response = DATA[name]
    lines = (REAL / "data" / f"{file}.jsonl").read_text(encoding="utf-8").splitlines()[:number]
    made = []
    for row in map(json.loads, lines):
        before, after = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in (row[prompt] + "\n", row[response]))
        before, after = [tokenizer.bos_token_id, *before[-HALF_LENGTH:]], [*after, tokenizer.eos_token_id][:HALF_LENGTH]
        made.append((before + after, list(range(len(before), len(before) + len(after)))))
    return made


def retention(tokenizer: Any, number: int, half: int) -> list[list[int]]:
    """Tokenize stories, even ones for alignment (half 0) or odd ones to measure by (half 1)."""
    stories = [s.strip() for s in (REAL / "data" / "tinystories.txt").read_text(encoding="utf-8").split("<|endoftext|>") if s.strip()]
    ids = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in stories[half::2][:number])
    return [[tokenizer.bos_token_id, *one][: 2 * HALF_LENGTH] for one in ids]


def batches_of(sequences: Sequence[tuple[Sequence[int], Sequence[int]]], size: int = 16) -> list[TokenBatch]:
    """Pad sequences of like length together."""
    ordered = sorted(sequences, key=lambda s: len(s[0]))
    chunks = [ordered[i : i + size] for i in range(0, len(ordered), size)]
    return [collate([ids for ids, _ in chunk], [positions for _, positions in chunk]) for chunk in chunks]


def scaled(fisher: Tensors, drift: Tensors, form: str, number: float = 0.0) -> Tensors:
    """Make one form of the direction; the numbers are a power, a quantile or a multiple of the mean of F."""
    if form == "power":
        return {n: f.pow(number) * drift[n] for n, f in fisher.items()}
    flat = torch.cat([f.flatten() for f in fisher.values()])
    if form == "clip":
        limit = flat.kthvalue(max(1, int(number * flat.numel()))).values
        return {n: f.clamp(max=limit) * drift[n] for n, f in fisher.items()}
    if form == "damped":
        return {n: (f + number * flat.mean()) * drift[n] for n, f in fisher.items()}
    if form == "tensor mean":
        return {n: f.mean() * drift[n] for n, f in fisher.items()}
    if form == "row mean":
        return {n: (f.mean(-1, keepdim=True) if f.ndim > 1 else f) * drift[n] for n, f in fisher.items()}
    raw = {n: f * drift[n] for n, f in fisher.items()}
    if form == "tensor norm":
        return {n: t / t.norm() for n, t in raw.items()}
    if form == "drift norm":
        return {n: t * (drift[n].norm() / t.norm()) for n, t in raw.items()}
    if form == "embedding rows":
        wide = {n: raw[n].norm(dim=-1, keepdim=True).clamp_min(1e-30) for n in raw if "embed" in n}
        return {n: t * (drift[n].norm(dim=-1, keepdim=True) * fisher[n].mean() / wide[n]) if n in wide else t for n, t in raw.items()}
    raise ValueError(form)


def candidates(by_source: Mapping[str, Tensors], drift: Tensors, num_layers: int) -> dict[str, Direction]:
    """List the directions that are compared, by name."""
    fisher = by_source["self 256"]
    found: dict[str, Direction] = {"F ⊙ drift (raw)": scaled(fisher, drift, "power", 1.0), "drift": dict(drift)}
    found |= {f"F^{p} ⊙ drift": scaled(fisher, drift, "power", p) for p in (0.25, 0.5, 0.75)}
    found |= {f"F clipped at quantile {q}": scaled(fisher, drift, "clip", q) for q in (0.5, 0.9, 0.99)}
    found |= {f"F + {m} mean F": scaled(fisher, drift, "damped", m) for m in (0.1, 1.0, 10.0)}
    found |= {f"F: {form}": scaled(fisher, drift, form) for form in ("tensor mean", "row mean")}
    found |= {f"raw, {form}": scaled(fisher, drift, form) for form in ("tensor norm", "drift norm", "embedding rows")}
    for source, other in by_source.items():
        if source != "self 256":
            found |= {f"{'raw' if p == 1 else f'F^{p}'}, {source}": scaled(other, drift, "power", p) for p in (1.0, 0.5)}
    for scope, patterns in SCOPES.items():
        kept = in_scope(list(fisher), [p.replace("L", str(num_layers - 1)) for p in patterns])
        for p, name in ((1.0, "raw"), (0.5, "F^0.5")):
            found[f"{name}, {scope}"] = {n: t for n, t in scaled(fisher, drift, "power", p).items() if n in kept}
    return found


def divergences(model: nn.Module, reference: nn.Module, texts: Mapping[str, Sequence[Text]], scope: list[str]) -> dict[str, Direction]:
    """List the gradients of KL(reference ‖ model) per token on texts of several sources, and two scopes of one of them."""
    found: dict[str, Direction] = {f"∇KL, {s}": divergence_gradient(model, reference, batches_of(t), scope)[0] for s, t in texts.items()}
    for name in ("no embeddings", "no norms"):
        kept = in_scope(scope, SCOPES[name])
        found[f"∇KL, self 256, {name}"] = {n: found["∇KL, self 256"][n] for n in kept}
    return found


def values(
    model: nn.Module, rows: list[tuple[list[int], list[int]]], directions: Mapping[str, Direction]
) -> dict[str, tuple[Tensor, Tensor]]:
    """Value the response tokens of rows.

    Returns:
        per direction (direct, causal), one entry per response token.
    """
    names = list(directions)
    found: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in names}
    for batch in batches_of(rows, 8):
        at = counted(batch)
        for i in range(0, len(names), 12):
            result = probe(model, batch, {n: directions[n] for n in names[i : i + 12]})
            for n in result.target_BT:
                found[n].append((result.target_BT[n][at], result.context_BT[n][at]))
    return {n: (torch.cat([d for d, _ in parts]), torch.cat([c for _, c in parts])) for n, parts in found.items()}


def spearman(one: Tensor, other: Tensor) -> float:
    """Correlate ranks (ties are too rare to matter)."""
    a, b = (x.argsort().argsort().double() for x in (one, other))
    return float(torch.corrcoef(torch.stack((a, b)))[0, 1])


def experiment(name: str, args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Compare all candidates on one model; yields a row per data set, warm-up, seed and candidate."""
    folder, cpu = REAL / "models" / name, torch.device("cpu")
    reference, tokenizer = load_model(folder, cpu), load_tokenizer(folder)
    scope, anchor = [n for n, _ in reference.named_parameters()], float32_parameters(reference)
    truth_batches = batches_of(whole_texts(retention(tokenizer, args.stories, 1)))
    at_reference = validation_gradient(reference, truth_batches, scope)[0]
    counts = [int(s.removeprefix("self ")) for s in args.sources if s.startswith("self ")]
    self_sampled = whole_texts(sample_sequences(reference, FisherSettings(num_sequences=max(counts))))
    texts_by_source = {f"self {n}": self_sampled[:n] for n in counts}
    if "retention 256" in args.sources:
        texts_by_source["retention 256"] = whole_texts(retention(tokenizer, 256, 0))
    fisher_by_source = {source: diagonal_fisher(reference, texts, scope) for source, texts in texts_by_source.items()}
    done = {(r["model"], r["data"], r["steps"], r["seed"]) for r in earlier(None, args.out)}
    for seed, steps, data in itertools.product(args.seeds, args.steps, args.data):
        if (name, data, steps, seed) in done:
            continue
        rows = rows_of(data, tokenizer, args.rows)
        if f"{data} prompts" not in texts_by_source:
            prompts = [ids[: positions[0]] for ids, positions in rows[:256]]
            texts_by_source[f"{data} prompts"] = sample_continuations(reference, prompts, FisherSettings())
            fisher_by_source[f"{data} prompts"] = diagonal_fisher(reference, texts_by_source[f"{data} prompts"], scope)
        model = fit(load_model(folder, cpu), rows, WarmupSettings(steps=steps, batch_size=8, learning_rate=args.lr, seed=seed))
        drift = {n: p - anchor[n] for n, p in float32_parameters(model).items()}
        own = {"prompts 256": f"{data} prompts", **{s: s for s in texts_by_source if not s.endswith(" prompts")}}
        found = candidates({s: fisher_by_source[key] for s, key in own.items()}, drift, model.config.num_hidden_layers)
        found |= divergences(model, reference, {s: texts_by_source[key] for s, key in own.items()}, scope)
        parts = [validation_gradient(model, truth_batches[i::2], scope)[0] for i in (0, 1)]
        truth = {n: (parts[0][n] + parts[1][n]) / 2 for n in scope}
        found["half of the retention text"] = parts[0]
        measured = values(model, rows[: args.valued], {"truth": truth, **found})
        for candidate, direction in found.items():
            against = parts[1] if direction is parts[0] else truth
            everywhere = {n: direction.get(n, torch.zeros_like(t)) for n, t in against.items()}
            yield {
                "model": name, "data": data, "steps": steps, "seed": seed, "candidate": candidate,
                "cos": cosine(everywhere, against), "cos_scope": cosine(direction, against),
                "cos_change": cosine(everywhere, {n: t - at_reference[n] for n, t in against.items()}),
                "direct": spearman(measured[candidate][0], measured["truth"][0]),
                "causal": spearman(measured[candidate][1], measured["truth"][1]),
            }  # fmt: skip


def table(rows: list[dict[str, Any]]) -> str:
    """Average over warm-ups and seeds, in a column per model and data set; the worst case in brackets."""
    groups = list(dict.fromkeys((r["model"], r["data"]) for r in rows))
    parts = []
    for measure in ("direct", "causal", "cos", "cos_scope", "cos_change"):
        lines = [f"| {measure} | " + " | ".join(f"{m}, {d}" for m, d in groups) + " |", "|---" * (len(groups) + 1) + "|"]
        for candidate in dict.fromkeys(r["candidate"] for r in rows):
            cells = []
            for group in groups:
                found = [r[measure] for r in rows if (r["model"], r["data"]) == group and r["candidate"] == candidate and measure in r]
                cells.append(f"{statistics.mean(found):.2f} ({min(found):.2f})" if found else "")
            lines.append(f"| {candidate} | " + " | ".join(cells) + " |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def main() -> None:
    """Run what was asked for and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["stories260K", "TinyStories-656K"])
    parser.add_argument("--data", nargs="+", choices=DATA, default=list(DATA))
    parser.add_argument("--steps", type=int, nargs="+", default=[40, 100, 300])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--lr", type=float, default=5e-4)
    for name, default, meaning in (("rows", 800, "training rows"), ("valued", 16, "rows valued"), ("stories", 256, "retention texts")):
        parser.add_argument(f"--{name}", type=int, default=default, help=meaning)
    sources = ["self 64", "self 256", "self 1024", "prompts 256", "retention 256"]
    parser.add_argument("--sources", nargs="+", choices=sources, default=sources, help="texts of F and of ∇KL; with `self 256`")
    parser.add_argument(
        "--out", type=Path, help="append every measurement to this file, as JSON lines; those that it holds already are not made again"
    )
    parser.add_argument("--read", type=Path, nargs="+", help="print the tables of earlier measurements")
    args = parser.parse_args()
    if args.stories < 32:
        parser.error(f"--stories {args.stories}: at least 32, to be halved in batches of 16")
    if args.read is not None:
        print(table(earlier(args.read, None)))
        return
    if not (REAL / "models").is_dir():
        print(f"no real models at {REAL}; set ALPHATOKEN_REAL to a folder with models/ and data/")
        return
    rows = earlier(None, args.out)
    for name in args.models:
        add(rows, experiment(name, args), args.out)
    print(table(rows))


if __name__ == "__main__":
    main()
