"""Laws of models/probe.py: exact values, row and column sums, independence of batch mates, order and padding."""

import pytest
import torch

from models.batches import TokenBatch, collate
from models.losses import counted
from models.probe import probe
from models.selftest import WrongValuesError, verify
from tests.reference.families import CONFIGS, FLOAT32_SOFTMAX, make, random_direction
from tests.reference.position_loss_matrix import gradient_values, position_loss_matrix

FAMILIES = list(CONFIGS)


def random_sequences(lengths, seed=0, vocab_size=61):
    generator = torch.Generator().manual_seed(seed)
    ids = [torch.randint(1, vocab_size, (n,), generator=generator).tolist() for n in lengths]
    responses = [[u for u in range(n) if u >= n // 3 and torch.rand(1, generator=generator) < 0.8] or [n - 1] for n in lengths]
    return ids, responses


def relative_error(got, expected):
    """max |Δ| / max |v| over the entries that exist; both must be NaN at the same places."""
    assert torch.equal(got.isnan(), expected.isnan())
    there = ~expected.isnan()
    return ((got[there] - expected[there]).abs().max() / expected[there].abs().max()).item()


def expected_values(model, ids, response, direction):
    ids_T = torch.tensor(ids)
    gradient_T = gradient_values(model, ids_T, direction)
    matrix_UP = position_loss_matrix(model, ids_T, direction)
    weights_T = torch.zeros(len(ids), dtype=torch.float64)
    weights_T[response] = 1.0
    target_T = gradient_T.clone()
    target_T[weights_T == 0] = torch.nan
    return target_T, weights_T @ matrix_UP, matrix_UP


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("clean", "tolerance", "lengths"), [(True, 1e-9, [11, 2, 7]), (True, 1e-9, [4, 3]), (False, 1e-6, [5, 11])])
def test_exact_values_equal_the_slow_loop(family, clean, tolerance, lengths):
    # 4 and 2 are numbers of heads, too: a width that must not be taken for them.
    model = make(family, clean=clean)
    tolerance = max(tolerance, 1e-6) if family in FLOAT32_SOFTMAX else tolerance
    direction = random_direction(model)
    ids, responses = random_sequences(lengths)
    result = probe(model, collate(ids, responses), {"d": direction})
    for row, (one, response) in enumerate(zip(ids, responses, strict=True)):
        target_T, context_T, matrix_UP = expected_values(model, one, response, direction)
        assert relative_error(result.target_BT["d"][row, : len(one)], target_T) <= tolerance
        assert relative_error(result.context_BT["d"][row, : len(one)], context_T) <= tolerance
        # The reference agrees with itself: rows of the matrix sum to the gradient's inner product, nothing lies above the diagonal.
        assert torch.triu(matrix_UP).abs().max() <= 1e-12 * matrix_UP.abs().max()
        there = ~target_T.isnan()
        assert ((matrix_UP.sum(1) - target_T)[there].abs().max() / target_T[there].abs().max()).item() <= tolerance


@pytest.mark.parametrize("family", FAMILIES)
def test_each_axis_sums_to_the_inner_product_of_the_sequence(family):
    model = make(family, clean=True)
    direction = random_direction(model)
    ids, responses = random_sequences([9, 17, 1, 5], seed=3)
    batch = collate(ids, responses)
    result = probe(model, batch, {"d": direction})
    rows_N, positions_N = counted(batch)
    for row in range(len(ids)):
        target = result.target_BT["d"][row][positions_N[rows_N == row]].sum()
        context = result.context_BT["d"][row].sum()
        assert target.item() == pytest.approx(context.item(), rel=1e-6 if family in FLOAT32_SOFTMAX else 1e-9, abs=1e-12)


def test_last_token_has_causal_value_exactly_zero_and_first_has_no_direct_value():
    model = make("llama")
    ids, _ = random_sequences([8, 5])
    result = probe(model, collate(ids, [list(range(8)), list(range(5))]), {"d": random_direction(model)})
    assert result.context_BT["d"][0, 7] == 0
    assert result.context_BT["d"][1, 4:].abs().sum() == 0
    assert result.target_BT["d"][:, 0].isnan().all()
    assert result.context_BT["d"][:, 0].abs().min() > 0


@pytest.mark.parametrize("family", ["llama", "gpt2", "qwen2", "llama_tied", "gemma2"])
def test_values_do_not_depend_on_batch_mates_order_or_padding(family):
    model = make(family, torch.float32)
    directions = {"a": random_direction(model, 1), "s": random_direction(model, 2)}
    ids, responses = random_sequences([12, 5, 9, 30], seed=5)
    together = probe(model, collate(ids, responses), directions)
    variants = [(list(range(4)), True), ([2, 0, 3, 1], False), ([3], False), ([1], True)]
    for order, pad_left in variants:
        batch = collate([ids[i] for i in order], [responses[i] for i in order], pad_left=pad_left)
        other = probe(model, batch, directions)
        for row, i in enumerate(order):
            first = batch.input_ids_BT.shape[1] - len(ids[i]) if pad_left else 0
            for name in directions:
                for axis in ("target_BT", "context_BT"):
                    got = getattr(other, axis)[name][row, first : first + len(ids[i])]
                    assert relative_error(got, getattr(together, axis)[name][i, : len(ids[i])]) <= 1e-5


def test_directions_do_not_disturb_each_other_and_values_are_linear_in_them():
    model = make("llama", clean=True)
    a, b = random_direction(model, 1), random_direction(model, 2)
    both = {k: 2 * a[k] - 3 * b[k] for k in a}
    ids, responses = random_sequences([10])
    result = probe(model, collate(ids, responses), {"a": a, "b": b, "both": both})
    for values in (result.target_BT, result.context_BT):
        assert relative_error(values["both"], 2 * values["a"] - 3 * values["b"]) <= 1e-9


def test_scope_values_add_up_to_the_whole():
    model = make("gpt2", clean=True)
    whole = random_direction(model)
    parts = {"attention": {k: v for k, v in whole.items() if "attn" in k}, "rest": {k: v for k, v in whole.items() if "attn" not in k}}
    ids, responses = random_sequences([10])
    result = probe(model, collate(ids, responses), {"whole": whole, **parts})
    for values in (result.target_BT, result.context_BT):
        assert relative_error(values["attention"] + values["rest"], values["whole"]) <= 1e-9


def test_zero_direction_gives_zeros():
    model = make("llama", torch.float32)
    ids, responses = random_sequences([10])
    result = probe(model, collate(ids, responses), {"z": {k: torch.zeros_like(p) for k, p in model.named_parameters()}})
    assert result.context_BT["z"].abs().max() == 0
    assert result.target_BT["z"].nan_to_num().abs().max() == 0


def test_values_predict_the_change_of_the_other_loss_after_one_step_on_a_token():
    """One SGD step on token u changes the objective behind D by −η ⟨D, ∇ℓ_u⟩: the sign convention (positive = helpful)."""
    model = make("llama", clean=True)
    ids, _ = random_sequences([9, 9], seed=8)
    train, val = torch.tensor(ids[0]), torch.tensor(ids[1])
    params = dict(model.named_parameters())

    def loss(ids_T):
        return torch.nn.functional.cross_entropy(model(input_ids=ids_T[None], use_cache=False).logits[0, :-1], ids_T[1:], reduction="none")

    model.requires_grad_(True)
    direction = dict(zip(params, torch.autograd.grad(loss(val).mean(), list(params.values())), strict=True))
    u, step = 6, 1e-6
    gradient = torch.autograd.grad(loss(train)[u - 1], list(params.values()))
    before = loss(val).mean().item()
    with torch.no_grad():
        for p, g in zip(params.values(), gradient, strict=True):
            p -= step * g
        after = loss(val).mean().item()
        for p, g in zip(params.values(), gradient, strict=True):
            p += step * g
    model.requires_grad_(False)
    value = probe(model, collate([ids[0]], [[u]]), {"d": direction}).target_BT["d"][0, u].item()
    assert (before - after) / step == pytest.approx(value, rel=1e-3)


def test_signals_equal_cross_entropy():
    model = make("llama")
    ids, responses = random_sequences([10, 6])
    result = probe(model, collate(ids, responses), {})
    for row, one in enumerate(ids):
        logits = model(input_ids=torch.tensor([one]), use_cache=False).logits[0, :-1]
        log_probs = torch.log_softmax(logits, -1)
        for u in responses[row]:
            if u:
                assert result.loss_BT[row, u].item() == pytest.approx(-log_probs[u - 1, one[u]].item(), rel=1e-12)
                assert result.entropy_BT[row, u].item() == pytest.approx(-(log_probs.exp() * log_probs)[u - 1].sum().item(), rel=1e-12)


def test_direction_of_another_model_is_refused():
    model = make("llama")
    ids, responses = random_sequences([4])
    with pytest.raises(ValueError, match="no such parameter"):
        probe(model, collate(ids, responses), {"d": {"elsewhere.weight": torch.zeros(2)}})
    with pytest.raises(ValueError, match=r"shape \[3, 3\]"):
        probe(model, collate(ids, responses), {"d": {"lm_head.weight": torch.zeros(3, 3)}})


def test_a_parameter_that_is_not_applied_position_by_position_is_refused():
    model = make("llama")

    class Pooled(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = torch.nn.Parameter(torch.ones(32, dtype=torch.float64))

        def forward(self, x):
            return x + (x.mean(1) * self.scale)[:, None]

    model.model.norm = torch.nn.Sequential(model.model.norm, Pooled())
    model.requires_grad_(False)
    ids, responses = random_sequences([7])
    direction = random_direction(model)
    with pytest.raises(ValueError, match=r"does not show which position it acts at.*scope_exclude"):
        probe(model, collate(ids, responses), {"d": direction}, axes=("context",))
    # Where values are read at attention's boundaries, the check that a scoring begins with finds it.
    with pytest.raises(WrongValuesError, match="moves information between positions outside attention"):
        verify(model, {"d": direction}, [(ids[0], responses[0])])


def test_any_position_wise_parameter_works_also_where_it_enters_non_linearly():
    model = make("llama", clean=True)

    class Exponential(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = torch.nn.Parameter(torch.linspace(-0.5, 0.5, 32, dtype=torch.float64))

        def forward(self, x):
            return x * self.scale.exp()

    model.model.norm = torch.nn.Sequential(model.model.norm, Exponential())
    model.requires_grad_(False)
    direction = random_direction(model)
    ids, responses = random_sequences([9])
    result = probe(model, collate(ids, responses), {"d": direction})
    expected = gradient_values(model, torch.tensor(ids[0]), direction)
    expected[[u for u in range(9) if u not in responses[0]]] = torch.nan
    assert relative_error(result.target_BT["d"][0], expected) <= 1e-9
    assert result.context_BT["d"].sum().item() == pytest.approx(result.target_BT["d"].nansum().item(), rel=1e-9)


def test_unfrozen_model_is_refused():
    model = make("llama").requires_grad_(True)
    ids, responses = random_sequences([7])
    with pytest.raises(ValueError, match="requires_grad"):
        probe(model, collate(ids, responses), {})


def test_half_precision_keeps_tiny_and_huge_directions():
    model = make("llama", torch.bfloat16)
    direction = random_direction(make("llama", torch.float32))
    ids, responses = random_sequences([12])
    batch = collate(ids, responses)
    plain = probe(model, batch, {"d": direction}).target_BT["d"]
    for factor in (1e-12, 1e12):
        scaled = probe(model, batch, {"d": {k: v * factor for k, v in direction.items()}}).target_BT["d"]
        assert relative_error(scaled / factor, plain) <= 1e-3


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-3), (torch.bfloat16, 0.2)])
def test_cuda_equals_cpu(dtype, tolerance):
    reference = make("llama", torch.float64)
    ids, responses = random_sequences([12, 5, 9, 30], seed=5)
    batch: TokenBatch = collate(ids, responses)
    direction = random_direction(reference)
    expected = probe(reference, batch, {"d": direction})
    got = probe(make("llama", dtype).cuda(), batch.to("cuda"), {"d": direction})
    for axis in ("target_BT", "context_BT"):
        assert relative_error(getattr(got, axis)["d"].cpu().double(), getattr(expected, axis)["d"]) <= tolerance


@pytest.mark.parametrize("family", ["llama", "gpt2", "qwen3_tied", "gemma3"])
def test_neighbours_in_a_packed_row_do_not_leak(family):
    model = make(family)
    directions = {"a": random_direction(model, 1), "s": random_direction(model, 2)}
    ids, responses = random_sequences([12, 5, 1, 30], seed=5)
    batch = collate(ids, responses, packed=True)
    assert batch.input_ids_BT.shape == (1, 48)
    for axes in (("target", "context"), ("context",), ("target",)):
        packed = probe(model, batch, directions, axes=axes)
        for place, one, response in zip(batch.places([12, 5, 1, 30]), ids, responses, strict=True):
            alone = probe(model, collate([one], [response]), directions, axes=axes)
            for axis in axes:
                for name in directions:
                    got, expected = (getattr(r, f"{axis}_BT")[name] for r in (packed, alone))
                    there = expected[0].nan_to_num().abs().max() > 0
                    assert not there or relative_error(got[place], expected[0]) <= 1e-6
            assert torch.allclose(packed.loss_BT[place], alone.loss_BT[0], equal_nan=True)
    assert model.config._attn_implementation == "sdpa"


def test_nothing_passes_through_the_row_of_an_embedding_that_is_never_trained():
    model = make("llama", clean=True)
    direction = {"model.embed_tokens.weight": random_direction(model)["model.embed_tokens.weight"]}
    model.model.embed_tokens.padding_idx = 7
    ids, responses = [[3, 7, 9, 7, 4]], [[2, 4]]
    result = probe(model, collate(ids, responses), {"d": direction})
    expected = gradient_values(model, torch.tensor(ids[0]), direction)
    assert relative_error(result.target_BT["d"][0][[2, 4]], expected[[2, 4]]) <= 1e-9
    assert result.context_BT["d"][0, [1, 3]].abs().max() <= 1e-12 * result.context_BT["d"].abs().max()


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
@pytest.mark.parametrize("axes", [("target",), ("context",)])
def test_one_axis_alone_has_the_values_of_both_together(family, axes):
    model = make(family, clean=True)
    directions = {"a": random_direction(model, 1), "s": random_direction(model, 2)}
    batch = collate(*random_sequences([12, 5, 9], seed=5))
    both, alone = probe(model, batch, directions), probe(model, batch, directions, axes=axes)
    assert set(alone.target_BT) == (set(directions) if "target" in axes else set())
    for name in directions:
        got, expected = (getattr(r, f"{axes[0]}_BT")[name] for r in (alone, both))
        assert relative_error(got, expected) <= (1e-6 if family in FLOAT32_SOFTMAX else 1e-9)


@pytest.mark.parametrize("family", ["llama", "gpt2", "qwen3_tied", "olmo2"])
def test_eager_attention_has_the_values_of_sdpa(family):
    model = make(family, clean=True)
    direction = random_direction(model)
    batch = collate(*random_sequences([12, 5, 9], seed=5))
    sdpa = probe(model, batch, {"d": direction})
    model.set_attn_implementation("eager")
    eager = probe(model, batch, {"d": direction})
    for axis in ("target_BT", "context_BT"):  # eager attention takes its softmax in float32
        assert relative_error(getattr(eager, axis)["d"], getattr(sdpa, axis)["d"]) <= 1e-5


@pytest.mark.parametrize("axes", [("target", "context"), ("context",)])
def test_activation_checkpointing_changes_no_value_and_leaves_the_model_as_it_was(axes):
    model = make("llama", clean=True)
    directions = {"a": random_direction(model, 1), "s": random_direction(model, 2)}
    batch = collate(*random_sequences([12, 5, 9], seed=5))
    plain, checkpointed = (probe(model, batch, directions, axes=axes, activation_checkpointing=on) for on in (False, True))
    for name in directions:
        for axis in axes:
            assert torch.equal(*(getattr(r, f"{axis}_BT")[name].nan_to_num() for r in (plain, checkpointed)))
    assert not any(m.training for m in model.modules())
    assert not getattr(model, "is_activation_checkpointing", getattr(model, "is_gradient_checkpointing", None))


def test_a_model_whose_attention_cannot_be_replaced_has_no_packed_rows(monkeypatch):
    model = make("llama")
    monkeypatch.setattr(type(model), "set_attn_implementation", lambda self, name: None)  # as Falcon's, which only warns
    with pytest.raises(ValueError, match="does not let its attention be replaced"):
        probe(model, collate(*random_sequences([9, 5]), packed=True), {})


def hooked(function):
    """A small Llama with a function behind its last norm, and the function's exact values on a sequence."""
    model = make("llama", clean=True)
    model.model.norm.register_forward_hook(lambda module, args, output: function(output))
    direction = random_direction(model)
    (ids,), (response,) = random_sequences([9])
    expected_T = gradient_values(model, torch.tensor(ids), direction)
    expected_T[[u for u in range(9) if u not in response]] = torch.nan
    return model, collate([ids], [response]), {"d": direction}, expected_T


def no_gradient(x):
    with torch.no_grad():
        size = x.abs().amax(-1, keepdim=True)
    return x / size


@pytest.mark.parametrize(
    "function",
    [
        no_gradient,
        lambda x: x + torch.div(x, 2.0, rounding_mode="floor"),
        lambda x: x.abs().clamp_min(0.1).pow(torch.tensor([2.0, 3.0] * 16, dtype=torch.float64)),
        lambda x: torch.cat(tensors=[x[..., :8], 2 * x[..., 8:]], dim=-1),
        lambda x: x.permute(2, 0, 1).permute(1, 2, 0).expand(2, *x.shape).sum(0).view(x.shape),
        lambda x: torch.nn.functional.silu(x) - 3 * x.detach() * x,
        lambda x: torch.nn.functional.linear(input=x, weight=torch.eye(32, dtype=torch.float64)),
    ],
    ids=["no_grad", "floor", "pow", "cat", "view", "detach", "keywords"],
)
def test_functions_that_a_model_may_use_are_followed(function):
    model, batch, directions, expected_T = hooked(function)
    result = probe(model, batch, directions)
    assert relative_error(result.target_BT["d"][0], expected_T) <= 1e-9
    assert result.context_BT["d"].sum().item() == pytest.approx(expected_T.nansum().item(), rel=1e-9)


def test_a_part_of_an_activation_changed_in_place_is_refused():
    def halve(x):
        y = x * 1.0
        part = y[..., :8]
        part *= 0.5
        return y

    model, batch, directions, _ = hooked(halve)
    with pytest.raises(NotImplementedError, match="a part of an activation in place"):
        probe(model, batch, directions)


def test_a_mask_that_depends_on_parameters_is_refused():
    model = make("llama")
    bias = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64), requires_grad=False)
    model.register_parameter("bias", bias)

    def biased(module, args, kwargs):
        kwargs["attention_mask"] = torch.zeros(1, 1, 9, 9, dtype=torch.float64) + model.bias
        return args, kwargs

    model.model.layers[0].self_attn.register_forward_pre_hook(biased, with_kwargs=True)
    with pytest.raises(NotImplementedError, match="attention mask depends on parameters in scope"):
        probe(model, collate(*random_sequences([9])), {"d": {"bias": torch.ones(1)}})
