"""Which of several training processes this one is: `accelerate launch` and `torchrun` say so in the environment."""

import os

from models.settings import ModelSettings


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


def leave() -> None:
    """Wait for the other processes, and end what connects them; nothing where there are none."""
    import torch

    if world_size() > 1 and torch.distributed.is_initialized():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()
