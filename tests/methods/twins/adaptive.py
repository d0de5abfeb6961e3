"""Naive float64 twins of the adaptive methods and of SGD's relatives, from the papers' pseudo-code, one number at a time.

A twin moves the list ``p`` in place by the gradient ``g`` of step ``t``; ``s`` is its memory, empty before the first step,
``shape`` the tensor's. Nothing here is shared with the library.
"""

import math
from functools import partial


def mean(values):
    values = list(values)
    return sum(values) / len(values)


def _lists(s, n, *names, start=0.0):
    for name in names:
        s.setdefault(name, [start] * n)


# -- relatives of SGD ---------------------------------------------------------------------------------------------------


def heavy_ball(p, g, s, t, shape, lr, momentum):
    last = s.get("last", list(p))
    new = [p[i] - lr * g[i] + momentum * (p[i] - last[i]) for i in range(len(p))]
    s["last"] = list(p)
    p[:] = new


def sgdw(p, g, s, t, shape, lr, momentum, weight_decay):
    _lists(s, len(p), "m")
    for i in range(len(p)):
        s["m"][i] = momentum * s["m"][i] + lr * g[i]
        p[i] = p[i] - s["m"][i] - lr * weight_decay * p[i]


def gravity(p, g, s, t, shape, lr, b1):
    _lists(s, len(p), "v")
    m = 1 / max(abs(x) for x in g)
    beta = (b1 * t + 1) / (t + 2)
    for i in range(len(p)):
        zeta = g[i] / (1 + (g[i] / m) ** 2)
        s["v"][i] = beta * s["v"][i] + (1 - beta) * zeta
        p[i] = p[i] - lr * s["v"][i]


def sgd_sai(p, g, s, t, shape, lr, momentum, eps, weight_decay):
    n = len(p)
    if t == 1:
        s["m"] = list(g)
        variance = sum((x - mean(g)) ** 2 for x in g) / (n - 1) if n > 1 else 0.0
        s["snr"] = math.hypot(*g) / (math.sqrt(variance) + eps) if variance > 0 else 1.0
    for i in range(n):
        if t > 1:
            s["m"][i] = momentum * s["m"][i] + (1 - momentum) * g[i]
        p[i] = p[i] * (1 - lr * weight_decay) - lr * s["snr"] * s["m"][i]


# -- Adam and its bounds ------------------------------------------------------------------------------------------------


def _moments(g, s, b1, b2):
    _lists(s, len(g), "m", "v")
    for i in range(len(g)):
        s["m"][i] = b1 * s["m"][i] + (1 - b1) * g[i]
        s["v"][i] = b2 * s["v"][i] + (1 - b2) * g[i] ** 2


def _adam(g, s, t, b1, b2, eps):
    _moments(g, s, b1, b2)
    pairs = zip(s["m"], s["v"], strict=True)
    return [m / (1 - b1**t) / (math.sqrt(v / (1 - b2**t)) + eps) for m, v in pairs]


def adabound(p, g, s, t, shape, lr, b1, b2, eps, final_ratio, gamma, variant="authors", weight_decay=0.0, ams=False):
    g = [x + weight_decay * y for x, y in zip(g, p, strict=True)]
    _moments(g, s, b1, b2)
    _lists(s, len(p), "largest")
    final = final_ratio * lr
    low, high = final - final / (gamma * t + 1), final + final / (gamma * t)
    for i in range(len(p)):
        s["largest"][i] = max(s["largest"][i], s["v"][i])
        v = s["largest"][i] if ams else s["v"][i]
        rate = lr / (math.sqrt(v) + eps)
        if variant == "authors":
            rate *= math.sqrt(1 - b2**t) / (1 - b1**t)
        rate = min(max(rate, low), high)
        if variant == "paper":
            rate /= math.sqrt(t)
        p[i] = p[i] - rate * s["m"][i]


def diffgrad(p, g, s, t, shape, lr, b1, b2, eps, variant="corrected"):
    q = _adam(g, s, t, b1, b2, eps)
    last = s.get("last", [0.0] * len(p))
    for i in range(len(p)):
        change = abs(last[i] - g[i])
        if variant == "experiments" and t > 1:
            change = 0.0
        p[i] = p[i] - lr / (1 + math.exp(-change)) * q[i]
    s["last"] = list(g)


def adopt(p, g, s, t, shape, lr, b1, b2, eps, weight_decay=0.0, clipped=True):
    g = [x + weight_decay * y for x, y in zip(g, p, strict=True)]
    if t == 1:  # the paper's step 0
        s["v"], s["m"] = [x * x for x in g], [0.0] * len(p)
        return
    for i in range(len(p)):
        ratio = g[i] / max(math.sqrt(s["v"][i]), eps)
        c = (t - 1) ** 0.25 if clipped else math.inf
        s["m"][i] = b1 * s["m"][i] + (1 - b1) * min(max(ratio, -c), c)
        p[i] = p[i] - lr * s["m"][i]
        s["v"][i] = b2 * s["v"][i] + (1 - b2) * g[i] ** 2


def ademamix(p, g, s, t, shape, lr, b1, b2, b3, alpha, eps, weight_decay, warm=0):
    if warm:
        alpha_now = min(t * alpha / warm, alpha)
        a, b = math.log(b1), math.log(b3)
        b3_now = min(math.exp(a * b / ((1 - t / warm) * b + t / warm * a)), b3) if t < warm else b3
    else:
        alpha_now, b3_now = alpha, b3
    _lists(s, len(p), "slow")
    _moments(g, s, b1, b2)
    for i in range(len(p)):
        s["slow"][i] = b3_now * s["slow"][i] + (1 - b3_now) * g[i]
        m, v = s["m"][i] / (1 - b1**t), s["v"][i] / (1 - b2**t)
        p[i] = p[i] - lr * ((m + alpha_now * s["slow"][i]) / (math.sqrt(v) + eps) + weight_decay * p[i])


def adan(p, g, s, t, shape, lr, b1, b2, b3, eps, weight_decay, proximal=True):
    _lists(s, len(p), "m", "v", "n")
    last = s.get("last", list(g))
    for i in range(len(p)):
        d = g[i] - last[i]
        s["m"][i] = b1 * s["m"][i] + (1 - b1) * g[i]
        s["v"][i] = b2 * s["v"][i] + (1 - b2) * d
        s["n"][i] = b3 * s["n"][i] + (1 - b3) * (g[i] + b2 * d) ** 2
        eta = lr / (math.sqrt(s["n"][i] / (1 - b3**t)) + eps)
        step = eta * (s["m"][i] / (1 - b1**t) + b2 * s["v"][i] / (1 - b2**t))
        p[i] = (p[i] - step) / (1 + lr * weight_decay) if proximal else p[i] * (1 - lr * weight_decay) - step
    s["last"] = list(g)


def _project(p, g, u, shape, delta, eps):
    """(the projected update, whether it was) as the authors do: rows first, then the whole tensor."""
    if len(shape) < 2:
        return u, False
    for rows in (shape[0], 1):
        k = len(p) // rows
        split = [[x[i * k : (i + 1) * k] for i in range(rows)] for x in (p, g, u)]
        cosines = [
            abs(sum(a * b for a, b in zip(pr, gr, strict=True))) / (math.hypot(*pr) + eps) / (math.hypot(*gr) + eps)
            for pr, gr in zip(split[0], split[1], strict=True)
        ]
        if max(cosines) < delta / math.sqrt(k):
            out = []
            for pr, ur in zip(split[0], split[2], strict=True):
                n = [x / (math.hypot(*pr) + eps) for x in pr]
                along = sum(a * b for a, b in zip(n, ur, strict=True))
                out += [x - along * y for x, y in zip(ur, n, strict=True)]
            return out, True
    return u, False


def adamp(p, g, s, t, shape, lr, b1, b2, eps, weight_decay, delta, wd_ratio):
    u, projected = _project(p, g, _adam(g, s, t, b1, b2, eps), shape, delta, eps)
    for i in range(len(p)):
        p[i] = p[i] * (1 - lr * weight_decay * (wd_ratio if projected else 1)) - lr * u[i]


def sgdp(p, g, s, t, shape, lr, momentum, weight_decay, delta, wd_ratio, eps=1e-8, nesterov=False):
    _lists(s, len(p), "m")
    for i in range(len(p)):
        s["m"][i] = momentum * s["m"][i] + g[i]
    u = [x + momentum * m for x, m in zip(g, s["m"], strict=True)] if nesterov else list(s["m"])
    u, projected = _project(p, g, u, shape, delta, eps)
    shrink = lr * weight_decay * (wd_ratio if projected else 1) / (1 - momentum)
    for i in range(len(p)):
        p[i] = p[i] * (1 - shrink) - lr * u[i]


def adamomentum(p, g, s, t, shape, lr, b1, b2, eps, weight_decay):
    _lists(s, len(p), "m", "v")
    for i in range(len(p)):
        s["m"][i] = b1 * s["m"][i] + (1 - b1) * g[i]
        s["v"][i] = b2 * s["v"][i] + (1 - b2) * s["m"][i] ** 2 + eps
        p[i] = p[i] * (1 - lr * weight_decay) - lr * s["m"][i] / (1 - b1**t) / math.sqrt(s["v"][i] / (1 - b2**t))


def _clipped(values, largest):
    return [x / max(1.0, math.sqrt(mean(y * y for y in values)) / largest) for x in values]


def fadam(p, g, s, t, shape, lr, b1, b2, eps, eps2, weight_decay, max_rms):
    _lists(s, len(p), "m", "f")
    b2_now = b2 * (1 - b2 ** (t - 1)) / (1 - b2**t)
    eps_now = min(eps, eps2 * math.sqrt(mean(x * x for x in g)))
    for i in range(len(p)):
        s["f"][i] = b2_now * s["f"][i] + (1 - b2_now) * g[i] ** 2
    natural = _clipped([x / (math.sqrt(f) + eps_now) for x, f in zip(g, s["f"], strict=True)], max_rms)
    shrink = _clipped([x / (math.sqrt(f) + eps_now) for x, f in zip(p, s["f"], strict=True)], max_rms)
    for i in range(len(p)):
        s["m"][i] = b1 * s["m"][i] + (1 - b1) * natural[i]
        p[i] = p[i] - lr * (s["m"][i] + weight_decay * shrink[i])


def grams(p, g, s, t, shape, lr, b1, b2, eps, weight_decay):
    for i, q in enumerate(_adam(g, s, t, b1, b2, eps)):
        sign = (g[i] > 0) - (g[i] < 0)
        p[i] = p[i] * (1 - lr * weight_decay) - lr * sign * abs(q)


def novograd(p, g, s, t, shape, lr, b1, b2, eps, weight_decay):
    _lists(s, len(p), "m")
    square = sum(x * x for x in g)
    s["v"] = square if t == 1 else b2 * s["v"] + (1 - b2) * square
    for i in range(len(p)):
        s["m"][i] = b1 * s["m"][i] + g[i] / (math.sqrt(s["v"]) + eps) + weight_decay * p[i]
        p[i] = p[i] - lr * s["m"][i]


def madgrad(p, g, s, t, shape, lr, momentum, eps, weight_decay):
    s.setdefault("p0", list(p))
    _lists(s, len(p), "s", "v")
    k = t - 1
    for i in range(len(p)):
        gi = g[i] + weight_decay * p[i]
        weight = lr * math.sqrt(k + 1)
        s["s"][i] += weight * gi
        s["v"][i] += weight * gi**2
        z = s["p0"][i] - s["s"][i] / (s["v"][i] ** (1 / 3) + eps)
        p[i] = momentum * p[i] + (1 - momentum) * z


def opt_amsgrad(p, g, s, t, shape, lr, b1, b2, eps):
    _lists(s, len(p), "m", "v", "guess")
    _lists(s, len(p), "largest", start=eps)
    s.setdefault("half", list(p))
    for i in range(len(p)):
        old = s["m"][i]
        s["m"][i] = b1 * old + (1 - b1) * g[i]
        s["v"][i] = b2 * s["v"][i] + (1 - b2) * (g[i] - s["guess"][i]) ** 2
        s["largest"][i] = max(s["largest"][i], s["v"][i])
        s["half"][i] -= lr * s["m"][i] / math.sqrt(s["largest"][i])
        s["guess"][i] = g[i]
        h = b1 * old + (1 - b1) * s["guess"][i]
        p[i] = s["half"][i] - lr * h / math.sqrt(s["largest"][i])


def swats(p, g, s, t, shape, lr, b1, b2, eps):
    n = len(p)
    if "rate" in s:
        for i in range(n):
            s["velocity"][i] = b1 * s["velocity"][i] + g[i]
            p[i] = p[i] - (1 - b1) * s["rate"] * s["velocity"][i]
        return
    step = [-lr * q for q in _adam(g, s, t, b1, b2, eps)]
    for i in range(n):
        p[i] += step[i]
    along = sum(a * b for a, b in zip(step, g, strict=True))
    if along != 0:
        gamma = sum(x * x for x in step) / -along
        s["lambda"] = b2 * s.get("lambda", 0.0) + (1 - b2) * gamma
        if t > 1 and abs(s["lambda"] / (1 - b2**t) - gamma) < eps:
            s["velocity"], s["rate"] = [0.0] * n, s["lambda"] / (1 - b2**t)


# -- shared and factored second moments ---------------------------------------------------------------------------------


def _shared(p, g, s, t, blocks, share, lr, b1, b2, eps, weight_decay):
    _lists(s, len(p), "m")
    s.setdefault("v", [0.0] * len(blocks))
    for k, block in enumerate(blocks):
        s["v"][k] = b2 * s["v"][k] + (1 - b2) * share(g[i] ** 2 for i in block)
        for i in block:
            s["m"][i] = b1 * s["m"][i] + (1 - b1) * g[i]
            q = s["m"][i] / (1 - b1**t) / (math.sqrt(s["v"][k] / (1 - b2**t)) + eps)
            p[i] = p[i] * (1 - lr * weight_decay) - lr * q


def adam_mini(p, g, s, t, shape, **hypers):
    rows = shape[0] if len(shape) > 1 else 1
    k = len(p) // rows
    _shared(p, g, s, t, [range(i * k, (i + 1) * k) for i in range(rows)], mean, **hypers)


def adam_sn(p, g, s, t, shape, **hypers):
    n = len(p)
    if len(shape) < 2:
        blocks = [[i] for i in range(n)]
    elif shape[0] >= n // shape[0]:
        k = n // shape[0]
        blocks = [range(i * k, (i + 1) * k) for i in range(shape[0])]
    else:
        k = n // shape[0]
        blocks = [range(j, n, k) for j in range(k)]
    _shared(p, g, s, t, blocks, sum, **hypers)


def adafactor(
    p, g, s, t, shape, lr, decay_rate=0.8, eps1=1e-30, eps2=1e-3, max_rms=1.0, weight_decay=0.0, relative_step=True,
    decay_type="power",
):  # fmt: skip
    c = decay_rate
    b2 = 1 - t**-c if decay_type == "power" else c * (1 - c ** (t - 1)) / (1 - c**t)
    if len(shape) < 2:
        _lists(s, len(p), "v")
        for i in range(len(p)):
            s["v"][i] = b2 * s["v"][i] + (1 - b2) * (g[i] ** 2 + eps1)
        v = s["v"]
    else:
        *_, rows, columns = shape
        stacks = len(p) // (rows * columns)
        _lists(s, stacks * rows, "r")
        _lists(s, stacks * columns, "c")
        v = [0.0] * len(p)
        for k in range(stacks):
            at = lambda i, j, k=k: (k * rows + i) * columns + j  # noqa: E731
            for i in range(rows):
                total = sum(g[at(i, j)] ** 2 + eps1 for j in range(columns))
                s["r"][k * rows + i] = b2 * s["r"][k * rows + i] + (1 - b2) * total
            for j in range(columns):
                total = sum(g[at(i, j)] ** 2 + eps1 for i in range(rows))
                s["c"][k * columns + j] = b2 * s["c"][k * columns + j] + (1 - b2) * total
            whole = sum(s["r"][k * rows : (k + 1) * rows])
            for i in range(rows):
                for j in range(columns):
                    v[at(i, j)] = s["r"][k * rows + i] * s["c"][k * columns + j] / whole
    u = _clipped([x / math.sqrt(y) for x, y in zip(g, v, strict=True)], max_rms)
    rho = min(lr, 1 / math.sqrt(t))
    alpha = max(eps2, math.sqrt(mean(x * x for x in p))) * rho if relative_step else lr
    for i in range(len(p)):
        p[i] = p[i] * (1 - lr * weight_decay) - alpha * u[i]


amsbound = partial(adabound, ams=True)

ADAM = {"lr": 0.05, "b1": 0.9, "b2": 0.99, "eps": 1e-3}
PROJECTED = {"weight_decay": 0.1, "delta": 0.9, "wd_ratio": 0.2}  # a delta that some tensors pass and others do not
BOUND = {**ADAM, "final_ratio": 3.0, "gamma": 0.1}

CASES = [
    (heavy_ball, {"lr": 0.05, "momentum": 0.9}),
    (sgdw, {"lr": 0.05, "momentum": 0.9, "weight_decay": 0.1}),
    (gravity, {"lr": 0.3, "b1": 0.8}),
    (sgd_sai, {"lr": 0.05, "momentum": 0.8, "eps": 1e-3, "weight_decay": 0.1}),
    (adabound, {**BOUND, "weight_decay": 0.1}),
    (adabound, {**BOUND, "variant": "paper"}),
    (amsbound, {**BOUND, "weight_decay": 0.1}),
    (amsbound, {**BOUND, "variant": "paper"}),
    (diffgrad, ADAM),
    (diffgrad, {**ADAM, "variant": "experiments"}),
    (adopt, {**ADAM, "weight_decay": 0.1}),
    (adopt, {**ADAM, "clipped": False}),
    (ademamix, {**ADAM, "b3": 0.999, "alpha": 4.0, "weight_decay": 0.1}),
    (adan, {**ADAM, "b3": 0.95, "weight_decay": 0.1}),
    (adan, {**ADAM, "b3": 0.95, "weight_decay": 0.1, "proximal": False}),
    (adamp, {**ADAM, **PROJECTED}),
    (sgdp, {"lr": 0.05, "momentum": 0.9, **PROJECTED}),
    (sgdp, {"lr": 0.05, "momentum": 0.9, **PROJECTED, "nesterov": True}),
    (adamomentum, {**ADAM, "weight_decay": 0.1}),
    (fadam, {**ADAM, "eps2": 5e-4, "weight_decay": 0.1, "max_rms": 0.7}),
    (fadam, {**ADAM, "eps2": 1.0, "weight_decay": 0.1, "max_rms": 1.0}),
    (grams, {**ADAM, "weight_decay": 0.1}),
    (novograd, {**ADAM, "weight_decay": 0.1}),
    (madgrad, {"lr": 0.05, "momentum": 0.8, "eps": 1e-3, "weight_decay": 0.1}),
    (opt_amsgrad, ADAM),
    (swats, {"lr": 0.05, "b1": 0.9, "b2": 0.99, "eps": 1e-9}),
    (swats, {"lr": 0.05, "b1": 0.9, "b2": 0.99, "eps": 1e-2}),  # an eps at which it switches soon
    (adam_mini, {**ADAM, "weight_decay": 0.1}),
    (adam_sn, {**ADAM, "weight_decay": 0.1}),
    (adafactor, {"lr": 0.3}),
    (adafactor, {"lr": 0.05, "weight_decay": 0.1, "relative_step": False, "max_rms": 0.8}),
    (adafactor, {"lr": 0.05, "decay_rate": 0.9, "decay_type": "constant"}),
]
"""(twin, hyperparameters): the twin's name, or that of the function it is made from, is the method's."""
