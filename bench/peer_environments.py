"""Environments of the peers: one folder each, made on request, packages by name with bounded versions."""

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

REQUIREMENTS = {
    # torch is pinned to the project's own release, so that all tools compute with the same one.
    "bergson": ("bergson>=2.5.1,<2.6", "torch==2.13.0", "transformers>=5.17,<6"),
    "kronfluence": ("kronfluence>=1.0.1,<1.1", "torch==2.13.0", "transformers>=5.17,<6"),
}
COMPANIONS = ("torchvision", "torchaudio")
"""Required by the peers' metadata and imported by neither. Binaries made for a CUDA build of torch fail beside a CPU build, and
transformers, which imports torchvision where there is one, with them: one that cannot be imported is taken out again."""


class PeerError(RuntimeError):
    """A command of a peer failed; the message names it, its exit status and the end of what it said."""


@dataclass(frozen=True)
class Environment:
    """A peer's own environment.

    Attributes:
        peer: name of the package.
        folder: where it lies.
    """

    peer: str
    folder: Path

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self.folder / "bin" / "python"

    @property
    def marker(self) -> Path:
        """File that is written last, with the requirements it was made of."""
        return self.folder / "requirements.txt"


def run(command: Sequence[str | Path], *, environ: dict[str, str] | None = None) -> str:
    """Run a command to its end.

    Args:
        command: program and arguments.
        environ: variables in place of this process's own.

    Returns:
        what it printed.

    Raises:
        PeerError: its exit status is not 0.
    """
    done = subprocess.run(
        [str(part) for part in command], env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    )
    if done.returncode:
        tail = "\n".join(done.stdout.strip().splitlines()[-12:])
        raise PeerError(f"`{' '.join(str(part) for part in command)}` ended with status {done.returncode}:\n{tail}")
    return done.stdout


def make_environment(peer: str, root: Path, requirements: Sequence[str]) -> Environment:
    """Make a peer's environment, or take the one that was made of the same requirements; a second run waits for the first.

    Args:
        peer: name of the package.
        root: folder of all environments.
        requirements: what pip installs; nothing else decides whether an environment is still right.

    Returns:
        the environment, complete.

    Raises:
        PeerError: a command failed; what was begun is removed.
    """
    environment = Environment(peer, root / peer)
    root.mkdir(parents=True, exist_ok=True)
    with (root / f"{peer}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        wanted = "\n".join(requirements) + "\n"
        if not environment.marker.exists() or environment.marker.read_text() != wanted:
            _make(environment, requirements)
            environment.marker.write_text(wanted)
    return environment


def _make(environment: Environment, requirements: Sequence[str]) -> None:
    """Make it from nothing; what a failed command leaves is removed."""
    shutil.rmtree(environment.folder, ignore_errors=True)
    try:
        # Without pip of its own: Debian's Python may lack ensurepip, and this process's pip can install from outside.
        run([sys.executable, "-m", "venv", "--without-pip", environment.folder])
        run(_pip(environment, "install", *requirements))
        for companion in COMPANIONS:
            _drop_if_broken(environment, companion)
    except PeerError:
        shutil.rmtree(environment.folder, ignore_errors=True)
        raise


def _pip(environment: Environment, verb: str, *arguments: str) -> list[str | Path]:
    return [sys.executable, "-m", "pip", "--python", environment.python, verb, "--quiet", "--disable-pip-version-check", *arguments]


def _drop_if_broken(environment: Environment, package: str) -> None:
    """Uninstall a package that is there and cannot be imported, and say so."""
    find = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({package!r}) is None)"
    if subprocess.run([environment.python, "-c", find]).returncode:
        return
    try:
        run([environment.python, "-c", f"import {package}"])
    except PeerError as broken:
        print(
            f"{environment.peer}: {package} cannot be imported beside this torch and is taken out ({str(broken).splitlines()[-1]})",
            flush=True,
        )
        run(_pip(environment, "uninstall", "--yes", package))


def child_environment(threads: int) -> dict[str, str]:
    """Set the variables of a child: a fixed number of threads, no network, no progress bars.

    Returns:
        this process's variables with those set.
    """
    fixed = {
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    }
    return {**os.environ, **fixed, "TOKENIZERS_PARALLELISM": "false", "CUDA_VISIBLE_DEVICES": ""}
