"""What Prefect costs: a whole run of `value_tokens` as the command does it, and the same functions called without Prefect.

    python -m bench.orchestration --model MODELS/stories260K --train gsm8k_train.jsonl --validation gsm8k_test.jsonl --rows 200

Each run is a process of its own on a new warehouse, the two kinds in turn; then each once more on unchanged data.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

_WITHOUT = """
import sys
from tasks.quiet import configure
configure()
from tests.flows import world
with world.without_prefect():
    from flows.value_tokens import value_tokens
    value_tokens(sys.argv[1])
"""


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("model", "train", "validation"):
        parser.add_argument(f"--{name}", required=True, type=lambda path: str(Path(path).resolve()))
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=2)
    arguments = parser.parse_args()
    kinds = {
        "with Prefect": [str(Path(sys.executable).parent / "alphatoken"), "value"],
        "without": [sys.executable, "-c", _WITHOUT],
    }
    seconds: dict[tuple[str, str], list[float]] = {}
    for _ in range(arguments.repeats):
        for kind, command in kinds.items():
            with tempfile.TemporaryDirectory() as folder:
                config = _configuration(Path(folder), arguments)
                for what in ("from nothing", "unchanged"):
                    began = time.monotonic()
                    subprocess.run([*command, str(config)], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
                    seconds.setdefault((what, kind), []).append(time.monotonic() - began)
    print("| run | with Prefect, s | without, s | difference, s |\n|---|---|---|---|")
    for what in ("from nothing", "unchanged"):
        told, plain = (statistics.median(seconds[what, kind]) for kind in kinds)
        print(f"| {what} | {told:.1f} | {plain:.1f} | {told - plain:.1f} |")


def _configuration(folder: Path, arguments: argparse.Namespace) -> Path:
    settings = {
        "data": {
            "train": {"path": arguments.train, "limit": arguments.rows},
            "validation": {"path": arguments.validation, "limit": 16},
            "tokenize": {"separator": "\n"},
        },
        "model": {"reference": arguments.model},
        "scoring": {"warmup": {"steps": 10}, "fisher": {"num_sequences": 32, "num_tokens": 64}},
    }
    config = folder / "alphatoken.yaml"
    config.write_text(yaml.safe_dump(settings))
    return config


if __name__ == "__main__":
    main()
