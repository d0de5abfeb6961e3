"""Thresholds of chains against the table, against simulation, and where there are none."""

import math

import pytest
import torch

import fallline.methods  # noqa: F401  registers them
from fallline import Optimizer, chain
from fallline.core.errors import InvalidTypeError, InvalidValueError
from fallline.core.method import METHODS
from fallline.core.transform import Transform, transform
from fallline.core.types import Reach
from fallline.flows import coherence, sgd_stability, stability
from fallline.schedules import constant, cosine
from fallline.transforms import clip_by_global_norm, descend, momentum, sign, slow_weights

H, B = 0.01, 0.9
M = METHODS


def heavy(b):
    return (2 + 2 * b) / H


TABLE = {
    "gradient descent": (lambda: M["sgd"](lr=H), 2 / H),
    "heavy ball, torch": (lambda: M["sgd"](lr=H, momentum=B), heavy(B)),
    "heavy ball, Polyak": (lambda: M["heavy_ball"](lr=H, momentum=B), heavy(B)),
    "heavy ball, average": (lambda: M["sgd"](lr=H, momentum=B, dampening=B), heavy(B) / (1 - B)),
    "Nesterov": (lambda: M["nesterov"](lr=H, momentum=B), heavy(B) / (1 + 2 * B)),
    "NAdam": (lambda: M["nadam"](lr=H), heavy(B) / (1 - B) / (1 + 2 * B)),
    "Adam": (lambda: M["adam"](lr=H), 38 / H),
    "Adam, b1 0.5": (lambda: M["adam"](lr=H, b1=0.5), 6 / H),
    "Adam, large eps": (lambda: M["adam"](lr=H, eps=1.0), 38 / H),
    "AMSGrad": (lambda: M["adam"](lr=H, amsgrad=True), 38 / H),
    "AdamW": (lambda: M["adamw"](lr=H, weight_decay=0.5), (2 - H * 0.5) * (1 + B) / (1 - B) / H),
    "RMSProp": (lambda: M["rmsprop"](lr=H), 2 / H),
    "Adagrad": (lambda: M["adagrad"](lr=H), 2 / H),
    "AdaMax": (lambda: M["adamax"](lr=H), 38 / H),
    "ADOPT, which reads before it writes": (lambda: M["adopt"](lr=H), 38 / H),
    "Adadelta, which does both": (lambda: M["adadelta"](lr=H), 2 / H),
    "coupled L2": (lambda: M["sgd"](lr=H, weight_decay=3.0), 2 / H - 3),
    "extragradient": (lambda: M["extragradient"](lr=H), 1 / H),
    "optimistic gradient": (lambda: M["optimistic_gradient"](lr=H), 2 / (3 * H)),
    "schedule-free": (lambda: M["schedule_free_sgd"](lr=H), 2 / (1 - B) / H),
    "clipped": (lambda: chain(clip_by_global_norm(1.0), M["adam"](lr=H)), 38 / H),
}


@pytest.mark.parametrize("name", TABLE)
def test_the_table(name):
    make, expected = TABLE[name]
    assert stability(make()).threshold == pytest.approx(expected, rel=2e-7)


SIMULATED = {
    "sgd": lambda: M["sgd"](lr=H, momentum=0.8, weight_decay=2.0),
    "nesterov": lambda: M["nesterov"](lr=H, momentum=0.7),
    "lookahead": lambda: M["lookahead"](lr=H),
    "noise": lambda: M["noisy_sgd"](lr=H),
    "two momenta": lambda: chain(momentum(0.5), momentum(0.5), descend(H)),
    "slow weights around momentum": lambda: chain(momentum(0.3), descend(H), slow_weights(3, 0.7)),
    "optimistic": lambda: M["optimistic_gradient"](lr=H),
}


@pytest.mark.parametrize("name", SIMULATED)
def test_a_run_decays_below_the_threshold_and_grows_above(name):
    made = SIMULATED[name]()
    found = stability(made)

    def size_after(share, steps):
        p = torch.nn.Parameter(1e-3 * torch.randn(4, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
        optimizer = Optimizer([p], made, fuse="eager")

        def closure():
            p.grad = share * found.threshold * p.detach()
            return 0.5 * share * found.threshold * p.detach().square().sum()

        for _ in range(steps):
            optimizer.step(closure)
        return float(p.detach().norm())

    assert size_after(0.97, 160) < size_after(0.97, 60)
    assert size_after(1.03, 160) > 2 * size_after(1.03, 60)


@pytest.mark.parametrize(("share", "grows"), [(0.99, False), (1.01, True)])
@pytest.mark.parametrize(
    ("name", "ours"), [("Adam", lambda: M["adam"](lr=H)), ("AdamW", lambda: M["adamw"](lr=H, weight_decay=0.5))]
)
def test_torch_agrees_when_its_second_moment_is_held(name, ours, share, grows):
    lam = share * stability(ours()).threshold
    p = torch.nn.Parameter(torch.full((1,), 1e-12, dtype=torch.float64))  # its square does not show in the moment
    keywords = {"weight_decay": 0.5} if name == "AdamW" else {}
    optimizer = getattr(torch.optim, name)([p], lr=H, **keywords)
    p.grad = torch.zeros(1, dtype=torch.float64)
    optimizer.step()
    optimizer.state[p]["step"].fill_(1e6)  # bias corrections are over
    sizes = []
    for _ in range(1500):
        optimizer.state[p]["exp_avg_sq"].fill_(1 / 0.999)  # so that P is 1
        p.grad = lam * p.detach()
        optimizer.step()
        sizes.append(abs(float(p.detach())))
        if sizes[-1] > 1e-8:
            break
    assert (sizes[-1] > 10 * sizes[len(sizes) // 2]) == grows


def test_the_radius_is_that_of_the_companion_matrix():
    found = stability(M["sgd"](lr=H, momentum=B))
    for lam in (1.0, 100.0, 500.0):
        companion = torch.tensor([[1 + B - H * lam, -B], [1.0, 0.0]], dtype=torch.float64)
        assert found.radius(lam) == pytest.approx(float(torch.linalg.eigvals(companion).abs().max()), rel=1e-9)


def test_regimes_of_gradient_descent():
    found = stability(M["sgd"](lr=0.1))
    assert found.multipliers(5.0)[0].real == pytest.approx(0.5)  # approaches
    assert found.multipliers(15.0)[0].real == pytest.approx(-0.5)  # oscillates
    assert found.multipliers(25.0)[0].real == pytest.approx(-1.5)  # diverges
    assert found.share(5.0) == pytest.approx(0.25)


def test_averages_kept_beside_the_parameter_do_not_count():
    assert stability(M["averaged_sgd"](lr=0.1)).radius(5.0) == pytest.approx(0.5, rel=1e-9)


def test_a_period_of_steps():
    found = stability(M["lookahead"](lr=H))
    assert found.period == 5


def test_growing_is_unstable_everywhere():
    @transform
    class Grow(Transform):
        def update(self, u, at):
            return u - 0.1 * at.p, {}

    found = stability(chain(momentum(0.9), Grow(), descend(H)))
    assert found.threshold == 0
    with pytest.raises(InvalidValueError, match=r"threshold is 0.0. Expected one above 0."):
        found.share(1.0)


NONE = ["lion", "signsgd", "signum", "lamb", "lars", "normalised_gd", "ef_signsgd", "rprop", "prodigy", "armijo_sgd"]


@pytest.mark.parametrize("name", NONE)
def test_no_threshold(name):
    found = stability(M[name]())
    assert found.threshold is None
    assert "none, use critical sharpness" in found.reason
    with pytest.raises(InvalidValueError, match="no linear map"):
        found.radius(1.0)


def test_orthogonalised_updates_have_none():
    @transform
    class Orthogonalise(Transform):
        reach = Reach.MATRIX

        def update(self, u, at):
            x = u / (u.norm() + 1e-7)  # linear only where gradients are smaller than this
            for _ in range(5):
                x = 1.5 * x - 0.5 * x @ x.T @ x
            return x, {}

    assert stability(chain(momentum(0.9), Orthogonalise(), descend(0.1))).threshold is None
    assert stability(chain(momentum(0.9), sign(), descend(0.1))).reason.startswith("`sign` is not linear")


@pytest.mark.parametrize("name", sorted(METHODS.keys() - {"entropy_sgd"}))  # its period of 20 noisy steps takes seconds
def test_every_method_has_an_answer(name):
    found = stability(METHODS[name]())
    assert found.reason
    assert found.threshold is None or found.threshold > 0
    if found.threshold is not None and math.isfinite(found.threshold):
        assert found.radius(1.01 * found.threshold) > 1
        assert found.radius(0.99 * found.threshold) < 1 + 1e-6


def test_schedules_are_read_at_a_step():
    made = M["sgd"](lr=0.1 * (constant(5) >> cosine(100)))
    assert stability(made, step=5).threshold == pytest.approx(20, rel=1e-6)
    assert stability(made, step=55).threshold == pytest.approx(2 / made.hypers["lr"](55), rel=1e-6)
    with pytest.raises(InvalidValueError, match="follows a schedule, and no step"):
        stability(made)


def test_a_running_optimizer_is_read_as_it_is_now():
    model = torch.nn.Linear(2, 1)
    edited = Optimizer(model, M["sgd"](lr=0.1))
    edited.param_groups[0]["lr"] = 0.5
    assert stability(edited.current_chain()).threshold == pytest.approx(4, rel=1e-6)
    scheduled = Optimizer(model, M["sgd"](lr=0.1 * (constant(5) >> cosine(100))))
    assert stability(scheduled.current_chain()).threshold == pytest.approx(20, rel=1e-6)
    assert len(repr(stability(M["adam"]()))) < 300


def test_a_method_is_no_chain():
    with pytest.raises(InvalidTypeError, match=r"Expected a chain\. Call the method first"):
        stability(M["sgd"])


# -- SGD ----------------------------------------------------------------------------------------------------------------


def examples(n=30, d=4, seed=0, equal=False):
    x = torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    x = x / x.norm(dim=1, keepdim=True) if equal else x
    return x.unsqueeze(2) * x.unsqueeze(1)


def test_full_batches_are_gradient_descent():
    found = sgd_stability(examples(), 30)
    assert found.threshold == pytest.approx(found.gradient_descent, rel=1e-9)
    assert found.sufficient == pytest.approx(found.gradient_descent, rel=1e-6)


@pytest.mark.parametrize("batch", [1, 2, 4, 8])
def test_the_exact_threshold_lies_between_the_bounds(batch):
    found = sgd_stability(examples(), batch)
    assert found.sufficient < found.threshold < found.gradient_descent
    assert found.radius(1.001 * found.threshold) > 1 > found.radius(0.999 * found.threshold)


def test_the_mean_square_of_simulated_runs():
    h, lr, generator = examples(6, 2), 0.2, torch.Generator().manual_seed(1)
    w = torch.ones(200_000, 2, dtype=torch.float64)
    for _ in range(3):
        i = torch.randint(6, (len(w),), generator=generator)
        w = w - lr * torch.einsum("nij,nj->ni", h[i], w)
    c = torch.ones(2, 2, dtype=torch.float64)
    found = sgd_stability(h, 1)
    eye = torch.eye(2, dtype=torch.float64)
    for _ in range(3):
        c = torch.einsum("nij,jk,nlk->il", eye - lr * h, c, eye - lr * h) / 6
    assert torch.allclose(w.T @ w / len(w), c, rtol=0.02)
    steps = torch.stack([eye - lr * x for x in h])
    kron = torch.stack([torch.kron(a, a) for a in steps]).mean(0)
    assert found.radius(lr) == pytest.approx(float(torch.linalg.eigvalsh(kron)[-1]), rel=1e-9)


def test_the_large_route_agrees_with_the_dense_one(monkeypatch):
    found = sgd_stability(examples(12, 6), 2)
    dense = found.radius(0.2)
    monkeypatch.setattr("fallline.flows.noise_stability.DENSE", 0)
    assert found.radius(0.2) == pytest.approx(dense, rel=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_beyond_the_coherence_bound_it_is_unstable(seed):
    found = sgd_stability(examples(40, 3, seed=seed), 1)
    assert found.radius(1.01 * found.by_coherence) > 1


def test_coherence_of_orthogonal_and_equal_examples():
    eye = torch.eye(5, dtype=torch.float64)
    assert coherence(eye.unsqueeze(2) * eye.unsqueeze(1)) == pytest.approx(1)
    assert coherence(examples(1, 3).expand(7, 3, 3)) == pytest.approx(7)


def test_errors_of_sgd_stability():
    with pytest.raises(InvalidValueError, match=r"shape \(3, 2\). Expected \(examples, d, d\)"):
        sgd_stability(torch.zeros(3, 2))
    with pytest.raises(InvalidValueError, match=r"batch_size=9\. Expected 1 to 3"):
        sgd_stability(torch.zeros(3, 2, 2), 9)
