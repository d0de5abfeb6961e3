"""Methods that torch does not have, against naive float64 twins written from the papers, one number at a time."""

import math

import pytest
import torch

import fallline
from fallline.testing.harness import gradients, parameters


def adabelief(p, g, s, t, lr=0.01, b1=0.9, b2=0.99, eps=1e-3, wd=0.1):
    for i in range(len(p)):
        s["m"][i] = b1 * s["m"][i] + (1 - b1) * g[i]
        s["s"][i] = b2 * s["s"][i] + (1 - b2) * (g[i] - s["m"][i]) ** 2 + eps
        m_hat, s_hat = s["m"][i] / (1 - b1**t), s["s"][i] / (1 - b2**t)
        p[i] = p[i] - lr * (m_hat / (math.sqrt(s_hat) + eps) + wd * p[i])


def lion(p, g, s, t, lr=0.01, b1=0.9, b2=0.99, wd=0.1):
    for i in range(len(p)):
        c = b1 * s["m"][i] + (1 - b1) * g[i]
        p[i] = p[i] - lr * (math.copysign(1.0, c) * (c != 0) + wd * p[i])
        s["m"][i] = b2 * s["m"][i] + (1 - b2) * g[i]


def lamb(p, g, s, t, lr=0.01, b1=0.9, b2=0.99, eps=1e-3, wd=0.1):
    r = []
    for i in range(len(p)):
        s["m"][i] = b1 * s["m"][i] + (1 - b1) * g[i]
        s["s"][i] = b2 * s["s"][i] + (1 - b2) * g[i] ** 2
        r.append(s["m"][i] / (1 - b1**t) / (math.sqrt(s["s"][i] / (1 - b2**t)) + eps) + wd * p[i])
    ratio = math.hypot(*p) / math.hypot(*r)
    for i in range(len(p)):
        p[i] = p[i] - lr * ratio * r[i]


def lars(p, g, s, t, lr=2.0, momentum=0.9, wd=0.1, eta=0.01):
    rate = eta * math.hypot(*p) / (math.hypot(*g) + wd * math.hypot(*p))
    for i in range(len(p)):
        s["m"][i] = momentum * s["m"][i] + lr * rate * (g[i] + wd * p[i])
        p[i] = p[i] - s["m"][i]


TWINS = {
    "AdaBelief": (adabelief, {"lr": 0.01, "betas": (0.9, 0.99), "eps": 1e-3, "weight_decay": 0.1}),
    "Lion": (lion, {"lr": 0.01, "betas": (0.9, 0.99), "weight_decay": 0.1}),
    "LAMB": (lamb, {"lr": 0.01, "betas": (0.9, 0.99), "eps": 1e-3, "weight_decay": 0.1}),
    "LARS": (lars, {"lr": 2.0, "momentum": 0.9, "weight_decay": 0.1, "trust_coefficient": 0.01}),
}


@pytest.mark.parametrize("name", TWINS)
def test_equals_its_paper(name):
    twin, options = TWINS[name]
    params = parameters(((4, 3), (5,)), torch.float64)
    lists = [p.detach().flatten().tolist() for p in params]
    slots = [{"m": [0.0] * len(x), "s": [0.0] * len(x)} for x in lists]
    optimizer = getattr(fallline.optim, name)(params, **options)
    for t in range(1, 21):
        for p, g, x, s in zip(params, gradients(params, t), lists, slots, strict=True):
            p.grad = g
            twin(x, g.flatten().tolist(), s, t)
        optimizer.step()
    for p, x in zip(params, lists, strict=True):
        assert torch.allclose(p.detach().flatten(), torch.tensor(x, dtype=torch.float64), rtol=1e-12, atol=1e-13)
