"""Signals of models/signals.py against their definitions."""

import pytest
import torch

from models.batches import collate
from models.probe import probe
from models.signals import SIGNALS
from tests.models.test_probe import random_sequences
from tests.reference.families import make


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_signals_equal_their_definitions(family):
    model = make(family)
    ids, responses = random_sequences([10, 6])
    result = probe(model, collate(ids, responses), {}, signals=SIGNALS)
    head = model.get_output_embeddings().weight
    for row, (one, response) in enumerate(zip(ids, responses, strict=True)):
        head.requires_grad_(True)
        log_probs = torch.log_softmax(model(input_ids=torch.tensor([one]), use_cache=False).logits[0], -1)
        for u in range(len(one)):
            found = {name: result.signals_BT[name][row, u].item() for name in SIGNALS}
            if u == 0 or u not in response:
                assert all(value != value for value in found.values())
                continue
            p = log_probs[u - 1].detach().exp()
            onehot = torch.nn.functional.one_hot(torch.tensor(one[u]), len(p))
            others = torch.cat([log_probs[u - 1, : one[u]], log_probs[u - 1, one[u] + 1 :]])
            assert found["margin"] == pytest.approx((log_probs[u - 1, one[u]] - others.max()).item(), rel=1e-9)
            assert found["el2n"] == pytest.approx((p - onehot).norm().item(), rel=1e-9)
            if not model.config.tie_word_embeddings:
                gradient = torch.autograd.grad(-log_probs[u - 1, one[u]], head, retain_graph=True)[0]
                assert found["grad_norm"] == pytest.approx(gradient.norm().item(), rel=1e-6)
        head.requires_grad_(False)


def test_a_certain_prediction_has_no_el2n():
    model = make("llama")
    with torch.no_grad():
        model.lm_head.weight.zero_()
        model.lm_head.weight[5] = 0.0
    result = probe(model, collate([[3, 5]], [[1]]), {}, signals=("el2n", "margin"))
    assert result.signals_BT["margin"][0, 1].item() == 0  # all tokens alike
    assert result.signals_BT["el2n"][0, 1].item() == pytest.approx((1 - 1 / 61) ** 0.5, rel=1e-9)


def test_unknown_signals_and_axes_are_refused():
    model = make("llama")
    batch = collate([[3, 5]], [[1]])
    with pytest.raises(ValueError, match=r"signals \['entropie'\], expected some of"):
        probe(model, batch, {}, signals=("entropie",))
    with pytest.raises(ValueError, match=r"axes \['row'\], expected one or both of"):
        probe(model, batch, {}, axes=("row",))
