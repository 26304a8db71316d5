"""Settings of `alphatoken study`."""

from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True, kw_only=True)
class StudySettings:
    """Which trainings a study compares: every policy at every learning rate with every seed.

    Attributes:
        policies: names of policies; empty = all that fit `scoring.estimator`. `full` draws the frontier and is always among them.
        learning_rates: peak learning rates; empty = `training.learning_rate`, half and a quarter of it.
        seeds: seeds of order and dropout.
        keep_models: whether the trained models stay on disk; their figures do.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    policies: tuple[str, ...] = ()
    learning_rates: tuple[float, ...] = ()
    seeds: tuple[int, ...] = (0, 1, 2)
    keep_models: bool = False

    def __post_init__(self) -> None:
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"study.seeds: got {list(self.seeds)}, expected different numbers, one at least")
        if any(rate <= 0 for rate in self.learning_rates):
            raise ValueError(f"study.learning_rates: got {list(self.learning_rates)}, expected positive numbers")
