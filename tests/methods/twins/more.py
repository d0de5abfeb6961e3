"""Naive float64 twins of the methods that keep state in subspaces, brake, freeze, or step by Polyak's rule; as in ``free``."""

import numpy as np

from methods.twins.free import by_tensor, joint


def _adam_step(s, g, t, b1, b2, eps):
    s["m"] = b1 * s.get("m", 0.0) + (1 - b1) * g
    s["v"] = b2 * s.get("v", 0.0) + (1 - b2) * g**2
    return s["m"] / (1 - b1**t) / (np.sqrt(s["v"] / (1 - b2**t)) + eps)


@joint
def adams(x, steps, oracle, lr, b1, b2, eps, weight_decay):
    s = {}
    for k in range(1, steps + 1):
        _, g = oracle(k, x)
        step = _adam_step(s, g, k, b1, b2, eps)
        mean = np.mean(s["v"] / (1 - b2**k))
        x = x * (1 - lr * weight_decay / np.sqrt(mean)) - lr * step
    return x


@by_tensor
def step_adam(x0, lr, b1, b2, eps, weight_decay, freeze_at):
    m, v, root = 0.0, 0.0, None

    def move(k, x, g):
        nonlocal m, v, root
        m = b1 * m + (1 - b1) * g
        if k <= freeze_at:
            v = b2 * v + (1 - b2) * g**2
            root = np.sqrt(v / (1 - b2**k)) + eps
        return x - lr * (m / (1 - b1**k) / root + weight_decay * x)

    return move


@by_tensor
def adaptive_braking(x0, lr, momentum, rho):
    v = np.zeros_like(x0)

    def move(k, x, g):
        nonlocal v
        norms = np.sqrt((g**2).sum()) * np.sqrt((v**2).sum())
        alpha = 1 - rho * (g * v).sum() / norms if norms > 0 else 1.0
        v = momentum * v + alpha * g
        return x - lr * v

    return move


@joint
def alr_hb(x, steps, oracle, lr, momentum, c, f_star):
    before = x
    for k in range(1, steps + 1):
        loss, g = oracle(k, x)
        eta = (loss - f_star) / (c * (g @ g)) + momentum * (g @ (x - before)) / (g @ g)
        x, before = x - min(max(eta, 0.0), lr) * g + momentum * (x - before), x
    return x


@joint
def psps(x, steps, oracle, lr, c, f_star, b2, eps, preconditioner):
    v = np.zeros_like(x)
    for k in range(1, steps + 1):
        loss, g = oracle(k, x)
        if preconditioner == "adam":
            v = b2 * v + (1 - b2) * g**2
            root = np.sqrt(v / (1 - b2**k)) + eps
        else:
            v = v + g**2
            root = np.sqrt(v) + eps
        x = x - min((loss - f_star) / (c * (g @ (g / root))), lr) * g / root
    return x


@joint
def truncated_model(x, steps, oracle, lr, f_star):
    for k in range(1, steps + 1):
        loss, g = oracle(k, x)
        x = x - min(lr, max(loss - f_star, 0) / (g @ g)) * g
    return x


@by_tensor
def entropy_sgd(x0, lr, gamma, outer, b1, num_inner, weight_decay):
    anchor, mu = x0, x0

    def move(k, p, g):
        nonlocal anchor, mu
        p = p - lr * (g + weight_decay * p + gamma * (p - anchor))
        mu = b1 * mu + (1 - b1) * p
        if k % num_inner == 0:
            anchor = anchor - outer * (anchor - mu)
            p = mu = anchor
        return p

    return move


@by_tensor
def galore(x0, lr, b1, b2, scale, weight_decay, density, gap, eps=1e-6):
    s, basis = {}, None

    def move(k, x, g):
        nonlocal basis
        if g.ndim < 2:
            return x - lr * (_adam_step(s, g, k, b1, b2, eps) + weight_decay * x)
        flat = g.reshape(g.shape[0], -1)
        rows, columns = flat.shape
        r = max(1, round(density * min(rows, columns)))
        if (k - 1) % gap == 0:
            u, _, vh = np.linalg.svd(flat, full_matrices=False)
            new = vh[:r].T if rows >= columns else u[:, :r]
            basis = new if basis is None else new * np.sign((new * basis).sum(0))  # the solver's signs mean nothing
        if rows >= columns:
            step = _adam_step(s, flat @ basis, k, b1, b2, eps) @ basis.T
        else:
            step = basis @ _adam_step(s, basis.T @ flat, k, b1, b2, eps)
        return x - lr * (scale * step.reshape(g.shape) + weight_decay * x)

    return move


@by_tensor
def frugal(x0, lr, b1, b2, eps, weight_decay, gap, drawn):
    """``drawn(x0, n)``: the columns that have state in the n-th period, from 1."""
    s = {}

    def move(k, x, g):
        if g.ndim < 2:
            return x - lr * (_adam_step(s, g, k, b1, b2, eps) + weight_decay * x)
        if (k - 1) % gap == 0:
            s.clear()
        flat = g.reshape(g.shape[0], -1)
        columns = drawn(x0, 1 + (k - 1) // gap)
        step = np.sign(flat)
        step[:, columns] = _adam_step(s, flat[:, columns], 1 + (k - 1) % gap, b1, b2, eps)
        return x - lr * (step.reshape(g.shape) + weight_decay * x)

    return move


@by_tensor
def adam_snsm(x0, lr, b1, b2, eps, weight_decay, density, gap):
    m, v, basis = 0.0, 0.0, None

    def move(k, x, g):
        nonlocal m, v, basis
        if g.ndim < 2:
            m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
            step = m / (1 - b1**k)
        else:
            flat = g.reshape(g.shape[0], -1)
            turned = flat.shape[0] < flat.shape[1]
            tall = flat.T if turned else flat
            v = b2 * v + (1 - b2) * (tall**2).sum(1, keepdims=True)
            r = max(1, round(density * tall.shape[1]))
            if (k - 1) % gap == 0:
                new = np.linalg.svd(tall, full_matrices=False)[2][:r].T
                m = 0.0 if basis is None else (m @ basis.T) @ new
                basis = new
            m = b1 * m + (1 - b1) * tall @ basis
            step = m / (1 - b1**k) @ basis.T + tall - tall @ basis @ basis.T
        step = step / (np.sqrt(v / (1 - b2**k)) + eps)
        if g.ndim > 1:
            step = (step.T if turned else step).reshape(g.shape)
        return x - lr * (step + weight_decay * x)

    return move
