"""What papers say about Kronecker-factored natural gradients, checked against the matrices themselves."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fallline.core.claims import claim
from fallline.core.oracle import Batch, Oracle, of_module
from fallline.curvature import fisher
from fallline.objectives.base import flat
from fallline.second_order.kronecker import ekfac, kfac

__all__ = ["network"]


def network(*widths: int, examples: int, tanh: bool) -> tuple[Oracle, Batch]:
    """A classifier of layers without biases, linear or with tanh between them, and a batch."""
    made = torch.Generator().manual_seed(0)
    layers: list[nn.Module] = []
    for m, n in zip(widths, widths[1:], strict=False):
        layers += [nn.Linear(m, n, bias=False), nn.Tanh() if tanh else nn.Identity()]
    model = nn.Sequential(*layers[:-1]).double()
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=made, dtype=torch.float64) / p.shape[1] ** 0.5)
    x = torch.randn(examples, widths[0], generator=made, dtype=torch.float64)
    return of_module(model, F.cross_entropy), (x, torch.randint(widths[-1], (examples,), generator=made))


@claim("kfac", "for a deep linear network and one example each layer's A (x) G is its block of the Fisher matrix, and, as damping goes to "
       "zero, the step is the (pseudo-)inverse of that block times the gradient", where="arXiv:1503.05671")  # fmt: skip
def one_example_is_exact(lab):
    oracle, batch = network(4, 5, 3, examples=1, tanh=False)
    g = oracle.value_and_grad(oracle.params, batch)[1]
    solver = kfac(oracle, 1e-10, kind="exact")
    d = solver.value_and_grad(oracle.params, batch, statistics=True)[1]
    for name, block in fisher(oracle, batch).blocks("tensor").items():
        layer, exact = name.split(".")[0], block.dense()
        yield lab.close(torch.kron(solver.state[f"{layer}.g"], solver.state[f"{layer}.a"]), exact)
        expected = torch.linalg.pinv(exact, rtol=1e-9, hermitian=True) @ g[name].flatten()
        yield lab.close(d[name].flatten(), expected, rtol=2e-4)


@claim("ekfac", "for one example the step is (F + damping I)^-1 g for every layer's block F, whatever the damping",
       where="arXiv:1806.03884")  # fmt: skip
def one_example_is_exact_with_damping(lab):
    oracle, batch = network(4, 5, 3, examples=1, tanh=True)
    g = oracle.value_and_grad(oracle.params, batch)[1]
    for damping in (1.0, 1e-3):
        d = ekfac(oracle, damping, kind="exact").value_and_grad(oracle.params, batch)[1]
        for name, block in fisher(oracle, batch).blocks("tensor").items():
            exact = block.dense()
            damped = exact + damping * torch.eye(len(exact), dtype=exact.dtype)
            yield lab.close(d[name].flatten(), torch.linalg.solve(damped, g[name].flatten()))


@claim("ekfac", "of every layer's block of the Fisher matrix it is the better approximation in Frobenius norm than K-FAC",
       where="arXiv:1806.03884")  # fmt: skip
def nearer_than_kfac(lab):
    oracle, batch = network(5, 6, 3, examples=40, tanh=True)
    solver = ekfac(oracle, kind="exact")
    solver.value_and_grad(oracle.params, batch, statistics=True)
    for name, block in fisher(oracle, batch).blocks("tensor").items():
        layer, exact = name.split(".")[0], block.dense()
        a, g, ua, ug, s = (solver.state[f"{layer}.{k}"] for k in ("a", "g", "a_basis", "g_basis", "s"))
        basis = torch.kron(ug, ua)
        near = (basis * s.flatten()) @ basis.T
        yield lab.close(s.flatten(), (basis.T @ exact @ basis).diagonal())
        yield lab.less(float((near - exact).norm()), 0.98 * float((torch.kron(g, a) - exact).norm()))


@claim("kfac", "a linear reparametrisation of a layer's inputs changes the step's outputs not at all, as damping goes to zero",
       where="arXiv:1503.05671, section 10")  # fmt: skip
def invariant_to_linear_maps(lab):
    made = torch.Generator().manual_seed(1)
    oracle, (x, y) = network(4, 3, examples=30, tanh=False)
    turn = torch.randn(4, 4, generator=made, dtype=torch.float64) + 2 * torch.eye(4, dtype=torch.float64)

    def moved(weight: Tensor, inputs: Tensor) -> Tensor:
        with torch.no_grad():
            oracle.params["0.weight"].copy_(weight)
        d = kfac(oracle, 1e-18, kind="exact").value_and_grad(oracle.params, (inputs, y))[1]["0.weight"]
        return (d @ inputs.T).T - (d @ inputs.T).T.mean(1, keepdim=True)  # logits count up to a constant

    w = oracle.params["0.weight"].detach().clone()
    plain, turned = moved(w, x), moved(w @ torch.linalg.inv(turn), x @ turn.T)
    yield lab.close(turned, plain, rtol=1e-5)
    yield lab.less(1e-3, float(flat({"moved": plain}).norm()))
