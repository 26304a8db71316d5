"""Which of several training processes this one is: `accelerate launch` and `torchrun` say so in the environment."""

import os
from datetime import timedelta

from models.settings import ModelSettings

_SHARDING = {"ACCELERATE_USE_FSDP": "FSDP", "ACCELERATE_USE_DEEPSPEED": "DeepSpeed", "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM"}
"""How `accelerate launch` tells its processes that weights are to be sharded."""


_TIMEOUT_S = 1800.0
"""How long processes wait for one another at most; what transformers takes unless it is told otherwise."""


def rank() -> int:
    """Return the number of this process; 0 where there is one only. The first alone writes and talks to Prefect."""
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """Return the number of training processes."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def take_device(settings: ModelSettings) -> None:
    """Make the GPU of this process its own: `cuda` without a number then means that one."""
    import torch

    from models.reference import resolve_device

    if world_size() > 1 and resolve_device(settings.device).type == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))


def refuse_sharded() -> None:
    """Stop where the launcher was told to shard weights, before any model is loaded.

    Read from the environment, as on the CPU accelerate drops the wish without a word and copies the weights to every process.

    Raises:
        ValueError: the processes were launched with FSDP, DeepSpeed or Megatron-LM.
    """
    for name, kind in _SHARDING.items():
        if os.environ.get(name, "").lower() in {"1", "true", "yes", "on"}:
            raise ValueError(
                f"this training was launched with {kind} ({name} is set), which is not supported: measuring and saving need whole weights on every "
                "process. Launch it with data parallelism alone: answer NO to it in `accelerate config`, or `torchrun --nproc_per_node N "
                "-m flows.cli train CONFIG`; models that do not fit on one device: docs/scale.md"
            )


def require_same(plans: str, settings: ModelSettings) -> None:
    """Connect with the other processes and compare what each is about to do; nothing where there are none.

    Each process opens the warehouse for itself, so one that starts a moment later may find another release. Without a comparison it would
    train on another mask, or find the training done and leave the others waiting.

    Args:
        plans: what this process is about to do, in words that are shown.
        settings: says which device this is on.

    Raises:
        ValueError: the processes are about to do different things.
    """
    if world_size() == 1:
        return
    from accelerate import PartialState
    from accelerate.utils import gather_object

    from models.reference import resolve_device

    PartialState(cpu=resolve_device(settings.device).type == "cpu", timeout=timedelta(seconds=_TIMEOUT_S))
    told = gather_object([plans])
    if len(set(told)) > 1:
        each = "; ".join(f"process {number} {one}" for number, one in enumerate(told))
        raise ValueError(
            f"the processes of this training do not agree: {each}. A release was written while they started, or they were given different "
            "configurations or folders: start all of them again, on the same ones, when no other run is writing"
        )


def leave() -> None:
    """Wait for the other processes, and end what connects them; nothing where there are none."""
    import torch

    if world_size() > 1 and torch.distributed.is_initialized():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()
