"""Settings of the store."""

from dataclasses import dataclass
from typing import ClassVar

MEMORY_LIMIT = "3GB"
"""What DuckDB may hold in memory, unless another limit is asked for: with what is beside it, 200 million tokens stay within 6 GB."""


@dataclass(frozen=True, kw_only=True)
class WarehouseSettings:
    """Where values live and how much the store may use.

    Attributes:
        path: folder of the warehouse; relative to the configuration file.
        memory_limit: what DuckDB may hold in memory, as DuckDB writes sizes; readers of releases have a limit of their own.
        lock_timeout_s: how long a second writer waits for the first, in seconds, before it gives up.
        keep_releases: releases kept for readers, the newest included.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    path: str = "alphatoken-warehouse"
    memory_limit: str = MEMORY_LIMIT
    lock_timeout_s: float = 60.0
    keep_releases: int = 2

    def __post_init__(self) -> None:
        if self.lock_timeout_s < 0 or self.keep_releases < 1:
            raise ValueError(
                f"warehouse: lock_timeout_s {self.lock_timeout_s} (at least 0), keep_releases {self.keep_releases} (at least 1)"
            )
