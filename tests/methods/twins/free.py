"""Naive float64 twins, written from the papers' pseudo-code with numpy; they share nothing with the package.

Each takes ``x``, a list of arrays, ``steps`` and ``oracle(k, x) -> (loss, gradients)``, and returns the last training point.
"Joint" ones see one long vector, as in the papers; the others run on each array by itself.
"""

import numpy as np


def joint(twin):
    def run(x, steps, oracle, **values):
        sizes = np.cumsum([a.size for a in x])[:-1]

        def flat(k, v):
            loss, grads = oracle(k, [p.reshape(a.shape) for p, a in zip(np.split(v, sizes), x, strict=True)])
            return loss, np.concatenate([g.ravel() for g in grads])

        end = twin(np.concatenate([a.ravel() for a in x]), steps, flat, **values)
        return [p.reshape(a.shape) for p, a in zip(np.split(end, sizes), x, strict=True)]

    return run


def by_tensor(twin):
    """``twin`` makes a function (k, x, g) -> x for one tensor."""

    def run(x, steps, oracle, **values):
        moves = [twin(a, **values) for a in x]
        for k in range(1, steps + 1):
            _, grads = oracle(k, x)
            x = [move(k, a, g) for move, a, g in zip(moves, x, grads, strict=True)]
        return x

    return run


# -- sign ---------------------------------------------------------------------------------------------------------------


@by_tensor
def signsgd(x0, lr, weight_decay):
    return lambda k, x, g: x - lr * (np.sign(g) + weight_decay * x)


@by_tensor
def signum(x0, lr, momentum, weight_decay):
    m = np.zeros_like(x0)

    def move(k, x, g):
        nonlocal m
        m = momentum * m + (1 - momentum) * g
        return x - lr * (np.sign(m) + weight_decay * x)

    return move


@by_tensor
def ef_signsgd(x0, lr):
    e = np.zeros_like(x0)

    def move(k, x, g):
        nonlocal e
        q = lr * g + e
        delta = np.abs(q).mean() * np.sign(q)
        e = q - delta
        return x - delta

    return move


@by_tensor
def lion_k(x0, lr, b1, b2, weight_decay, e, k):
    kernels = {
        "l1": np.sign,
        "l2": lambda c: c / np.sqrt((c**2).sum()),
        "huber": lambda c: np.where(np.abs(c) < e, c / e, np.sign(c)),
        "truncated": lambda c: np.where(np.abs(c) > e, np.sign(c), 0.0),
        "relativistic": lambda c: c / np.sqrt(c**2 + e**2),
    }
    m = np.zeros_like(x0)

    def move(t, x, g):
        nonlocal m
        step = kernels[k](b1 * m - (1 - b1) * g)
        m = b2 * m - (1 - b2) * g
        return x + lr * (step - weight_decay * x)

    return move


def steepest_descent(x, steps, oracle, lr, norm):
    for k in range(1, steps + 1):
        _, grads = oracle(k, x)
        if norm == "max":
            eta = sum(np.abs(g).sum() for g in grads)
            x = [a - lr * eta * np.sign(g) for a, g in zip(x, grads, strict=True)]
        else:
            eta = sum(np.sqrt((g**2).sum()) for g in grads)
            x = [a - lr * eta * g / np.sqrt((g**2).sum()) for a, g in zip(x, grads, strict=True)]
    return x


@joint
def normalised_gd(x, steps, oracle, lr, exponent):
    for k in range(1, steps + 1):
        _, g = oracle(k, x)
        x = x - lr * g / np.linalg.norm(g) ** exponent
    return x


@by_tensor
def acclip(x0, lr, b1, b2, eps, alpha):
    m, tau = np.zeros_like(x0), np.zeros_like(x0)

    def move(k, x, g):
        nonlocal m, tau
        m = b1 * m + (1 - b1) * g
        tau = (b2 * tau**alpha + (1 - b2) * np.abs(g) ** alpha) ** (1 / alpha)
        return x - lr * np.minimum(tau / (np.abs(m) + eps), 1) * m

    return move


# -- averaging ----------------------------------------------------------------------------------------------------------


@by_tensor
def lookahead(x0, lr, momentum, alpha, k):
    slow, v = x0, 0.0

    def move(t, x, g):
        nonlocal slow, v
        v = momentum * v + g
        x = x - lr * v
        if t % k == 0:
            slow = slow + alpha * (x - slow)
            x = slow
        return x

    return move


@by_tensor
def schedule_free_sgd(x0, lr, b1):
    x, z, total = x0, x0, 0.0

    def move(k, y, g):
        nonlocal x, z, total
        rate = lr(k)
        total += rate**2
        z = z - rate * g
        c = rate**2 / total
        x = (1 - c) * x + c * z
        return (1 - b1) * z + b1 * x

    return move


@by_tensor
def schedule_free_adamw(x0, lr, b1, b2, eps, weight_decay):
    x, z, v, total = x0, x0, 0.0, 0.0

    def move(k, y, g):
        nonlocal x, z, v, total
        v = b2 * v + (1 - b2) * g**2
        total += lr**2
        z = z - lr * (g / (np.sqrt(v / (1 - b2**k)) + eps) + weight_decay * y)
        x = (1 - lr**2 / total) * x + lr**2 / total * z
        return (1 - b1) * z + b1 * x

    return move


@by_tensor
def xgrad(x0, lr, b1, b2, eps, s):
    w, m, v = x0, 0.0, 0.0

    def move(k, predicted, g):
        nonlocal w, m, v
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
        step = lr * (m / (1 - b1**k)) / (np.sqrt(v / (1 - b2**k)) + eps)
        w = w - step
        return w - s * step

    return move


# -- parameter-free -----------------------------------------------------------------------------------------------------


def _dog(x, steps, oracle, lr, reps_rel, eps):
    x0, r, total = x, reps_rel * (1 + np.linalg.norm(x)), 0.0
    for k in range(1, steps + 1):
        _, g = oracle(k, x)
        r = max(r, np.linalg.norm(x - x0))
        total += (g**2).sum()
        x = x - lr * r / np.sqrt(total + eps) * g
    return x


dog = joint(_dog)


@by_tensor
def l_dog(x0, lr, reps_rel, eps):
    r, total = reps_rel * (1 + np.linalg.norm(x0)), 0.0

    def move(k, x, g):
        nonlocal r, total
        r, total = max(r, np.linalg.norm(x - x0)), total + (g**2).sum()
        return x - lr * r / np.sqrt(total + eps) * g

    return move


@joint
def d_adapt_sgd(x, steps, oracle, lr, momentum, d0):
    x0, s, d, weighted, first = x, np.zeros_like(x), d0, 0.0, None
    for k in range(1, steps + 1):
        _, g = oracle(k, x)
        first = first or np.linalg.norm(g)
        rate = d * lr / first
        weighted += rate * (g @ s)
        s = s + rate * g
        x = momentum * x + (1 - momentum) * (x0 - s)
        d = max(d, 2 * weighted / np.linalg.norm(s))
    return x


@joint
def d_adapt_adam(x, steps, oracle, lr, b1, b2, eps, weight_decay, d0):
    m, v, s = np.zeros_like(x), np.zeros_like(x), np.zeros_like(x)
    d, r, q = d0, 0.0, np.sqrt(b2)
    for k in range(1, steps + 1):
        _, g = oracle(k, x)
        rate = d * lr
        r = q * r + (1 - q) * rate * (g @ (s / (np.sqrt(v) + eps)))
        m, v, s = b1 * m + (1 - b1) * rate * g, b2 * v + (1 - b2) * g**2, q * s + (1 - q) * rate * g
        x = x - m / (np.sqrt(v) + eps) - rate * weight_decay * x
        d = max(d, r / ((1 - q) * np.abs(s).sum()))
    return x


@joint
def prodigy(x, steps, oracle, lr, b1, b2, eps, weight_decay, d0):
    x0, m, v, s = x, np.zeros_like(x), np.zeros_like(x), np.zeros_like(x)
    d, r, q = d0, 0.0, np.sqrt(b2)
    for k in range(1, steps + 1):
        _, g = oracle(k, x)
        r = q * r + (1 - q) * lr * d**2 * (g @ (x0 - x))
        s = q * s + (1 - q) * lr * d**2 * g
        m, v = b1 * m + (1 - b1) * d * g, b2 * v + (1 - b2) * d**2 * g**2
        x = x - lr * d * m / (np.sqrt(v) + d * eps) - lr * d * weight_decay * x
        d = max(d, r / np.abs(s).sum())
    return x


@joint
def sps(x, steps, oracle, lr, c, f_star):
    for k in range(1, steps + 1):
        loss, g = oracle(k, x)
        x = x - min((loss - f_star) / (c * (g @ g)), lr) * g
    return x


@joint
def alr_smag(x, steps, oracle, lr, momentum, c, f_star):
    d = np.zeros_like(x)
    for k in range(1, steps + 1):
        loss, g = oracle(k, x)
        d = momentum * d + g
        x = x - min((loss - f_star) / (c * (d @ d)), lr) * d
    return x


@joint
def momo(x, steps, oracle, lr, momentum, weight_decay, f_star):
    d, f, gamma = None, None, None
    for k in range(1, steps + 1):
        loss, g = oracle(k, x)
        if d is None:
            d, f, gamma = g, loss, g @ x
        d = momentum * d + (1 - momentum) * g
        f = momentum * f + (1 - momentum) * loss
        gamma = momentum * gamma + (1 - momentum) * (g @ x)
        model = (1 + lr * weight_decay) * (f - f_star - gamma) + d @ x
        x = (x - min(lr, max(model, 0) / (d @ d)) * d) / (1 + lr * weight_decay)
    return x


@joint
def momo_adam(x, steps, oracle, lr, b1, b2, eps, weight_decay, f_star):
    d, v, f, gamma = np.zeros_like(x), np.zeros_like(x), 0.0, 0.0
    for k in range(1, steps + 1):
        loss, g = oracle(k, x)
        d, v = b1 * d + (1 - b1) * g, b2 * v + (1 - b2) * g**2
        f, gamma = b1 * f + (1 - b1) * loss, b1 * gamma + (1 - b1) * (g @ x)
        root, rho = np.sqrt(v / (1 - b2**k)) + eps, 1 - b1**k
        model = (1 + lr * weight_decay) * (f - rho * f_star - gamma) + d @ x
        tau = min(lr / rho, max(model, 0) / (d @ (d / root)))
        x = (x - tau * d / root) / (1 + lr * weight_decay)
    return x


@joint
def adgd(x, steps, oracle, lr, initial_step):
    step, theta, before = initial_step, 1e12, None
    for k in range(1, steps + 1):
        _, g = oracle(k, x)
        if before is not None:
            smoothness = np.linalg.norm(g - before[1]) / np.linalg.norm(x - before[0])
            new = min(np.sqrt(1 + theta) * step, 1 / (2 * smoothness))
            step, theta = new, new / step
        before = x, g
        x = x - lr * step * g
    return x
