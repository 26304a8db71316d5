"""The position × loss matrix, slow and obviously correct: one backward pass per token, one sequence at a time.

`gradient_values` differentiates each token's loss with respect to the parameters and takes the inner product with D.
`position_loss_matrix` gives every module in scope its own copy of the parameters at each position, θ + ε_p D, by adding
ε_p (f(x; θ + D) − f(x; θ)) to its output (exact where the parameters enter linearly), and differentiates each loss with respect to ε.
Neither shares code with models/probe.py.
"""

import torch
from torch.func import functional_call


def losses_of(model, ids_T):
    """Losses of tokens 1..T-1 of one sequence, in the model's dtype."""
    logits = model(input_ids=ids_T[None], use_cache=False).logits[0]
    logits = logits if logits.dtype == torch.float64 else logits.float()
    return torch.nn.functional.cross_entropy(logits[:-1], ids_T[1:], reduction="none")


def gradient_values(model, ids_T, direction):
    """⟨D, ∇ℓ_u⟩ for u = 1..T-1 (NaN at 0)."""
    params = dict(model.named_parameters())
    for p in params.values():
        p.requires_grad_(True)
    values = torch.full((len(ids_T),), torch.nan, dtype=torch.float64)
    for u in range(1, len(ids_T)):
        grads = torch.autograd.grad(losses_of(model, ids_T)[u - 1], [params[k] for k in direction])
        values[u] = sum((g.double() * direction[k].double()).sum() for g, k in zip(grads, direction, strict=True))
    for p in params.values():
        p.requires_grad_(False)
    return values


def position_loss_matrix(model, ids_T, direction):
    """J[u, p], [T, T], float64; row 0 is zero."""
    length = len(ids_T)
    epsilon_T = torch.zeros(length, dtype=next(model.parameters()).dtype, requires_grad=True)
    names = {id(p): n for n, p in model.named_parameters()}
    handles = []
    for module in model.modules():
        own = {k: direction[names[id(p)]] for k, p in module._parameters.items() if p is not None and names[id(p)] in direction}
        if not own:
            continue

        def hook(module, args, output, own=own):
            if getattr(module, "_probing", False):
                return output
            module._probing = True
            moved = functional_call(module, {k: module._parameters[k] + d for k, d in own.items()}, args)
            module._probing = False
            difference = moved - output
            axis = getattr(module, "position_axis", 1)
            return output + epsilon_T.view(-1, *[1] * (difference.dim() - 1 - axis)) * difference

        handles.append(module.register_forward_hook(hook))
    matrix = torch.zeros(length, length, dtype=torch.float64)
    losses = losses_of(model, ids_T)
    for u in range(1, length):
        matrix[u] = torch.autograd.grad(losses[u - 1], epsilon_T, retain_graph=True)[0].double()
    for handle in handles:
        handle.remove()
    return matrix
