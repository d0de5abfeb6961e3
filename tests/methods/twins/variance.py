"""Naive float64 twins of methods that look elsewhere, written from the papers' pseudo-code with numpy for one long vector.

Each takes the starting point, the number of steps and ``problem``: ``batch(t)`` is the batch of step t, ``loss(i, x)`` and
``grad(i, x)`` are those of batch i, ``full(x)`` is the gradient of all.
"""

import numpy as np


def storm(x, steps, problem, lr, w, c):
    total, d, before, rate = 0.0, None, None, None
    for t in range(1, steps + 1):
        i = problem.batch(t)
        g = problem.grad(i, x)
        if d is None:
            d = g
        else:
            a = min(1.0, c * rate**2)
            d = g + (1 - a) * (d - problem.grad(i, before))
        total += g @ g
        rate = lr / (w + total) ** (1 / 3)
        before, x = x, x - rate * d
    return x


def svrg(x, steps, problem, lr, every):
    t = 0
    while True:
        snapshot, mu = x, problem.full(x)
        for _ in range(every):
            t += 1
            i = problem.batch(t)
            x = x - lr * (problem.grad(i, x) - problem.grad(i, snapshot) + mu)
            if t == steps:
                return x


def _recursive(x, steps, problem, every, move):
    before, v = x, None
    for t in range(1, steps + 1):
        i = problem.batch(t)
        v = problem.full(x) if (t - 1) % every == 0 else problem.grad(i, x) - problem.grad(i, before) + v
        before, x = x, move(x, v)
    return x


def sarah(x, steps, problem, lr, every):
    return _recursive(x, steps, problem, every, lambda x, v: x - lr * v)


def spider(x, steps, problem, lr, every, exponent):
    return _recursive(x, steps, problem, every, lambda x, v: x - lr * v / np.linalg.norm(v) ** exponent)


def saga(x, steps, problem, lr, num_batches):
    table = np.zeros((num_batches, x.size))
    for t in range(1, steps + 1):
        i = problem.batch(t)
        g = problem.grad(i, x)
        v = g - table[i] + table.mean(0)
        table[i] = g
        x = x - lr * v
    return x


def _corrected(problem, t, x, g, before, last, gamma, b1, exact):
    if before is None:
        c = g
    else:
        h = problem.grad(problem.batch(t), before) if exact else last
        c = g + gamma * b1 / (1 - b1) * (g - h)
    sizes = np.cumsum(problem.sizes)[:-1]
    return np.concatenate([part / max(1.0, np.linalg.norm(part)) for part in np.split(c, sizes)])


def mars_adamw(x, steps, problem, lr, b1, b2, eps, weight_decay, gamma, exact):
    m, v, before, last = 0.0, 0.0, None, None
    for t in range(1, steps + 1):
        g = problem.grad(problem.batch(t), x)
        c = _corrected(problem, t, x, g, before, last, gamma, b1, exact)
        m, v = b1 * m + (1 - b1) * c, b2 * v + (1 - b2) * c**2
        u = (m / (1 - b1**t)) / (np.sqrt(v / (1 - b2**t)) + eps) + weight_decay * x
        before, last, x = x, g, x - lr * u
    return x


def mars_lion(x, steps, problem, lr, b1, weight_decay, gamma, exact):
    m, before, last = 0.0, None, None
    for t in range(1, steps + 1):
        g = problem.grad(problem.batch(t), x)
        m = b1 * m + (1 - b1) * _corrected(problem, t, x, g, before, last, gamma, b1, exact)
        before, last, x = x, g, x - lr * (np.sign(m) + weight_decay * x)
    return x


def extragradient(x, steps, problem, lr, ahead):
    for t in range(1, steps + 1):
        i = problem.batch(t)
        x = x - lr * problem.grad(i, x - ahead * lr * problem.grad(i, x))
    return x


def optimistic_gradient(x, steps, problem, lr, optimism):
    last = np.zeros_like(x)
    for t in range(1, steps + 1):
        g = problem.grad(problem.batch(t), x)
        x = x - lr * (g + optimism * (g - last))
        last = g
    return x


def past_extragradient(x, steps, problem, lr):
    """Popov's method; the points at which it takes gradients."""
    half, g = x, np.zeros_like(x)
    for t in range(1, steps + 1):
        half = x - lr * g
        g = problem.grad(problem.batch(t), half)
        x = x - lr * g
    return x - lr * g


def armijo_sgd(x, steps, problem, lr, c, shrink, growth):
    rate = lr
    for t in range(1, steps + 1):
        i = problem.batch(t)
        g = problem.grad(i, x)
        rate = min(lr, growth * rate) if t > 1 else lr
        while problem.loss(i, x - rate * g) > problem.loss(i, x) - c * rate * (g @ g):
            rate *= shrink
        x = x - rate * g
    return x


def random_scaling_sgdm(x, steps, problem, lr, momentum, weight_decay, draws):
    m = 0.0
    for t in range(1, steps + 1):
        m = momentum * m + problem.grad(problem.batch(t), x) + weight_decay * x
        x = x - lr * -np.log(draws[t - 1]) * m
    return x


def o2nc(x, steps, problem, lr, radius, every, draws):
    delta, w = np.zeros_like(x), x
    for t in range(1, steps + 1):
        g = problem.grad(problem.batch(t), w)
        x = x + delta
        delta = delta - lr * g
        delta = delta * min(1.0, radius / np.linalg.norm(delta))
        if t % every == 0:
            delta = np.zeros_like(delta)
        w = x + draws[t - 1] * delta
    return w


def vrgd(x, steps, problem, lr, floor, weight_decay):
    sizes = np.cumsum(problem.sizes)[:-1]
    for _ in range(steps):
        grads = np.stack([problem.grad(i, x) for i in range(len(problem.a))])
        g = grads.mean(0)
        r = g**2 / ((grads**2).mean(0) - g**2)
        r = np.concatenate([np.clip(part / part.mean(), floor, 1) for part in np.split(r, sizes)])
        x = x - lr * r * (g + weight_decay * x)
    return x
