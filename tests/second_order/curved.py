"""Models, batches and solvers that the tests of second-order steps share."""

import torch
import torch.nn.functional as F
from torch import nn

from fallline import second_order as so
from fallline.core.oracle import of_module
from fallline.curvature import Space


def drawn(model, seed=0):
    made = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.double().parameters():
            p.copy_(torch.randn(p.shape, generator=made, dtype=torch.float64) / 2)
    return model


def mlp(num_out=3):
    return drawn(nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, num_out)))


def conv():
    layers = [nn.Conv2d(1, 2, 3, stride=2, padding=1), nn.GroupNorm(1, 2), nn.Tanh(), nn.Flatten(), nn.Linear(8, 3)]
    return drawn(nn.Sequential(*layers))


def data(num_examples=10, seed=1, num_out=3, shape=(4,)):
    made = torch.Generator().manual_seed(seed)
    x = torch.randn(num_examples, *shape, generator=made, dtype=torch.float64)
    return x, torch.randint(num_out, (num_examples,), generator=made)


def softmax(model):
    return of_module(model, F.cross_entropy)


def flat(tensors):
    return torch.cat([x.detach().flatten() for x in tensors.values()])


def gradient_of(oracle, batch):
    return flat(oracle.value_and_grad(oracle.params, batch)[1])


def direction(solver, batch, statistics=False):
    return flat(solver.value_and_grad(solver.params, batch, statistics=statistics)[1])


def solved(operator, g, damping):
    matrix = operator.dense()
    return torch.linalg.solve(matrix + damping * torch.eye(len(g), dtype=g.dtype), g)


def space_of(oracle):
    return Space.of(oracle.params)


SOLVERS = {
    "egn": lambda o: so.egn(o, so.levenberg_marquardt(1.0)),
    "egn_sampled": lambda o: so.egn(o, so.levenberg_marquardt(1.0), num_samples=2),
    "newton_cg": lambda o: so.newton_cg(o, so.levenberg_marquardt(1.0), curvature="gauss_newton", warm_start=0.9),
    "regularised_newton": lambda o: so.regularised_newton(o, 1.0),
    "saddle_free_newton": lambda o: so.saddle_free_newton(o, 0.1),
    "kfac": lambda o: so.kfac(o, 0.1, every=2),
    "ekfac": lambda o: so.ekfac(o, 0.1, every=2),
    "singd": lambda o: so.singd(o, 0.1, rate=0.1, normalise=True),
    "adafisher": lambda o: so.adafisher(o, 0.01, forget=0.9, weight=0.9, every=2),
    "sophia_g": lambda o: so.sophia_g(o, every=2),
    "psgd_lra": lambda o: so.psgd_lra(o, 3, rate=0.3),
    "tngd": lambda o: so.tngd(o, 0.5, time=4.0, num_steps=20, temperature=1e-8),
    "stochastic_lbfgs": lambda o: so.stochastic_lbfgs(o, every=1),
}
