"""Storage: in which format state is kept between steps, and how a result is rounded into a half-precision parameter.

Methods never see it: what is stored is decoded to compute precision before their maths and encoded after it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from fallline.core.errors import InvalidTypeError, unknown
from fallline.core.formats import FORMATS, Blockwise, Format
from fallline.core.rounding import ROUNDED, kahan, random_bits, stochastic, stream_key
from fallline.core.transform import FromSite, Site, Transform, named_steps
from fallline.core.types import State

__all__ = ["Rounding", "Storage", "compute_dtype"]

Rounding = Literal["kahan", "stochastic", "nearest"]


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """Arithmetic is in float32 for half-precision parameters, else in the parameter's own dtype."""
    return torch.float32 if dtype in ROUNDED else dtype


@dataclass(frozen=True)
class Storage:
    """How the optimizer keeps what it keeps.

    Besides the slots, the state of a parameter may hold ``compensation``, what rounding has kept from a half-precision
    parameter so far, and ``stream``, the key of its random numbers.
    """

    format: str = "float32"
    rounding: Rounding = "kahan"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.format not in FORMATS:
            raise unknown("state format", str(self.format), FORMATS)
        if self.rounding not in get_args(Rounding):
            raise unknown("rounding", str(self.rounding), get_args(Rounding))
        if isinstance(self.seed, bool) or not isinstance(self.seed, int):
            raise InvalidTypeError(
                f"Optimizer got seed={self.seed!r}. Expected a whole number. Write for example seed=0."
            )

    @property
    def _format(self) -> Format:
        return FORMATS[self.format]

    @property
    def block(self) -> int | None:
        """Elements that share a scale, in formats with scales; tensors of whole blocks are faster laid out in rows of it."""
        return self._format.block_size if isinstance(self._format, Blockwise) else None

    def create(self, steps: Sequence[Transform], p: Tensor, name: str) -> State:
        """Everything kept for one parameter: every slot of every step, named ``step.slot``, and what rounding needs."""
        like = p.detach().to(compute_dtype(p.dtype))
        state: State = {}
        for key, step in named_steps(steps):
            for slot, init in step.slots.items():
                site = Site(name, f"{key}.{slot}", self.seed)
                value = init.make(step, like, site) if isinstance(init, FromSite) else init(step, like)
                created = self._created(site.slot, value, slot not in step.nonnegative)
                state.update(created)
                if slot in step.rows:
                    state.update(
                        {f"{k}.rows": v.repeat(step.rows[slot](step), *[1] * v.dim()) for k, v in created.items()}
                    )
        half = p.dtype in ROUNDED
        if half and self.rounding == "kahan":
            state["compensation"] = torch.zeros_like(p, requires_grad=False)
        coded = self.format != "float32" and any(v.dim() and v.dtype != like.dtype for v in state.values())
        if coded or (half and self.rounding == "stochastic"):
            state["stream"] = torch.tensor(stream_key(self.seed, name), device=p.device)
        return state

    def _created(self, slot: str, value: Tensor, signed: bool) -> State:
        if not self._format.applies(value):
            return {slot: value}
        return dict(zip(self._format.parts(slot), self._format.encode(value, signed), strict=True))

    def put(self, slot: str, value: Tensor, like: State, signed: bool) -> State:
        """What is kept for a slot that comes from elsewhere, in the form of the state ``like``; coded to nearest."""
        held = torch.empty_like(like[slot])
        if not self._is_coded(slot, like):
            return {slot: held.copy_(value)}
        flat = value.permute(_memory_order(held)).reshape(-1)  # blocks are those of the tensor in memory
        first, *others = self._format.encode(flat, signed)
        held.permute(_memory_order(held)).copy_(first.view(held.permute(_memory_order(held)).shape))
        return dict(zip(self.parts(slot), (held, *others), strict=True))

    def take(self, slot: str, state: State, signed: bool, dtype: torch.dtype) -> Tensor:
        """A slot of a parameter's state, in ``dtype`` and in memory of its own."""
        held = state[slot]
        if not self._is_coded(slot, state):
            return held.to(dtype, copy=True)
        order = _memory_order(held)
        flat = held.permute(order).reshape(-1)
        whole = self._format.decode((flat, *(state[part] for part in self.parts(slot)[1:])), signed)
        out = torch.empty_like(held, dtype=dtype)
        out.permute(order).copy_(whole.view(out.permute(order).shape))
        return out

    def parts(self, slot: str) -> tuple[str, ...]:
        """The stored tensors that a slot may have."""
        return self._format.parts(slot)

    def load(self, arrays: Mapping[str, Tensor]) -> Tensor:
        """The parameter in compute precision, with what rounding kept from it."""
        p = arrays["p"].to(compute_dtype(arrays["p"].dtype))
        return p + arrays["compensation"].to(p.dtype) if "compensation" in arrays else p

    def store(self, arrays: Mapping[str, Tensor], p: Tensor, u: Tensor, t: Any) -> State:
        """What is written when the parameter moves from ``p``, as loaded, to ``p - u``."""
        held = arrays["p"]
        if "compensation" in arrays:
            moved, left = kahan(held, arrays["compensation"], u)
            return {"p": moved, "compensation": left}
        if held.dtype in ROUNDED and self.rounding == "stochastic":
            return {"p": stochastic(p - u, held.dtype, self._noise("p", arrays, t, p))}
        return {"p": (p - u).to(held.dtype)}

    def decode(self, slot: str, arrays: Mapping[str, Tensor], signed: bool) -> Tensor:
        """A slot in compute precision."""
        dtype = compute_dtype(arrays["p"].dtype)
        if not self._is_coded(slot, arrays):
            return arrays[slot]
        return self._format.decode(tuple(arrays[part] for part in self.parts(slot)), signed, dtype)

    def encode(self, slot: str, value: Tensor, arrays: Mapping[str, Tensor], signed: bool, t: Any) -> State:
        """What is written when a slot gets a new value. Rounded to nearest, slow averages would stand still."""
        if not self._is_coded(slot, arrays):
            return {slot: value}
        noise = self._noise(slot, arrays, t, value)
        return dict(zip(self.parts(slot), self._format.encode(value, signed, noise), strict=True))

    def _is_coded(self, slot: str, arrays: Mapping[str, Tensor]) -> bool:
        held = arrays[slot]
        return held.dim() > 0 and held.dtype in (torch.bfloat16, torch.uint8) and self.format != "float32"

    def _noise(self, what: str, arrays: Mapping[str, Tensor], t: Any, like: Tensor) -> Tensor:
        """Random bits for every element of a tensor: the same in every layout, whatever was drawn before."""
        stream, shaped = arrays["stream"], like.shape == arrays["p"].shape
        places = _places(
            arrays["p"] if shaped else like
        )  # a result has lost the strides that tell the elements' places
        if stream.dim():  # of a part: where it lies in the whole, see sharding.Part
            own, whole, start = stream[1].clamp(min=1), stream[2], stream[3]
            places = places // own * whole + start + places % own if shaped else places
            stream = stream[0]
        return random_bits(stream ^ stream_key(0, what), t, places)


def _places(p: Tensor) -> Tensor:
    """The place of every element in memory, counted from zero, if the tensor is dense; else its place in reading order."""
    places = torch.arange(p.numel(), device=p.device)
    if p.dim() == 1 or p.is_contiguous():
        return places.view(p.shape)
    strides = p.stride()
    dense = sorted(range(p.dim()), key=lambda i: -strides[i])
    return places.as_strided(p.shape, p.stride()) if p.permute(dense).is_contiguous() else places.view(p.shape)


def _memory_order(x: Tensor) -> list[int]:
    """The order of dimensions in which a dense tensor is contiguous; reading order for one with gaps."""
    strides = x.stride()
    order = sorted(range(x.dim()), key=lambda i: -strides[i])
    return order if x.permute(order).is_contiguous() else list(range(x.dim()))
