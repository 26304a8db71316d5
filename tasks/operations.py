"""Settings of how runs are operated: when they start, and which workers share the scoring."""

from dataclasses import dataclass
from typing import ClassVar, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError


@dataclass(frozen=True, kw_only=True)
class ScheduleSettings:
    """When `alphatoken serve` and the deployments start runs (docs/operations.md).

    Attributes:
        cron: when to value, in the five fields of cron; null = not by the clock.
        interval_s: seconds from one valuing to the next, instead of `cron`.
        timezone: of `cron`.
        watch_s: look at the data files every so many seconds, and value when one changed; null = do not look.
        train: train on every new release, on the mask of `training.policy`.
        when_busy: what a run does while another one writes: `wait` for it, or `skip` its turn.
        name: name of the deployments; null = the name of the configuration's folder. Projects of one server need different ones.
        report: address of the report that a run's artifacts link to.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    cron: str | None = None
    interval_s: float | None = None
    timezone: str = "UTC"
    watch_s: float | None = None
    train: bool = True
    when_busy: Literal["wait", "skip"] = "wait"
    name: str | None = None
    report: str | None = None

    def __post_init__(self) -> None:
        if self.cron is not None and self.interval_s is not None:
            raise ValueError(f"schedule: cron {self.cron!r} and interval_s {self.interval_s:g} exclude each other; leave one out")
        if self.cron is not None and len(self.cron.split()) != 5:
            raise ValueError(f"schedule.cron is {self.cron!r}; expected five fields, such as '0 3 * * *' for three o'clock every night")
        for name, value, least in (("interval_s", self.interval_s, 1), ("watch_s", self.watch_s, 0.1)):
            if value is not None and value < least:
                raise ValueError(f"schedule.{name} is {value:g}; it must be at least {least:g}")
        try:
            ZoneInfo(self.timezone)
        except (ZoneInfoNotFoundError, ValueError) as error:
            raise ValueError(f"schedule.timezone is {self.timezone!r}; expected a name such as Europe/Berlin") from error


@dataclass(frozen=True, kw_only=True)
class WorkerSettings:
    """Who shares the scoring. Values do not depend on it: same plan, device, dtype and `torch_threads` give the same bits.

    Attributes:
        runner: `threads` of the process that writes, or workers of a `ray` cluster (`pip install 'alphatoken[ray]'`).
        num_workers: shards scored at one time; 1 with `threads` scores in the writing process itself.
        torch_threads: threads of torch in each worker; null = as torch decides.
        gpus_per_worker: GPUs that a Ray worker takes for itself.
        ray_address: address of a running Ray cluster; null starts one on this machine for the time of the run.
        shard_parts: parts of a shard: what a worker takes at one time, and at most does again when it dies.
        retries: how often a shard whose worker died or failed is tried again.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    runner: Literal["threads", "ray"] = "threads"
    num_workers: int = 1
    torch_threads: int | None = None
    gpus_per_worker: float = 0.0
    ray_address: str | None = None
    shard_parts: int = 4
    retries: int = 2

    def __post_init__(self) -> None:
        for name, value, least in (
            ("num_workers", self.num_workers, 1), ("torch_threads", self.torch_threads, 1), ("shard_parts", self.shard_parts, 1),
            ("retries", self.retries, 0), ("gpus_per_worker", self.gpus_per_worker, 0),
        ):  # fmt: skip
            if value is not None and value < least:
                raise ValueError(f"workers.{name} is {value:g}; it must be at least {least}")
        if self.runner == "threads" and (self.ray_address is not None or self.gpus_per_worker > 0):
            raise ValueError(
                "workers: ray_address and gpus_per_worker go with runner 'ray' only; leave them out, or set workers.runner to ray"
            )

    @property
    def is_shared(self) -> bool:
        """Whether shards go to workers, instead of parts being scored by the process that writes."""
        return self.runner == "ray" or self.num_workers > 1
