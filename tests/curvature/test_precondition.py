"""P is what the optimizer divides by, read from fallline's and torch's state; the preconditioned form is the matrix it says."""

import pytest
import torch
import torch.nn.functional as F

import fallline
from fallline.core.errors import FalllineError
from fallline.core.oracle import of_module
from fallline.curvature import eigsh, hessian, preconditioned, preconditioner
from fallline.methods import adabelief, adagrad, adam, adamw, lamb, lion, nadam, rmsprop, sgd, signsgd
from fallline.transforms import clip_by_global_norm


def train(oracle, optimizer, batch, steps=4):
    for _ in range(steps):
        optimizer.zero_grad()
        oracle.backward(batch)
        optimizer.step()


TORCH = [
    (torch.optim.Adam, {"betas": (0.8, 0.95)}),
    (torch.optim.AdamW, {"amsgrad": True}),
    (torch.optim.NAdam, {}),
    (torch.optim.RMSprop, {"alpha": 0.9, "momentum": 0.5}),
    (torch.optim.RMSprop, {"centered": True}),
    (torch.optim.Adagrad, {"lr_decay": 0.1}),
    (torch.optim.SGD, {"momentum": 0.9}),
]


@pytest.mark.parametrize(("kind", "options"), TORCH, ids=[f"{k.__name__}-{'-'.join(o)}" for k, o in TORCH])
def test_fallline_and_torch_agree(model, oracle, batch, kind, options):
    start = {name: p.detach().clone() for name, p in model.named_parameters()}
    found = []
    for source in (torch.optim, fallline.optim):
        model.load_state_dict(start)
        optimizer = getattr(source, kind.__name__)(model.parameters(), lr=0.01, **options)
        train(oracle, optimizer, batch)
        found.append(preconditioner(optimizer, model))
    for name in start:
        torch.testing.assert_close(found[0][name], found[1][name])


@pytest.mark.parametrize("method", [adam, adamw, rmsprop, adagrad, nadam, adabelief], ids=lambda m: m.name)
def test_p_is_what_the_last_step_divided_by(model, oracle, batch, method):
    """Under a gradient that stays, momentum is that gradient, and the step is lr g / P."""
    lr = 1e-6
    optimizer = fallline.Optimizer(model, method(lr=lr, **({"weight_decay": 0.0} if method is adamw else {})))
    train(oracle, optimizer, batch, steps=3)
    before = {name: p.detach().clone() for name, p in oracle.params.items()}
    train(oracle, optimizer, batch, steps=1)
    divisor = preconditioner(optimizer, oracle)
    for name, p in oracle.params.items():
        ratio = (before[name] - p.detach()) * divisor[name] / (lr * p.grad)
        expected = ratio.mean() if method is nadam else torch.ones(())  # it looks ahead, by one factor for all
        torch.testing.assert_close(ratio, expected.expand_as(ratio).double(), rtol=2e-3, atol=0)


def test_bias_correction_and_eps_are_in_p(model, oracle, batch):
    optimizer = fallline.Optimizer(model, adamw(lr=0.0, b2=0.9, eps=0.5))
    train(oracle, optimizer, batch, steps=3)
    for name, p in preconditioner(optimizer, model).items():
        torch.testing.assert_close(p, oracle.params[name].grad.abs() + 0.5)


def test_preconditioned_form_is_the_matrix(model, oracle, batch, exact):
    optimizer = fallline.Optimizer(model, adam(lr=1e-3))
    train(oracle, optimizer, batch)
    h = hessian(oracle, batch)
    p = h.domain.flatten(preconditioner(optimizer, model))
    matrix = h.dense()
    expected = p.rsqrt()[:, None] * matrix * p.rsqrt()
    for form in (preconditioned(h, optimizer, model), preconditioned(h, preconditioner(optimizer, oracle))):
        torch.testing.assert_close(form.dense(), expected)
    unsymmetric = torch.linalg.eigvals(matrix / p[:, None]).real.max()
    assert float(eigsh(form, tol=1e-8).values) == pytest.approx(float(unsymmetric), rel=1e-8)


def test_any_other_preconditioner_is_a_function(oracle, batch, exact):
    h = hessian(oracle, batch)
    random = torch.randn(7, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    left = random @ random.T / 7 + torch.eye(7)

    def root(v):  # as of a Kronecker factor on the left of one matrix
        return {**v, "0.weight": left @ v["0.weight"]}

    whole = torch.eye(len(exact), dtype=torch.float64)
    whole[:35, :35] = torch.kron(left, torch.eye(5, dtype=torch.float64))
    torch.testing.assert_close(preconditioned(h, root).dense(), whole @ exact @ whole)


def test_groups_clipping_and_half_precision_state(model, oracle, batch):
    rules = {"0.*": fallline.chain(clip_by_global_norm(1.0), adam(lr=1e-3)), "*": sgd(lr=1e-3)}
    optimizer = fallline.Optimizer(model, rules, state_format="bfloat16")
    train(oracle, optimizer, batch)
    p = preconditioner(optimizer, model)
    assert list(p) == list(oracle.params)
    assert float(p["2.weight"].min()) == float(p["2.weight"].max()) == 1
    assert p["0.weight"].dtype == torch.float64
    assert not hessian(oracle, batch).dense().isnan().any()


def test_what_cannot_be_read_is_said(model, oracle, batch):
    h = hessian(oracle, batch)
    fresh = torch.optim.Adam(model.parameters())
    walk = fallline.Optimizer(model, lion(lr=1e-3))
    train(oracle, walk, batch)
    ratio = fallline.Optimizer(model, lamb(lr=1e-3))
    other = of_module(torch.nn.Linear(2, 2), F.cross_entropy)
    cases = [
        (lambda: preconditioner(fresh, model), "taken no step with '0.weight'"),
        (lambda: preconditioner(walk, model), r"cannot read what fallline's lion \(lion\) divides by"),
        (lambda: preconditioner(ratio, model), r"fallline's lamb \(adam, trust\)"),
        (lambda: preconditioner(fallline.Optimizer(model, signsgd(lr=1e-3)), model), r"signsgd \(sign\)"),
        (lambda: preconditioner(torch.optim.Rprop(model.parameters()), model), "cannot read what Rprop"),
        (lambda: preconditioner(walk, other), "holds none of the 2 parameters"),
        (lambda: preconditioned(h, fresh), "an optimizer and no model"),
        (lambda: preconditioned(h, {"0.weight": torch.ones(7, 5)}), "lacks '0.bias'"),
        (lambda: preconditioned(h, {n: 0 * p for n, p in oracle.params.items()}), "zero, negative or not finite"),
    ]
    for make, text in cases:
        with pytest.raises(FalllineError, match=text):
            make()
