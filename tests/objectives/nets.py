"""A small network with batch normalisation and dropout, a batch for it, and every objective around it."""

import torch
import torch.nn.functional as F
from torch import nn

from fallline import objectives as obj
from fallline.core.oracle import of_module


def net(dtype=torch.float64):
    torch.manual_seed(0)
    layers = nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3)
    return nn.Sequential(*layers).to(dtype)


def data(examples=12, seed=1, dtype=torch.float64):
    made = torch.Generator().manual_seed(seed)
    return torch.randn(examples, 5, generator=made, dtype=dtype), torch.randint(3, (examples,), generator=made)


def square(out, y):
    return out.square().mean()


# name -> objective around an oracle; all take the batch of data()
OBJECTIVES = {
    "sam": lambda o: obj.sam(o, 0.1),
    "usam": lambda o: obj.usam(o, 0.1),
    "asam": lambda o: obj.asam(o),
    "dnsam": lambda o: obj.dnsam(o, [data(6, 2), data(6, 3)]),
    "gsam": lambda o: obj.gsam(o),
    "esam": lambda o: obj.esam(o),
    "average_direction_sam": lambda o: obj.average_direction_sam(o),
    "gradient_penalty": lambda o: obj.gradient_penalty(o, 0.1),
    "implicit_penalty": lambda o: obj.implicit_penalty(o, 0.1),
    "finite_difference_penalty": lambda o: obj.finite_difference_penalty(o, 0.1),
    "term": lambda o: obj.reduced(o, lambda x: obj.term(x, -2.0)),
    "spectral_decoupling": lambda o: obj.spectral_decoupling(o, 0.1),
    "constrained": lambda o: obj.constrained(o, [(of_module(o.module, square), 0.01)]),
    "several": lambda o: obj.several([o, of_module(o.module, square)], obj.pcgrad),
    "by_class": lambda o: obj.by_class(o, 3),
    "bloop": lambda o: obj.bloop(o, of_module(o.module, square)),
    "dynamic_barrier": lambda o: obj.dynamic_barrier(o, of_module(o.module, square)),
    "sam of term": lambda o: obj.sam(obj.reduced(o, lambda x: obj.term(x, 1.0)), 0.1),
    "term of decoupled": lambda o: obj.reduced(obj.spectral_decoupling(o, 0.1), lambda x: obj.cvar(x, 0.5)),
    "penalty of constrained": lambda o: obj.gradient_penalty(OBJECTIVES["constrained"](o), 0.1),
}


def cross_entropy(model):
    return of_module(model, F.cross_entropy)
