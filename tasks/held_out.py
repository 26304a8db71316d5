"""Values of the validation set as if it were training data, which `keep: auto` compares the training data with.

A token's value against D_A is too high where its own sequence is a part of D_A. Where a policy reads such values the validation set is cut
into folds, and each fold is valued against the direction of the others; elsewhere it is valued as the training data are.
"""

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks import identities, propagation
from tasks.adaptation import low_rank_form, make_adaptation
from tasks.artifacts import saved
from tasks.sequences import Sequence_, Snapshot

if TYPE_CHECKING:
    from tasks.adapters import Models
    from tasks.artifacts import Artifacts
    from tasks.directions import ScoringSetup
    from tasks.runs import Run


@dataclass(frozen=True)
class Fold:
    """A part of the validation set and the direction of the rest.

    Attributes:
        sequence_ids: the part.
        adapt: file of the direction of the rest, low-rank where the settings ask for that.
        made: its entry for the `scorings` table.
    """

    sequence_ids: frozenset[str]
    adapt: Path
    made: dict[str, Any]


def make_folds(
    artifacts: "Artifacts", run: "Run", models: "Models", validation: Snapshot, training: Callable[[], list[Sequence_]]
) -> tuple[Fold, ...]:
    """Make or find the direction of each fold where a policy asks for it.

    Args:
        artifacts: the pinned artefacts.
        run: the run.
        models: the models.
        validation: the validation set.
        training: gives the training sequences, of which low-rank forms are made.

    Returns:
        the folds; none where no policy asks for them, or where the validation set is of pairs, with which nothing is compared.

    Raises:
        ValueError: the validation set is too small to be cut.
    """
    config = run.config
    if not config.needs_folds or validation.pairs:
        return ()
    by_propagation = config.scoring.estimator == "value_propagation"
    folds = []
    for members in identities.folds(one[0] for one in validation.sequences):
        rest = Snapshot([row for row in validation.rows if row[2] not in members])
        key = identities.adapt_key(config, models.scoring_digest, rest.as_objective(config.preference.beta, models.reference_digest))

        def make(path: Path, rest: Snapshot = rest) -> tuple[str, dict[str, Any]]:
            if by_propagation:
                return propagation.make_adaptation(config, models, rest, path, saved)
            return make_adaptation(run, models, rest, path)

        settings = dataclasses.asdict(config.scoring.propagation if by_propagation else config.scoring.adaptation)
        digest_, dense, details = artifacts.get("held_out", key, settings, make)
        made = {"digest": digest_, **details}
        folds.append(Fold(members, low_rank_form(artifacts, run, models, "held_out", dense, made, training), made))
    return tuple(folds)


def setups(setup: "ScoringSetup") -> Iterator[tuple[frozenset[str] | None, "ScoringSetup"]]:
    """Go through the folds.

    Yields:
        (sequences of the fold, what they are valued with: the models and D_S of the scoring, D_A of the other folds); the whole set and
        the scoring itself where there are no folds.
    """
    if not setup.folds:
        yield None, setup
    for fold in setup.folds:
        described = setup.described | {"adapt": fold.made}
        yield fold.sequence_ids, dataclasses.replace(setup, ids=setup.held_out_ids, adapt=fold.adapt, described=described)
