"""A watch sees what happens, changes nothing, keeps to its budget, and refuses what it cannot do."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fallline
from fallline import chain
from fallline.core.errors import FalllineError
from fallline.core.oracle import of_module
from fallline.dynamics import first_not_finite, motion, opposing, watch_attention
from fallline.dynamics.chains import chain_of
from fallline.methods import adamw, sgd, sps


def problem(seed=0):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 3))
    x = torch.randn(48, 6)
    return model, (x, x[:, :3].argmax(1))


def loop(model, optimizer, batch, steps, watch=None):
    for _ in range(steps):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(batch[0]), batch[1])
        loss.backward()
        optimizer.step()
        if watch is not None:
            watch.see(loss, batch)


OPTIMIZERS = {
    "ours": lambda model: fallline.Optimizer(model, adamw(lr=3e-3)),
    "torch": lambda model: torch.optim.AdamW(model.parameters(), lr=3e-3),
    "sgd": lambda model: torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9),
}


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_a_watched_run_is_the_same_run(kind):
    plain, batch = problem()
    watched = copy.deepcopy(plain)
    loop(plain, OPTIMIZERS[kind](plain), batch, 30)
    optimizer = OPTIMIZERS[kind](watched)
    watch = fallline.watch(watched, optimizer, F.cross_entropy, every=10)
    state = torch.get_rng_state()
    loop(watched, optimizer, batch, 30, watch)
    assert torch.equal(state, torch.get_rng_state())
    for p, q in zip(plain.parameters(), watched.parameters(), strict=True):
        assert torch.equal(p, q)
    record = watch.finish()
    assert record.series("share").steps == (1, 10, 20, 30)
    assert record.series("loss").steps == tuple(range(1, 31))
    assert record.batch_size == 48
    assert not optimizer._optimizer_step_pre_hooks
    assert "times the" in watch.report()


def test_thresholds_are_those_of_the_method():
    for kind, expected in (("ours", 38 / 3e-3), ("torch", 38 / 3e-3), ("sgd", 2 * 1.9 / 0.1)):
        model, batch = problem()
        optimizer = OPTIMIZERS[kind](model)
        watch = fallline.watch(model, optimizer, F.cross_entropy, every=5)
        loop(model, optimizer, batch, 10, watch)
        assert watch.record.series("threshold").last == pytest.approx(expected, rel=0.01), kind


def test_chains_of_torch_optimizers_have_the_values_of_their_groups():
    p = [nn.Parameter(torch.zeros(2))]
    found = chain_of(torch.optim.AdamW(p, lr=0.02, betas=(0.8, 0.9), weight_decay=0.3))
    assert found.hypers["b1"] == 0.8
    assert found.hypers["weight_decay"] == 0.3
    optimizer = fallline.Optimizer(p, sgd(lr=0.1))
    optimizer.param_groups[0]["lr"] = 0.5
    assert chain_of(optimizer).hypers["lr"] == 0.5
    assert chain_of(torch.optim.LBFGS(p)) is None


class Clock:
    """A clock that moves when told to."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def test_the_watch_keeps_to_its_share_of_the_time():
    model, batch = problem()
    optimizer = OPTIMIZERS["ours"](model)
    watch = fallline.watch(model, optimizer, F.cross_entropy, budget=0.1)
    clock = watch._clock = Clock()
    watch._began = 0.0
    taken = {"motion": 0, "probes": 0}
    for name, cost in (("_copy", 0.02), ("_probes", 5.0)):

        def slow(*args, name=name, cost=cost):
            clock.now += cost
            taken["motion" if name == "_copy" else "probes"] += 1

        setattr(watch, name, slow)
    for _ in range(2000):  # steps of a tenth of a second
        clock.now += 0.1
        watch._pre(optimizer, None, None)
        watch.see(1.0, batch)
    assert 0.05 < watch.overhead <= 0.1
    assert taken["probes"] >= 1
    assert taken["motion"] >= 100


def test_the_first_trouble_is_noted_with_its_place():
    model, batch = problem()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    watch = fallline.watch(model, optimizer, F.cross_entropy, every=5)
    loop(model, optimizer, batch, 10, watch)
    with torch.no_grad():
        model[2].weight.fill_(math.inf)
    loop(model, optimizer, batch, 2, watch)
    trouble = watch.record.trouble
    assert trouble.step == 11
    assert trouble.where[0] == "the output of 0" or trouble.where[0] == "the output of 2"
    assert "diverged" in [f.kind for f in watch.findings()]


def test_a_bundle_holds_what_replays_the_trouble(tmp_path):
    model, batch = problem()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    watch = fallline.watch(model, optimizer, F.cross_entropy, every=5)
    with pytest.raises(FalllineError, match="no trouble"):
        watch.save(tmp_path / "bundle.pt")
    loop(model, optimizer, batch, 5, watch)
    good = copy.deepcopy(model.state_dict())
    watch.record.steps += 1
    watch.see(math.nan, batch)
    watch.save(tmp_path / "bundle.pt")
    bundle = torch.load(tmp_path / "bundle.pt")
    assert bundle["step"] == 5
    assert all(torch.equal(v, good[k]) for k, v in bundle["model"].items())
    assert torch.equal(bundle["batch"][0], batch[0])
    assert "not finite" in bundle["trouble"]


def test_motion_is_what_its_formula_says():
    before = {"w": torch.tensor([3.0, 4.0])}
    after = nn.Parameter(torch.tensor([3.0, 4.0]) + 0.05 * torch.tensor([-4.0, 3.0]))
    after.grad = torch.tensor([6.0, 8.0])
    found = motion(before, {"w": after})
    assert found["update_ratio/w"] == pytest.approx(0.05)
    assert found["turn/w"] == pytest.approx(math.atan(0.05), rel=1e-3)
    assert found["gradient_norm"] == pytest.approx(10.0)
    turned = nn.Parameter(torch.tensor([-4.0, 3.0]))
    assert motion(before, {"w": turned})["turn/w"] == pytest.approx(math.pi / 2)


def test_attention_is_seen_as_the_softmax_sees_it():
    class Net(nn.Module):
        def forward(self, x):
            return F.scaled_dot_product_attention(x, x, x, is_causal=True).mean((1, 2)).sum(1, keepdim=True)

    x = torch.randn(2, 1, 5, 4, generator=torch.Generator().manual_seed(0))
    found = watch_attention(of_module(Net(), lambda out, y: out.mean()), (x, x[:, 0, 0, 0]))
    logits = (x @ x.transpose(-2, -1) / 2).masked_fill(~torch.ones(5, 5, dtype=torch.bool).tril(), -math.inf)
    weights = logits.softmax(-1)
    assert found.largest_logit == pytest.approx(float(logits.max()))
    assert found.smallest_entropy == pytest.approx(
        float(-(weights * weights.clamp(min=1e-30).log()).sum(-1).mean()), rel=1e-5
    )
    assert found.calls == 1
    model, batch = problem()
    assert watch_attention(of_module(model, F.cross_entropy), batch) is None


def test_opposing_signals_are_the_losses_that_change_most():
    model, batch = problem()
    oracle = of_module(model, F.cross_entropy)
    before = {n: p.detach().clone() for n, p in oracle.params.items()}
    after = {n: p + 0.1 * torch.ones_like(p) for n, p in before.items()}
    down, up = opposing(oracle, before, after, batch, num=3)
    change = oracle.losses(after, batch) - oracle.losses(before, batch)
    assert [i for i, _ in down] == change.argsort()[:3].tolist()
    assert up[0][1] == pytest.approx(float(change.max()))


def test_the_first_module_that_is_not_finite():
    model, batch = problem()
    oracle = of_module(model, F.cross_entropy)
    assert first_not_finite(oracle, batch) is None
    with torch.no_grad():
        model[2].bias.fill_(math.nan)
    assert first_not_finite(oracle, batch) == "2"


def test_preview_is_the_step_that_is_not_taken():
    model, batch = problem()
    optimizer = OPTIMIZERS["ours"](model)
    loop(model, optimizer, batch, 3)
    F.cross_entropy(model(batch[0]), batch[1]).backward()
    before = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    update = optimizer.preview()
    assert all(torch.equal(v, before[0][k]) for k, v in model.state_dict().items())
    assert optimizer.state_dict()["param_groups"] == before[1]["param_groups"]
    optimizer.step()
    for name, p in model.named_parameters():
        torch.testing.assert_close(before[0][name] - p.detach(), update[name], rtol=0, atol=1e-7)
    with pytest.raises(FalllineError, match="needs the loss"):
        fallline.Optimizer(model, sps()).preview()


def test_what_cannot_be_watched_is_refused():
    model, _ = problem()
    with pytest.raises(FalllineError, match="a model and the optimizer"):
        fallline.watch(model, model)
    with pytest.raises(FalllineError, match="budget=2"):
        fallline.watch(model, OPTIMIZERS["sgd"](model), budget=2)


def test_methods_without_a_threshold_say_why():
    model, batch = problem()
    optimizer = fallline.optim.Lion(model.parameters(), lr=1e-3)
    watch = fallline.watch(model, optimizer, F.cross_entropy, every=5)
    loop(model, optimizer, batch, 25, watch)
    assert not len(watch.record.series("share"))
    assert any(f.kind == "no threshold" for f in watch.findings())


def test_a_chain_of_links_is_watched_too():
    model, batch = problem()
    optimizer = fallline.Optimizer(model, chain(fallline.transforms.clip_by_global_norm(1.0), sgd(lr=0.1)))
    watch = fallline.watch(model, optimizer, F.cross_entropy, every=5)
    loop(model, optimizer, batch, 25, watch)
    assert len(watch.record.series("sharpness")) == 6
