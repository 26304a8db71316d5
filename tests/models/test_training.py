"""The plain training loop of models/training.py."""

import pytest
import torch

from models.settings import WarmupSettings
from models.training import fit
from tests.reference.families import make

SEQUENCES = [([1, 5, 9, 3, 7], [2, 3, 4]), ([1, 8, 4, 4], [3]), ([1, 2, 3, 4, 5, 6], [4, 5])]


def test_fit_lowers_the_loss_is_reproducible_and_freezes_the_model():
    losses = []
    settings = WarmupSettings(steps=30, batch_size=2, learning_rate=1e-2)
    models = [fit(make("llama", torch.float32), SEQUENCES, settings, lambda _, __, loss: losses.append(loss)) for _ in range(2)]
    assert losses[:30] == losses[30:]
    assert sum(losses[25:30]) < 0.3 * sum(losses[:5])
    for a, b in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert torch.equal(a, b)
        assert not a.requires_grad


def test_fit_without_steps_changes_nothing():
    model = fit(make("llama", torch.float32), SEQUENCES, WarmupSettings(steps=0))
    for a, b in zip(model.parameters(), make("llama", torch.float32).parameters(), strict=True):
        assert torch.equal(a, b)


def test_fit_without_sequences_is_refused():
    with pytest.raises(ValueError, match="no sequences"):
        fit(make("llama", torch.float32), [], WarmupSettings())
