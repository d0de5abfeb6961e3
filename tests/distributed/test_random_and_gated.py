"""Random numbers, subspaces and gates on parts of a tensor: the same as on the whole."""

import torch
from sharding_tools import differences, everything, give_gradients, mesh_of, parameters

import fallline
from fallline.core.transform import chain
from fallline.methods import (
    adam_snsm,
    adams,
    adamw,
    adaptive_braking,
    entropy_sgd,
    frugal,
    galore,
    muon,
    psgd,
    sgd,
    shampoo,
    soap,
)
from fallline.transforms import (
    add_noise,
    clip_by_global_norm,
    clip_by_quantile,
    decay,
    every,
    masked,
    momentum,
    switch,
    track_median,
)
from ranks import run_ranks

LINKS = {
    "noise": lambda: chain(add_noise(0.3), momentum(0.9), sgd(0.1)),
    "frugal": lambda: frugal(0.1, density=0.5, gap=2),
    "galore": lambda: galore(0.1, density=0.5, gap=2),
    "snsm": lambda: adam_snsm(0.1, density=0.5, gap=2),
    "adams": lambda: adams(0.1, weight_decay=0.1),
    "muon": lambda: muon(0.1),
    "shampoo": lambda: shampoo(0.1, every=2, eps=1e-3),
    "soap": lambda: soap(0.1, every=2, sides="shorter"),
    "psgd": lambda: psgd(0.1, block=4),
    "braking": lambda: adaptive_braking(0.1),
    "entropy": lambda: entropy_sgd(0.1, eps=0.5, num_inner=2),
    "masked": lambda: chain(
        masked(clip_by_global_norm(0.1), "p[0-4]"), masked(decay(0.1), lambda p: p.dim() > 1), sgd(0.1)
    ),
    "gated": lambda: chain(every(2, momentum(0.9)), switch(adamw(0.1), sgd(0.1, momentum=0.9), at=2)),
    "robust": lambda: chain(clip_by_quantile(0.2), track_median(0.5), sgd(0.1)),
}


def run(name, mesh=None):
    named = parameters(mesh, dtype=torch.float64)
    optimizer = fallline.Optimizer(named, LINKS[name]())
    for t in range(4):
        give_gradients(named, t)
        optimizer.step()
    return everything(named, optimizer)


def all_links(rank, world_size):
    mesh = mesh_of(world_size)
    return {name: run(name, mesh) for name in LINKS}


def test_links_on_parts_equal_links_on_the_whole():
    ranks = run_ranks(all_links, 3)
    for name in LINKS:
        expected = run(name)
        assert not differences(ranks[0][name], expected, 1e-9), name
        for other in ranks[1:]:
            assert not differences(other[name], ranks[0][name], 0), f"ranks disagree on {name}"
