"""Spread: steps that look at a whole tensor, on parameters of which every rank holds a part.

Three ways, by what a step declares. Consecutive ELEMENT steps run on the parts, compiled if asked for. A TENSOR step runs
on DTensors, whose reductions are sums over ranks; each is taken once. A MATRIX step is spread: every tensor has an owner,
which gathers it, computes, and sends the parts back, in two collectives for all tensors together. So are TENSOR steps on
tensors of which a rank holds nothing, or whose operations DTensors refuse.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import groupby
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from fallline.core.kernel import Numbers, Segment, apply, decoded, settled
from fallline.core.sharding import Cut, Part, cut_of, is_dtensor, is_even, local, own_part, whole, wrapped
from fallline.core.transform import Transform
from fallline.core.types import At, Reach

__all__ = ["described", "measured", "pieces", "step_parts"]

Values: TypeAlias = dict[str, Tensor]
"""What a step reads or writes of one tensor: ``u``, ``p``, ``g`` and slots."""

Work: TypeAlias = Callable[[Values], Values]

_REFUSED: set[Any] = set()  # (steps, placements, shape) of which DTensors have refused an operation


def pieces(segment: Segment) -> list[Segment]:
    """The segment, cut wherever the reach changes."""
    runs = [tuple(run) for _, run in groupby(segment.named, key=lambda pair: _way(pair[1]))]
    ends = len(runs) - 1
    return [
        Segment(run, segment.first and i == 0, segment.last and i == ends, segment.storage)
        for i, run in enumerate(runs)
    ]


def _way(step: Transform) -> Reach:
    return Reach.TENSOR if step.reach == Reach.GROUP else step.reach


def step_parts(piece: Segment, parts: Sequence[Part], numbers: Sequence[Numbers]) -> None:
    """Advance the parts by steps that look at the whole tensors; called by all ranks."""
    read = []
    for part, given in zip(parts, numbers, strict=True):
        if not piece.last:
            part.want_update()
        ((arrays, _),) = part.arrays(Reach.MATRIX, flat=False)
        arrays = piece.touched(arrays)
        read.append((arrays, *decoded(piece, arrays, given)))
    jobs = [
        _Job(part, _update(piece, at), {"u": u, "p": at.p, "g": at.g, **old}, {"u": u, **old})
        for part, (_, u, at, old) in zip(parts, read, strict=True)
    ]
    for job in jobs:
        job.unread = _unread(piece, job) if piece.reach >= Reach.MATRIX else frozenset()
    key = piece.structure if piece.reach < Reach.MATRIX else None
    for part, job_out, given, (arrays, _, at, old) in zip(parts, _done(jobs, key), numbers, read, strict=True):
        out = dict(job_out)
        u = out.pop("u")
        # State that is the same on all ranks must not be taken for a part because it happens to have a part's shape.
        alike = {k for k, v in old.items() if v.shape == at.p.shape and not part.state.is_part(k)}
        arrays, old, out = ({k: v[None] if k in alike else v for k, v in x.items()} for x in (arrays, old, out))
        ((held, _),) = part.arrays(Reach.MATRIX, flat=False)
        for name, value in settled(piece, arrays, given, u, out, at, old).items():
            held[name].copy_(value.view(held[name].shape))


def _update(piece: Segment, at: At) -> Work:
    def work(values: Values) -> Values:
        u, new = apply(piece.named, values["u"], at._replace(p=values["p"], g=values["g"]), values)
        return {"u": u, **new}

    return work


def measured(segment: Segment, parts: Sequence[Part], numbers: Sequence[Numbers]) -> list[Tensor]:
    """What the GROUP step that opens a segment measures on each whole tensor, the same on all ranks; in one collective where
    sums can be put off."""
    key, step = segment.named[0]
    opening = Segment(segment.named[:1], segment.first, segment.last, segment.storage)
    jobs = []
    for part, given in zip(parts, numbers, strict=True):
        ((arrays, _),) = part.arrays(Reach.MATRIX, flat=False)
        u, at, slots = decoded(opening, opening.touched(arrays), given)
        job = _Job(part, _measure(key, step, at), {"u": u, "p": at.p, "g": at.g, **slots}, {})
        if opening.structure not in _SHAPES:
            _SHAPES[opening.structure] = _measured_shape(job)
        job.returns = {"measure": at.p.new_zeros(_SHAPES[opening.structure])}
        jobs.append(job)
    return [out["measure"] for out in _done(jobs, (opening.structure, "measure"), put_off=True)]


def _measure(key: str, step: Transform, at: At) -> Work:
    def work(values: Values) -> Values:
        slots = {s: values[f"{key}.{s}"] for s in step.slots}
        return {"measure": step.measure(values["u"], at._replace(p=values["p"], g=values["g"]), **slots)}

    return work


_SHAPES: dict[Any, torch.Size] = {}


def _measured_shape(job: _Job) -> torch.Size:
    """One number or several: found on a tensor without content."""
    shapes = {k: job.p.shape if job.is_part(k) else v.shape for k, v in job.reads.items()}
    empty = {k: torch.empty(shapes[k], dtype=v.dtype, device="meta") for k, v in job.reads.items()}
    return job.work(empty)["measure"].shape


class _Job:
    """Work on one whole tensor: what it reads, parts where the whole is cut, and the form of what it returns."""

    def __init__(self, part: Part, work: Work, reads: Values, returns: Values) -> None:
        self.part, self.work, self.reads, self.returns = part, work, reads, returns
        self.unread: frozenset[str] = frozenset()  # what need not be sent
        self.p = part.whole
        self.cut: Cut | None = cut_of(self.p)  # type: ignore[arg-type]

    def is_part(self, key: str) -> bool:
        return key in ("u", "p", "g") or (key != "measure" and self.part.state.is_part(key))

    @property
    def may_have_empty_parts(self) -> bool:
        """Whether some rank may hold nothing, of which it could take no maximum; ranks must not differ in that."""
        return not is_even(self.p) if self.cut is None else 0 in self.cut.sizes  # type: ignore[arg-type]


def _done(jobs: Sequence[_Job], key: Any, put_off: bool = False) -> list[Values]:
    """The results of all jobs as parts: on DTensors if there is a ``key`` to remember refusals by, else spread."""
    results: dict[int, Values] = {}
    for i, job in enumerate(jobs):
        known = (key, job.p.placements, job.p.shape)  # type: ignore[attr-defined]
        if key is None or job.may_have_empty_parts or known in _REFUSED:
            continue
        try:
            results[i] = _on_dtensors(job, put_off)
        except torch.OutOfMemoryError:
            raise
        except (NotImplementedError, RuntimeError):  # no rule for an operation, or for its shapes; so on all ranks
            _REFUSED.add(known)
    left = [i for i in range(len(jobs)) if i not in results]
    results.update(zip(left, _spread([jobs[i] for i in left]), strict=True))
    found = [results[i] for i in range(len(jobs))]
    return _summed(found) if put_off else found


# -- on DTensors ------------------------------------------------------------------------------------------------------


class _Settled(TorchFunctionMode):
    """Completes the sum over ranks of every result at once: DTensors would do so anew at each use."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        from torch.utils._pytree import tree_map

        return tree_map(_completed, func(*args, **(kwargs or {})))


def _completed(x: Any) -> Any:
    if not isinstance(x, Tensor) or not is_dtensor(x) or not any(q.is_partial() for q in x.placements):
        return x
    from torch.distributed.tensor import Replicate

    return x.redistribute(placements=[Replicate() if q.is_partial() else q for q in x.placements])


@contextmanager
def _dtensor_maths(put_off: bool) -> Iterator[None]:
    from torch.distributed.tensor.experimental import implicit_replication

    with implicit_replication():  # plain tensors are the same on all ranks
        if put_off:
            yield
        else:
            with _Settled():
                yield


def _on_dtensors(job: _Job, put_off: bool) -> Values:
    like: Any = job.p
    made: dict[int, Tensor] = {}
    values = {}
    for name, value in job.reads.items():
        if job.is_part(name):
            made.setdefault(id(value), wrapped(value, like))
        values[name] = made.get(id(value), value)
    with _dtensor_maths(put_off):
        out = job.work(values)
        if put_off:
            return out
    return {name: _unwrapped(value, job, name) for name, value in out.items()}


def _unwrapped(value: Tensor, job: _Job, name: str) -> Tensor:
    like: Any = job.p
    if not job.is_part(name):
        return whole(value)
    if not is_dtensor(value):
        return own_part(value, like)
    return local(value.redistribute(like.device_mesh, like.placements))


def _summed(found: Sequence[Values]) -> list[Values]:
    """Numbers whose sums over ranks were put off: one collective for all that are spread alike."""
    from torch.distributed.tensor import DTensor

    numbers = [out["measure"] for out in found]
    alike: dict[Any, list[int]] = {}
    for i, x in enumerate(numbers):
        if is_dtensor(x):
            alike.setdefault((x.device_mesh, x.placements, x.dtype), []).append(i)
    for (mesh, placements, _), places in alike.items():
        stack = torch.stack([local(numbers[i]) for i in places])
        summed = DTensor.from_local(stack, mesh, placements, run_check=False).full_tensor()
        for i, x in zip(places, summed.unbind(), strict=True):
            numbers[i] = x
    return [{"measure": x} for x in numbers]


# -- spread over ranks ------------------------------------------------------------------------------------------------


def _spread(jobs: Sequence[_Job]) -> list[Values]:
    """The results as parts. Tensors with more than one cut are gathered by all ranks, each of which computes the same."""
    results: dict[int, Values] = {}
    groups: dict[Any, list[int]] = {}
    for i, job in enumerate(jobs):
        like: Any = job.p
        if job.cut is not None:
            groups.setdefault((like.device_mesh, job.cut.mesh_dim), []).append(i)
            continue
        full = {k: whole(wrapped(v, like)) if job.is_part(k) else v for k, v in job.reads.items()}
        results[i] = {k: own_part(v, like) if job.is_part(k) else v for k, v in job.work(full).items()}
    for (mesh, mesh_dim), places in groups.items():
        done = _by_owners([jobs[i] for i in places], mesh.get_group(mesh_dim), mesh.get_local_rank(mesh_dim))
        results.update(zip(places, done, strict=True))
    return [results[i] for i in range(len(jobs))]


def _by_owners(jobs: Sequence[_Job], group: Any, rank: int) -> list[Values]:
    ranks = range(group.size())
    owned = _owned(jobs, len(ranks))
    names = [_distinct(job) for job in jobs]  # what is sent: each tensor once, though u may be g
    sent = [[jobs[i].reads[k] for i in owned[r] for k in names[i]] for r in ranks]
    forms = [[_form(jobs[i], k, r, jobs[i].reads[k].dtype) for i in owned[rank] for k in names[i]] for r in ranks]
    received = [iter(row) for row in _exchange(sent, forms, group, jobs[0].part.p.device)]

    answers: list[list[Tensor]] = [[] for _ in ranks]
    for i in owned[rank]:
        job, cut = jobs[i], _known(jobs[i].cut)
        gathered = {
            id(job.reads[k]): torch.cat([next(row) for row in received], cut.dim)  # parts in the order of ranks
            for k in names[i]
        }
        full = {k: gathered.get(id(v), v) for k, v in job.reads.items()}
        full.update({k: job.reads[k].new_zeros(()).expand(job.p.shape) for k in job.unread})
        out = {**{k: v for k, v in full.items() if k in job.returns}, **job.work(full)}
        for k, like in job.returns.items():
            value = out[k].to(like.dtype)
            for r in ranks:
                part = value.narrow(cut.dim, cut.starts[r], cut.sizes[r]) if job.is_part(k) else value
                answers[r].append(part)

    expected = [[_form(jobs[i], k, rank, v.dtype) for i in owned[r] for k, v in jobs[i].returns.items()] for r in ranks]
    given = _exchange(answers, expected, group, jobs[0].part.p.device)
    results: dict[int, Values] = {}
    for r in ranks:
        values = iter(given[r])
        for i in owned[r]:
            results[i] = {k: next(values) for k in jobs[i].returns}
    return [results[i] for i in range(len(jobs))]


def _owned(jobs: Sequence[_Job], ranks: int) -> list[list[int]]:
    """The tensors of every rank: from the largest on, each goes to the rank that has the least to do."""
    owned: list[list[int]] = [[] for _ in range(ranks)]
    load = [0] * ranks
    for i in sorted(range(len(jobs)), key=lambda i: -jobs[i].p.numel()):
        r = load.index(min(load))
        owned[r].append(i)
        load[r] += jobs[i].p.numel()
    return owned


_UNREAD: dict[Any, frozenset[str]] = {}


def _unread(piece: Segment, job: _Job) -> frozenset[str]:
    """Which of ``p`` and ``g`` the steps do not look at, found by running them once on tensors without content."""
    key = (piece.structure, job.p.shape, job.p.dtype)
    if key not in _UNREAD:
        seen: set[str] = set()

        class Watched(At):
            @property
            def p(self) -> Tensor:
                seen.add("p")
                return values["p"]

            @property
            def g(self) -> Tensor:
                seen.add("g")
                return values["g"]

            def __getitem__(self, place: Any) -> Any:
                seen.update("pg")
                return tuple.__getitem__(self, place)

            def __iter__(self) -> Iterator[Any]:
                seen.update("pg")
                return tuple.__iter__(self)

        def empty(name: str) -> Tensor:
            value = job.reads[name]
            return torch.empty(job.p.shape if job.is_part(name) else value.shape, dtype=value.dtype, device="meta")

        values, number = {name: empty(name) for name in job.reads}, torch.empty((), device="meta")
        try:
            apply(piece.named, values["u"], Watched(values["p"], values["g"], number, number, number), values)
        except Exception:  # some operations need content, as does a branch on t
            seen.update("pg")
        _UNREAD[key] = frozenset("pg") - seen
    return _UNREAD[key]


def _distinct(job: _Job) -> list[str]:
    seen: dict[int, str] = {}
    for name, value in job.reads.items():
        if job.is_part(name) and name not in job.unread:
            seen.setdefault(id(value), name)
    return list(seen.values())


def _form(job: _Job, name: str, rank: int, dtype: torch.dtype) -> tuple[tuple[int, ...], torch.dtype]:
    """Shape and dtype of what a rank holds of something."""
    if job.is_part(name):
        return _known(job.cut).shape(job.p, rank), dtype
    return tuple(job.returns[name].shape), dtype


def _known(cut: Cut | None) -> Cut:
    assert cut is not None
    return cut


def _exchange(sent: Sequence[Sequence[Tensor]], forms: Sequence[Sequence[Any]], group: Any, device: Any) -> Any:
    """Send a list of tensors to every rank and receive one from each, in one collective, whatever their dtypes."""
    import torch.distributed as dist

    rows = [torch.cat([_bytes(x) for x in row]) if row else torch.empty(0, dtype=torch.uint8) for row in sent]
    lengths = [[_length(form) for form in row] for row in forms]
    totals = [sum(row) for row in lengths]
    result = torch.empty(sum(totals), dtype=torch.uint8, device=device)
    dist.all_to_all_single(
        result, torch.cat([row.to(device) for row in rows]), totals, [row.numel() for row in rows], group=group
    )
    received = []
    for row, row_forms, sizes in zip(torch.split(result, totals), forms, lengths, strict=True):
        pairs = zip(torch.split(row, sizes), row_forms, strict=True)
        received.append([piece.clone().view(dtype).view(shape) for piece, (shape, dtype) in pairs])  # clone: aligned
    return received


def _bytes(x: Tensor) -> Tensor:
    return x.detach().contiguous().view(-1).view(torch.uint8)


def _length(form: tuple[tuple[int, ...], torch.dtype]) -> int:
    shape, dtype = form
    return torch.Size(shape).numel() * dtype.itemsize


# -- in words ---------------------------------------------------------------------------------------------------------


def described(segments: Sequence[Segment], parts: Sequence[Part]) -> list[str]:
    """How sharded parameters are run, for ``Optimizer.explain``."""
    if not parts:
        return []
    lines = [f"sharded   {len(parts)} tensors; counted are this rank's parts"]
    ways: Mapping[Reach, str] = {
        Reach.TENSOR: "on DTensors, eagerly",
        Reach.MATRIX: "eagerly on whole tensors, spread over ranks",
    }
    for reach, way in ways.items():
        names = [key for segment in segments for key, step in segment.named if _way(step) == reach]
        lines += [f"          {', '.join(names)} {way}"] * bool(names)
    return lines
