"""What the tests of sharding share: steps of every reach, parameters cut in every way, and a short run over them."""

from collections import Counter

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch.utils._python_dispatch import TorchDispatchMode

import fallline
from fallline.core.transform import Transform, chain, scalars, transform, zeros
from fallline.core.types import Hyper, Reach
from fallline.methods import adamw, d_adapt_adam, dog, lamb
from fallline.transforms import clip_by_global_norm, descend, momentum


def rows_of(u):
    return u.reshape(len(u) if u.dim() else 1, -1)


@transform
class Orthogonalise(Transform):
    """Newton-Schulz iterations towards the orthogonal factor: a MATRIX step that reads nothing but u"""

    reach = Reach.MATRIX

    def update(self, u, at):
        x = rows_of(u) / (u.norm() + 1e-7)
        for _ in range(4):
            x = 1.5 * x - 0.5 * x @ x.T @ x
        return x.view(u.shape), {}


@transform
class ScaleByRows(Transform):
    """A MATRIX step with state of four shapes that reads p and g"""

    b: Hyper = 0.9
    reach = Reach.MATRIX
    slots = {
        **zeros("m"),
        **scalars("n"),
        "rows": lambda step, p: rows_of(p).new_zeros(len(rows_of(p))),
        "left": lambda step, p: torch.eye(len(rows_of(p)), dtype=p.dtype),
    }

    def update(self, u, at, *, m, rows, left, n):
        m = m.lerp(u, 1 - self.b)
        rows = self.b * rows + rows_of(at.g).square().mean(1) + at.p.abs().max()
        left = left.lerp(rows_of(u) @ rows_of(u).T, 0.1)
        u = (left @ rows_of(m) / (rows[:, None].sqrt() + n)).view(u.shape)
        return u, {"m": m, "rows": rows, "left": left, "n": n + 0.1}


@transform
class ScaleByMean(Transform):
    """A TENSOR step whose means DTensors must weigh by the sizes of parts, and whose flat view they refuse"""

    reach = Reach.TENSOR
    slots = scalars("n")

    def update(self, u, at, *, n):
        n = n + u.square().mean()
        return u / n.sqrt() + at.p.reshape(-1).mean(), {"n": n}


@transform
class DivideByLargest(Transform):
    """A GROUP step whose measure is no sum over parts, and which looks at its tensor besides"""

    reach = Reach.GROUP

    def measure(self, u, at):
        return u.abs().max() * at.p.norm()

    def update(self, u, at):
        return u / (at.total + u.norm()), {}


CHAINS = {
    "adamw": lambda: adamw(lr=0.1),  # ELEMENT
    "lamb": lambda: lamb(lr=0.1, weight_decay=0.1),  # TENSOR, between ELEMENT steps
    "mean": lambda: chain(ScaleByMean(), descend(0.1)),
    "muon": lambda: chain(momentum(0.9), Orthogonalise(), descend(0.1)),  # MATRIX, between ELEMENT steps
    "rows": lambda: chain(ScaleByRows(), descend(0.1)),
    "clip": lambda: chain(clip_by_global_norm(0.5), adamw(lr=0.1)),  # GROUP
    "dog": lambda: dog(reps_rel=1e-2),  # three sums, one of them of a slot
    "d_adapt": lambda: d_adapt_adam(d0=1e-2),  # two sums of slots alone
    "largest": lambda: chain(momentum(0.9), DivideByLargest(), descend(0.1)),
}

PARAMETERS = [
    ((7, 5), Shard(0)),
    ((7, 5), Shard(1)),
    ((6, 6), Replicate()),
    ((4, 4), None),  # plain
    ((6, 6), Shard(0)),
    ((1, 3), Shard(0)),  # empty on all ranks but one
    ((5,), Shard(0)),
    ((), Replicate()),
    ((3, 2), None),
    ((2, 4, 3), Shard(1)),
    ((3, 6), Shard(1)),  # on two ranks, parts of the shape that "left" has
]
EVEN = [((6, 6), Shard(0)), ((12, 6), Shard(1)), ((6,), Shard(0))]


def mesh_of(world_size):
    return init_device_mesh("cpu", (world_size,))


def parameters(mesh=None, kinds=PARAMETERS, dtype=torch.float32):
    """Named parameters with the same values on any mesh, or without one."""
    torch.manual_seed(0)
    return [(f"p{i}", nn.Parameter(spread(torch.randn(s, dtype=dtype), mesh, x))) for i, (s, x) in enumerate(kinds)]


def spread(value, mesh, placement):
    if mesh is None or placement is None:
        return value
    placements = placement if isinstance(placement, list) else [placement]
    return distribute_tensor(value, mesh, placements, src_data_rank=None)  # all ranks have it: nothing is sent


def give_gradients(named, t, like=None):
    torch.manual_seed(100 + t)
    for _, p in named:
        g = torch.randn(p.shape).to(p.dtype)
        p.grad = spread(g, p.device_mesh, list(p.placements)) if hasattr(p, "device_mesh") else g


def whole(x):
    return x.full_tensor().detach().clone() if isinstance(x, DTensor) else x.detach().clone()


def everything(named, optimizer):
    """Parameters and state by name, put together."""
    return {name: {"p": whole(p), **{k: whole(v) for k, v in optimizer.state[p].items()}} for name, p in named}


def run(name, mesh=None, fuse="eager", kinds=PARAMETERS, dtype=torch.float32, steps=8, **options):
    """A few steps of a chain; returns parameters and state, put together."""
    named = parameters(mesh, kinds, dtype)
    optimizer = fallline.Optimizer(named, CHAINS[name](), fuse=fuse, **options)
    for t in range(steps):
        give_gradients(named, t)
        optimizer.step()
    for _, p in named:
        for key, value in optimizer.state[p].items():
            if isinstance(value, DTensor):
                assert value.shape == p.shape
                assert value.placements == p.placements
                assert value.to_local().shape == p.to_local().shape
            else:
                assert key == "step" or value.shape != p.shape or not isinstance(p, DTensor) or key == "stream"
    return everything(named, optimizer)


def differences(got, expected, tolerance):
    """Where two results differ by more than the tolerance, relative to the largest entry."""
    assert got.keys() == expected.keys()
    found = []
    for name in got:
        assert got[name].keys() == expected[name].keys()
        for key, a in got[name].items():
            b = expected[name][key]
            assert (a.shape, a.dtype) == (b.shape, b.dtype), (name, key)
            error = (a.double() - b.double()).abs().max().item() if a.numel() else 0.0
            if not error <= tolerance * max(b.double().abs().max().item(), 1e-3):
                found.append((name, key, error))
    return found


class Collectives(TorchDispatchMode):
    """Counts the collectives that are called inside it."""

    def __init__(self):
        super().__init__()
        self.calls = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if any(issubclass(t, DTensor) for t in types):
            return NotImplemented  # the DTensor first, so that what it sends comes by here
        name = func._opname.strip("_").replace("_base", "").replace("_", "")
        if func.namespace in ("c10d", "_c10d_functional") and not name.startswith("wait") and "autograd" not in name:
            self.calls[name] += 1
        return func(*args, **(kwargs or {}))
