"""Linear regression on a real table with corrupted targets, by four risks."""

import torch
import torch.nn.functional as F

from fallline import objectives as obj
from fallline.tasks.corpora import BREAST_CANCER

RISKS = {
    "term": lambda r: obj.term(r.square(), -2.0),
    "l1": lambda r: r.abs().mean(),
    "huber": lambda r: F.huber_loss(r, torch.zeros_like(r)),
    "erm": lambda r: r.square().mean(),
}


def errors(share, seed, iterations=20, column=28):
    """Test errors (RMSE) on the breast-cancer table: one of its measurements from the others, targets corrupted in training."""
    table = torch.from_numpy(BREAST_CANCER.load()[0][0]).double()
    table = (table - table.mean(0)) / table.std(0)
    made = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(table), generator=made)
    table = table[order]
    y = table[:, column].clone()
    table[:, column] = 1.0  # the intercept
    cut = int(0.8 * len(y))
    wrong = torch.rand(cut, generator=made) < share
    targets = torch.where(wrong, 5 + 5 * torch.randn(cut, generator=made, dtype=torch.float64), y[:cut])
    found = {}
    for name, risk in RISKS.items():
        w = fit(risk, table[:cut], targets, iterations)
        found[name] = float((table[cut:] @ w - y[cut:]).square().mean().sqrt())
    return found


def fit(risk, x, targets, iterations):
    """Reweighted least squares from zero: each residual weighs its derivative over itself, which makes the risk fall."""
    w = torch.zeros(x.shape[1], dtype=x.dtype)
    for _ in range(iterations):
        r = (targets - x @ w).requires_grad_()
        (slope,) = torch.autograd.grad(risk(r), r)
        root = (slope / r.detach()).clamp(0, slope.abs().max() * 1e6).sqrt()[:, None]
        w = torch.linalg.lstsq(root * x, root[:, 0] * targets).solution
    return w
