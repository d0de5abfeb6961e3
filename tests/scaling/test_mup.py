"""muP: kinds and factors from shapes alone, initialisation whatever it was, groups, tied readouts, and what is refused."""

import copy

import pytest
import torch
from torch import nn

import fallline
from fallline.core.errors import FalllineError
from fallline.core.transform import chain
from fallline.methods import adamw, lamb, lion, sgd
from fallline.scaling import Width, coordinate_check, growth, mup, rate_factor
from fallline.scaling.mup import FAMILIES
from fallline.schedules import cosine
from fallline.transforms import clip_by_global_norm, clip_by_value


def mlp(width, **options):
    return nn.Sequential(
        nn.Linear(6, width, **options), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 3)
    )


class Transformer(nn.Module):
    """Every kind of parameter: a table, positions, attention, norms, an MLP, a readout that may share the table."""

    def __init__(self, width, tied=False, readout_first=False):
        super().__init__()
        if readout_first:
            self.head = nn.Linear(width, 11)
        self.embedding = nn.Embedding(11, width)
        self.positions = nn.Parameter(torch.randn(7, width))
        self.norm = nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, 2, batch_first=True)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        if not readout_first:
            self.head = nn.Linear(width, 11)
        if tied:
            self.embedding.weight = self.head.weight = nn.Parameter(torch.randn(11, width))

    def forward(self, tokens):
        x = self.norm(self.embedding(tokens) + self.positions)
        x = x + self.attention(x, x, x)[0]
        return self.head(x + self.down(self.up(x).relu()))


def test_kinds_come_from_shapes():
    found = growth(Transformer(32), Transformer(8))
    kinds = {name: w.kind for name, w in found.items()}
    assert {n for n, k in kinds.items() if k == "hidden"} == {
        "attention.in_proj_weight", "attention.out_proj.weight", "up.weight", "down.weight",
    }  # fmt: skip
    assert {n for n, k in kinds.items() if k == "output"} == {"head.weight"}
    assert {n for n, k in kinds.items() if k == "fixed"} == {"head.bias"}
    assert kinds["embedding.weight"] == kinds["positions"] == kinds["norm.weight"] == "input"
    assert found["positions"].fan_out == found["embedding.weight"].fan_out == 4


def test_convolutions():
    def net(width):
        return nn.Sequential(
            nn.Conv2d(3, width, 3), nn.Conv2d(width, width, 3, groups=width), nn.ConvTranspose2d(width, 2 * width, 3), nn.Conv2d(2 * width, 5, 1)
        )  # fmt: skip

    found = growth(net(24), net(8))
    assert [found[f"{i}.weight"].kind for i in range(4)] == ["input", "input", "hidden", "output"]
    assert (found["2.weight"].fan_in, found["2.weight"].fan_out) == (3, 3)


def test_both_sides_may_grow_by_different_factors():
    wide, base = nn.Linear(16, 24), nn.Linear(4, 8)
    width = growth(wide, base)["weight"]
    assert (width.kind, width.fan_in, width.fan_out) == ("hidden", 4, 3)
    assert rate_factor(width, "sgd") == 0.75
    assert rate_factor(width, "adam") == 0.25
    assert rate_factor(width, "muon") == pytest.approx(0.75**0.5)


def test_a_readout_that_is_a_bare_parameter_is_named():
    class Bare(nn.Module):
        def __init__(self, width):
            super().__init__()
            self.readout = nn.Parameter(torch.randn(3, width))

    assert growth(Bare(8), Bare(4))["readout"].kind == "input"
    found = growth(Bare(8), Bare(4), {"read*": "output"})["readout"]
    assert (found.kind, found.fan_in, found.fan_out) == ("output", 2, 1)


# -- initialisation --------------------------------------------------------------------------------------------------------

INITS = {
    "torch's": lambda w: None,
    "constant": lambda w: nn.init.normal_(w, std=0.02),
    "fan_in": nn.init.kaiming_normal_,
    "fan_average": nn.init.xavier_normal_,
    "orthogonal": nn.init.orthogonal_,
}


@pytest.mark.parametrize("name", INITS)
def test_sizes_follow_the_table_whatever_the_initialisation(name):
    def make(width):
        model = mlp(width)
        for p in model.parameters():
            if p.dim() == 2:
                INITS[name](p)
        return model

    torch.manual_seed(0)
    wide, base = make(512), make(64)
    mup(wide, base)
    for i, power in ((0, 0.0), (2, 0.5), (4, 1.0)):
        ratio = float(wide[i].weight.detach().std() / base[i].weight.detach().std())
        assert ratio == pytest.approx(8**-power, rel=0.15), i


def test_zeros_and_ones_stay():
    wide, base = mlp(64), mlp(16)
    for model in (wide, base):
        nn.init.zeros_(model[4].weight)
        nn.init.zeros_(model[2].bias)
    plan = mup(wide, base)
    assert not wide[4].weight.any()
    assert plan.scales["4.weight"] == plan.scales["2.bias"] == 1.0
    norm = nn.LayerNorm(32)
    mup(norm, nn.LayerNorm(8))
    assert (norm.weight == 1).all()


def test_twice_is_once():
    torch.manual_seed(0)
    wide, base = Transformer(64, tied=True), Transformer(16, tied=True)
    mup(wide, base)
    before = copy.deepcopy(wide)
    mup(wide, base)
    tokens = torch.randint(11, (2, 7))
    assert torch.equal(wide(tokens), before(tokens))


def test_loaded_weights_are_left_alone():
    wide, base = mlp(64), mlp(16)
    before = copy.deepcopy(wide.state_dict())
    plan = mup(wide, base, initialise=False)
    assert all(torch.equal(v, before[k]) for k, v in wide.state_dict().items())
    assert len(plan.groups(adamw(0.1))) == 2


@pytest.mark.parametrize("readout_first", [False, True])
def test_a_tied_readout_is_an_input_with_a_multiplier(readout_first):
    torch.manual_seed(0)
    wide, base = Transformer(64, True, readout_first), Transformer(16, True, readout_first)
    plain = copy.deepcopy(wide)
    plan = mup(wide, base)
    table = "head.weight" if readout_first else "embedding.weight"
    assert plan.widths[table].kind == "input"
    assert plan.multipliers == {"head": 0.25}
    x = torch.randn(2, 64)
    with torch.no_grad():
        wide.head.weight.copy_(plain.head.weight)
        wide.head.bias.copy_(plain.head.bias)
    assert torch.allclose(wide.head(x), 0.25 * (plain.head(x) - plain.head.bias) + plain.head.bias, atol=1e-6)
    assert "multiplied by 0.25" in str(plan)


# -- groups ----------------------------------------------------------------------------------------------------------------


def rates(groups):
    return {name: g["chain"] for g in groups for name, _ in g["params"]}


def test_groups_cover_every_parameter_once_and_train():
    torch.manual_seed(0)
    model = Transformer(32)
    plan = mup(model, Transformer(8))
    made = plan.groups(adamw(0.01, weight_decay=0.1))
    assert sorted(rates(made)) == sorted(n for n, _ in model.named_parameters())
    optimizer = fallline.Optimizer(made, adamw(0.01), fuse="eager")
    before = copy.deepcopy(dict(model.named_parameters()))
    model(torch.randint(11, (2, 7))).square().mean().backward()
    optimizer.step()
    moved = {n: float((p - before[n]).detach().abs().max()) for n, p in model.named_parameters()}
    assert moved["norm.weight"] == pytest.approx(0.01, rel=0.2)
    assert moved["up.weight"] == pytest.approx(0.0025, rel=0.2)


def test_rate_times_decay_stays_and_schedules_are_scaled():
    plan = mup(mlp(64), mlp(16))
    hidden = rates(plan.groups(adamw(lr=0.1 * cosine(10), weight_decay=0.1)))["2.weight"].values
    assert hidden["lr"](3) == pytest.approx(0.025 * cosine(10)(3))
    assert hidden["weight_decay"] == pytest.approx(0.4)


def test_patterns_have_families_of_their_own():
    plan = mup(mlp(64), mlp(16))
    found = rates(plan.groups({"*bias": sgd(0.1), "*": lion(0.1)}))
    assert found["0.bias"].values["lr"] == pytest.approx(0.4)
    assert found["4.weight"].values["lr"] == pytest.approx(0.025)


def test_clipping_of_the_global_norm_may_stand_around():
    plan = mup(mlp(64), mlp(16))
    made = chain(clip_by_global_norm(1.0), adamw(0.1))
    assert rates(plan.groups(made))["2.weight"].hypers["lr"] == pytest.approx(0.025)


def test_the_families_are_methods():
    assert {name for name in FAMILIES if name != "muon"} <= set(fallline.METHODS)


def test_the_plan_prints_as_a_table():
    lines = str(mup(mlp(64), mlp(16))).splitlines()
    assert lines[0].split() == [
        "parameter",
        "kind",
        "fan-in",
        "x",
        "fan-out",
        "x",
        "init",
        "x",
        "lr",
        "x:",
        "sgd",
        "adam",
        "muon",
    ]
    assert lines[5].split()[:2] == ["4.weight", "output"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: mup([], mlp(4)), "got list as model"),
        (lambda: mup(mlp(8), 4), "got int as base"),
        (lambda: mup(mlp(8), nn.Linear(6, 4)), "differs in"),
        (lambda: mup(nn.Linear(4, 4), nn.Bilinear(4, 4, 4)), "the same number of dimensions"),
        (lambda: mup(nn.Conv2d(8, 8, 5), nn.Conv2d(4, 4, 3)), "more than two sides grow"),
        (lambda: mup(mlp(8), mlp(4), {"*.typo": "input"}), "matches no parameter"),
        (lambda: mup(mlp(8), mlp(4), {"2.weight": "output"}), "which grows as hidden"),
        (lambda: mup(mlp(8), mlp(4, device="meta")), "meta device"),
        (lambda: mup(mlp(8), mlp(4)).groups(lamb(0.1)), "does not cover lamb. Expected one of adabelief"),
        (lambda: mup(mlp(8), mlp(4)).groups(chain(clip_by_value(1.0), adamw())), "Expected one method"),
        (lambda: rate_factor(Width("w", "input"), "shampoo"), "Unknown family 'shampoo'"),
        (lambda: coordinate_check(mlp, None, None, adamw(), [4]), "at least two widths"),
        (lambda: coordinate_check(mlp, None, None, adamw(), [4, 8], steps=0), "and one step"),
    ],
)
def test_errors(make, message):
    with pytest.raises(FalllineError, match=message):
        make()


def test_a_layer_that_stands_still_has_no_slope():
    batch = torch.randn(8, 6)
    found = coordinate_check(mlp, lambda m, x: 0 * m(x).sum(), batch, sgd(0.1), [4, 8], steps=1)
    assert not found.flat
    assert "stop learning" in found.verdict


def cnn(width):
    return nn.Sequential(
        nn.Conv2d(1, width, 3), nn.ReLU(), nn.Conv2d(width, width, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 5)
    )  # fmt: skip


@pytest.mark.parametrize(
    ("make", "shape", "made"),
    [
        (cnn, (8, 1, 7, 7), lion(1e-3)),
        (cnn, (8, 1, 7, 7), sgd(0.1)),
        (Transformer, None, adamw(1e-3, weight_decay=0.0)),
    ],
)
def test_convolutions_and_attention_are_flat_under_mup_and_not_without(make, shape, made):
    drawn = torch.Generator().manual_seed(0)
    x = torch.randint(11, (8, 7), generator=drawn) if shape is None else torch.randn(shape, generator=drawn)
    y = torch.randint(5, (x.shape[0],), generator=drawn)

    def loss(model, batch):
        found = model(batch[0])
        return nn.functional.cross_entropy(found if found.dim() == 2 else found.mean(1), batch[1])

    widths = [16, 64, 192]
    flat = coordinate_check(make, loss, (x, y), made, widths, base=16, steps=1)
    assert flat.flat, flat.slopes
    assert not coordinate_check(make, loss, (x, y), made, widths, steps=1).flat
    assert make is cnn or "attention" in flat.slopes
