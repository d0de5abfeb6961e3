"""Sharding: parameters that are DTensors, of which every rank holds a part.

A step that looks at single elements runs on the parts, as if they were tensors of their own; ``spread.py`` runs the others.
The state of a DTensor is held as DTensors with its placements, apart from what has another shape than the parameter, which
is the same on all ranks. Only where a DTensor exists is torch.distributed.tensor imported: it takes a second.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterator, MutableMapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeGuard

import torch
from torch import Tensor

from fallline.core.errors import InvalidValueError
from fallline.core.storage import Storage
from fallline.core.transform import Chain, Transform
from fallline.core.types import Reach, State
from fallline.core.units import Arrays, Group, Leaf

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor

__all__ = [
    "Cut",
    "Part",
    "Parts",
    "agreed",
    "aligned",
    "copied",
    "create",
    "cut_of",
    "is_dtensor",
    "is_even",
    "leaf_of",
    "local",
    "own_part",
    "scattered",
    "whole",
    "wrapped",
]


def is_dtensor(x: Tensor) -> TypeGuard[DTensor]:
    """Whether a tensor is a DTensor; imports nothing."""
    known = sys.modules.get("torch.distributed.tensor")
    return known is not None and isinstance(x, known.DTensor)


def scattered(x: Tensor) -> bool:
    """Whether ranks hold different parts of it."""
    return is_dtensor(x) and bool(_sharded_dims(x))


def local(x: Tensor) -> Tensor:
    """This rank's part, in the same memory; a plain tensor is its own part."""
    if not is_dtensor(x):
        return x
    with torch.no_grad():
        part: Any = x.to_local()
    part = part.wait() if hasattr(part, "wait") else part  # of a collective that has not ended
    return part.detach() if isinstance(part, torch.nn.Parameter) else part


def whole(x: Tensor) -> Tensor:
    """All of it, on every rank."""
    if not is_dtensor(x):
        return x
    with torch.no_grad():
        return x.full_tensor()


def wrapped(part: Tensor, like: DTensor) -> DTensor:
    """A DTensor of which this is this rank's part, laid out as ``like``; nothing is sent."""
    from torch.distributed.tensor import DTensor

    if part.storage_offset():
        # torch (2.13) copies the offset into the DTensor, and deepcopy then takes it for a tensor with memory of its own
        part = torch.from_dlpack(part.detach())
    return DTensor.from_local(
        part, like.device_mesh, like.placements, run_check=False, shape=like.shape, stride=like.stride()
    )


def own_part(full: Tensor, like: DTensor) -> Tensor:
    """This rank's part of a tensor that all ranks hold, in memory of its own; nothing is sent."""
    from torch.distributed.tensor import DTensor, Replicate

    everywhere = [Replicate()] * like.device_mesh.ndim
    held = DTensor.from_local(full, like.device_mesh, everywhere, run_check=False)
    return local(held.redistribute(placements=like.placements)).clone()


def aligned(g: Tensor, p: Tensor) -> Tensor:
    """This rank's part of a gradient, once it is laid out as its parameter: Partial ones are summed, others resharded."""
    if not is_dtensor(p):
        return g
    if not is_dtensor(g):
        raise InvalidValueError(
            f"The gradient of a DTensor parameter (shape {tuple(p.shape)}, {list(p.placements)}) is a plain tensor of shape "
            f"{tuple(g.shape)}. Expected a DTensor, since a plain one does not say which part it is. Set "
            f"p.grad = distribute_tensor(g, p.device_mesh, p.placements), or DTensor.from_local(...) for a part."
        )
    return local(g if g.placements == p.placements else g.redistribute(p.device_mesh, p.placements))


# -- where the parts lie ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cut:
    """How a DTensor is cut along one dimension over one group of ranks, as torch.chunk does it."""

    mesh_dim: int
    dim: int
    starts: tuple[int, ...]
    sizes: tuple[int, ...]

    def shape(self, p: Tensor, rank: int) -> tuple[int, ...]:
        """The shape of a rank's part."""
        return (*p.shape[: self.dim], self.sizes[rank], *p.shape[self.dim + 1 :])


def cut_of(p: DTensor) -> Cut | None:
    """The one cut of a scattered DTensor; None if it is cut over several dimensions of its mesh, or in stripes."""
    from torch.distributed.tensor import Shard

    dims = _sharded_dims(p)
    if len(dims) != 1 or type(p.placements[dims[0]]) is not Shard:
        return None
    (mesh_dim,) = dims
    dim = p.placements[mesh_dim].dim % p.dim()  # type: ignore[attr-defined]
    length, ranks = p.shape[dim], p.device_mesh.size(mesh_dim)
    each = -(-length // ranks)
    starts = [min(length, rank * each) for rank in range(ranks + 1)]
    return Cut(mesh_dim, dim, tuple(starts[:-1]), tuple(b - a for a, b in zip(starts, starts[1:], strict=False)))


def is_even(p: DTensor) -> bool:
    """Whether all ranks hold parts of one shape, however often the tensor is cut."""
    pieces = [1] * p.dim()
    for i in _sharded_dims(p):
        pieces[p.placements[i].dim] *= p.device_mesh.size(i)  # type: ignore[attr-defined]
    return all(length % number == 0 for length, number in zip(p.shape, pieces, strict=True))


def _sharded_dims(p: DTensor) -> list[int]:
    return [i for i, x in enumerate(p.placements) if not x.is_replicate() and p.device_mesh.size(i) > 1]


# -- state ------------------------------------------------------------------------------------------------------------


def create(storage: Storage, steps: Sequence[Transform], p: Tensor, name: str) -> State:
    """``Storage.create`` for any parameter. What steps of wider reach start from may depend on the whole tensor."""
    if not is_dtensor(p):
        return storage.create(steps, p, name)
    _check(storage, p, name)
    narrow = Chain(steps).reach == Reach.ELEMENT or not scattered(p)
    start = local(p) if narrow else whole(p)
    state = storage.create(steps, start, name)
    for key, value in state.items():
        if value.shape == start.shape and key != "stream":
            state[key] = wrapped(value if narrow else own_part(value, p), p)
    if "stream" in state and scattered(p) and (cut_of(p) is None or not local(p).is_contiguous()):
        raise InvalidValueError(
            f"Rounding at random got {name!r} with placements {list(p.placements)}. Expected a contiguous part cut along one "
            f"dimension of the mesh, since random numbers go by the place of an element in the whole tensor. Use "
            f"rounding='kahan' and state_format='float32'."
        )
    return state


def _check(storage: Storage, p: DTensor, name: str) -> None:
    if any(placement.is_partial() for placement in p.placements):
        raise InvalidValueError(
            f"Parameter {name!r} has placements {list(p.placements)}. Expected Shard or Replicate: of a sum, the addends "
            f"cannot be stepped. Call p.redistribute(placements=...) before making it a parameter."
        )
    if storage.block is not None and scattered(p):
        raise InvalidValueError(
            f"state_format={storage.format!r} got the sharded parameter {name!r} ({list(p.placements)}). Its scales belong "
            f"to blocks of 256 elements of the whole tensor, which shards cut and no other number of ranks could load. Use "
            f"state_format='bfloat16', or 'float32'."
        )


def copied(like: Tensor, value: Tensor) -> Tensor:
    """A copy of a loaded tensor, laid out over ranks and in memory as ``like``; both may be DTensors or plain."""
    fresh = torch.empty_like(like, dtype=value.dtype)
    if is_dtensor(like):
        # both know their own part, so that nothing is sent unless placements differ
        part = aligned(value.detach(), like) if is_dtensor(value) else own_part(value.detach(), like)
        local(fresh).copy_(part)
        return fresh
    return fresh.copy_(whole(value.detach()))


class Parts(MutableMapping[str, Tensor]):
    """The state of a DTensor as this rank's parts, in the same memory; a part that is set is wrapped as what it replaces."""

    def __init__(self, state: State) -> None:
        self._state = state

    def is_part(self, key: str) -> bool:
        """Whether ranks hold parts of it, rather than the same."""
        return is_dtensor(self._state[key])

    def __getitem__(self, key: str) -> Tensor:
        return local(self._state[key])

    def __setitem__(self, key: str, value: Tensor) -> None:
        held = self._state[key]
        self._state[key] = wrapped(value, held) if is_dtensor(held) else value

    def __delitem__(self, key: str) -> None:
        del self._state[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._state)

    def __len__(self) -> int:
        return len(self._state)


def leaf_of(p: Tensor, state: State, name: str, place: int) -> Leaf:
    """The unit of work for a parameter of any kind."""
    return Part(p, state, name, place) if is_dtensor(p) else Leaf(p, state, name, place)


class Part(Leaf):
    """This rank's part of a DTensor, as a unit of work."""

    state: Parts

    def __init__(self, p: DTensor, state: State, name: str = "", place: int = 0) -> None:
        super().__init__(local(p), Parts(state), name, place)
        self.whole = p
        self.scattered = scattered(p)
        mesh = p.device_mesh
        kind = (mesh.ndim, mesh.mesh_dim_names or (), tuple(mesh.shape))
        self.groups = tuple((*kind, i, mesh.device_type, mesh.get_group(i)) for i in _sharded_dims(p))
        self._cut = cut_of(p) if self.scattered and "stream" in state else None

    def arrays(self, reach: Reach, flat: bool = True, slots: Collection[str] = ()) -> Iterator[tuple[Arrays, bool]]:
        for arrays, batched in super().arrays(reach, flat, slots):
            if self._cut is not None:
                arrays["stream"] = self._stream(self._cut)
            yield arrays, batched

    def _stream(self, cut: Cut) -> Tensor:
        """The key of the random numbers, and three numbers by which storage finds an element's place in the whole."""
        after = self.whole.shape[cut.dim + 1 :].numel()
        own, all_of_it = self.p.shape[cut.dim] * after, self.whole.shape[cut.dim] * after
        start = cut.starts[self.whole.device_mesh.get_local_rank(cut.mesh_dim)] * after  # type: ignore[attr-defined]
        key = self.state["stream"]
        return torch.cat([key.view(1), torch.tensor([own, all_of_it, start], device=key.device)])


# -- one decision for all ranks ---------------------------------------------------------------------------------------


class Joined(Protocol):
    """Whatever knows over which groups of ranks its tensors are sharded."""

    @property
    def groups(self) -> tuple[Group, ...]: ...


def agreed(ok: bool | Tensor, units: Sequence[Joined]) -> bool | Tensor:
    """Whether it is so on every rank that holds a part of these units; without parts nothing is sent."""
    found: dict[Group, None] = {group: None for unit in units for group in unit.groups}
    if not found:
        return ok
    import torch.distributed as dist

    # Meshes are met in the same order everywhere: sorted by what all ranks know, and each group once.
    order = {group[-1]: group[-2] for group in sorted(found, key=lambda group: group[:-1])}
    flag = torch.as_tensor(ok).to(torch.int32)
    for group, device in order.items():
        flag = flag.to(device)
        dist.all_reduce(flag, op=dist.ReduceOp.MIN, group=group)
    return bool(flag) if isinstance(ok, bool) else flag.to(ok.device).to(torch.bool)
