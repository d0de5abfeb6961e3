"""One file: what is saved comes back, bit for bit, whatever kind of value it is."""

import json
import math
import os

import pytest
import torch
from checkpoint_tools import bits
from safetensors import safe_open
from torch import nn

import fallline
from fallline.checkpoint import CheckpointError, load, read, save
from fallline.checkpoint.file import DTYPES
from fallline.checkpoint.structure import Tensors, decode, encode

METHODS = {
    "sgd": lambda p: fallline.optim.SGD(p, lr=0.05, momentum=0.9),
    "adamw": lambda p: fallline.optim.AdamW(p, lr=0.01),
    "nadam": lambda p: fallline.optim.NAdam(p, lr=0.01),
    "lamb": lambda p: fallline.Optimizer(p, fallline.methods.lamb(lr=0.01)),
}


def net(seed=0, dtype=torch.float32):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 2)).to(dtype)


def train(model, optimizer, steps):
    x = torch.linspace(-1, 1, 20, dtype=model[0].weight.dtype).reshape(5, 4)
    for _ in range(steps):
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("name", METHODS)
def test_training_continues_bit_for_bit(tmp_path, name, dtype):
    model = net(dtype=dtype)
    optimizer = METHODS[name](model.named_parameters())
    train(model, optimizer, 3)
    save(tmp_path / "run", model=model, optimizer=optimizer)
    other = net(seed=1, dtype=dtype)
    resumed = METHODS[name](other.named_parameters())
    train(other, resumed, 1)
    load(tmp_path / "run", model=other, optimizer=resumed)
    assert bits(resumed.state_dict()) == bits(optimizer.state_dict())
    for m, o in ((model, optimizer), (other, resumed)):
        train(m, o, 3)
    assert bits(dict(other.state_dict())) == bits(dict(model.state_dict()))
    assert bits(resumed.state_dict()) == bits(optimizer.state_dict())


def test_any_torch_optimizer_and_scheduler_can_be_saved(tmp_path):
    model, other = net(), net(seed=1)
    optimizer, resumed = (torch.optim.Adam(m.parameters(), lr=0.01) for m in (model, other))
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2)
    train(model, optimizer, 3)
    scheduler.step()
    save(tmp_path / "run", model=model, optimizer=optimizer, extra={"scheduler": scheduler.state_dict()})
    extra = load(tmp_path / "run", model=other, optimizer=resumed)
    assert extra["scheduler"] == scheduler.state_dict()
    assert bits(resumed.state_dict()) == bits(optimizer.state_dict())


arena = torch.arange(24, dtype=torch.float32)
TENSORS = {
    "0-d": torch.tensor(1.5),
    "empty": torch.empty(0, 3),
    "bf16": torch.randn(3, generator=torch.Generator().manual_seed(0)).bfloat16(),
    "fp16": torch.tensor([1.0, math.inf]).half(),
    "fp64": torch.tensor([math.nan, -0.0, 5e-324], dtype=torch.float64),
    "int64": torch.tensor([-(2**63), 2**63 - 1]),
    "uint8": torch.tensor([0, 255], dtype=torch.uint8),
    "bool": torch.tensor([True, False, True]),
    "complex64": torch.tensor([1 + 2j, -0.0j], dtype=torch.complex64),
    "complex128": torch.tensor([[1 + 2j], [3 - 1e-300j]], dtype=torch.complex128),
    "conjugate": torch.tensor([1 + 2j]).conj(),
    "fp8": torch.tensor([1.0, -2.0]).to(torch.float8_e4m3fn),
    "transposed": torch.arange(6.0).reshape(2, 3).t(),
    "strided": torch.arange(10.0)[::3],
    "expanded": torch.ones(1).expand(5),
    "channels_last": torch.arange(24.0).reshape(1, 2, 3, 4).to(memory_format=torch.channels_last),
}


@pytest.mark.parametrize("name", TENSORS)
def test_every_kind_of_tensor_survives(tmp_path, name):
    save(tmp_path / "run", extra=[TENSORS[name], torch.ones(3, dtype=torch.int8)])
    assert bits(load(tmp_path / "run")[0]) == bits(TENSORS[name])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_dtype_survives_and_safetensors_reads_it(tmp_path, dtype):
    data = torch.tensor([1, 0, 1, 1] * 8, dtype=torch.uint8)
    save(tmp_path / "run", extra=data.view(dtype))
    assert bits(load(tmp_path / "run")) == bits(data.view(dtype))
    with safe_open(tmp_path / "run", "pt") as file:
        assert torch.equal(file.get_tensor("extra").reshape(-1).view(torch.uint8), data)


def test_views_of_one_arena_are_written_once_each(tmp_path):
    views = {"a": arena[:4], "b": arena[4:12].view(2, 4), "t": arena[12], "overlapping": arena[2:6]}
    save(tmp_path / "run", extra=views)
    assert bits(load(tmp_path / "run")) == bits(views)
    with safe_open(tmp_path / "run", "pt") as file:
        assert sum(file.get_tensor(k).numel() for k in file.keys()) == 4 + 8 + 1 + 4  # noqa: SIM118


def test_state_in_channels_last_stays_so(tmp_path):
    model = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
    optimizer = fallline.optim.Adam(model.parameters(), lr=0.1)
    model(torch.ones(1, 3, 4, 4)).sum().backward()
    optimizer.step()
    before = bits(optimizer.state_dict())
    strides = [v.stride() for v in optimizer.state[model.weight].values()]
    save(tmp_path / "run", model=model, optimizer=optimizer)
    load(tmp_path / "run", model=model, optimizer=optimizer)
    assert bits(optimizer.state_dict()) == before
    assert [v.stride() for v in optimizer.state[model.weight].values()] == strides
    assert model.weight.is_contiguous(memory_format=torch.channels_last)


def test_tied_parameters_are_written_once_and_stay_tied(tmp_path):
    def tied(seed):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
        model[1].weight = model[0].weight
        return model

    model, other = tied(0), tied(1)
    save(tmp_path / "run", model=model)
    with safe_open(tmp_path / "run", "pt") as file:
        assert list(file.keys()) == ["model.0.weight"]
    load(tmp_path / "run", model=other)
    assert other[0].weight is other[1].weight
    assert torch.equal(other[0].weight, model[0].weight)
    assert set(read(tmp_path / "run")["model"]) == {"0.weight", "1.weight"}


VALUES = {
    "scalars": [None, True, False, 0, -(10**30), "", "ü\ud800\"'", 0.1, 1.0, -0.0, 5e-324],
    "not finite": [math.inf, -math.inf, math.nan],
    "nested": {"a": (1, [2.0, (None,)], {}), 3: {"3": "text"}, "3": (), "tensor": "x", "float": {"tuple": []}},
    "top": 7,
    "tensors with equal paths": {
        "a.b": torch.ones(1),
        "a": {"b": torch.zeros(1)},
        1: torch.ones(2),
        "1": torch.zeros(2),
    },
}


@pytest.mark.parametrize("name", VALUES)
def test_values_come_back_with_their_types_and_order(tmp_path, name):
    save(tmp_path / "run", extra=VALUES[name])
    back = load(tmp_path / "run")
    assert bits(back) == bits(VALUES[name])
    if isinstance(back, dict):
        assert list(back) == list(VALUES[name])


def test_numpys_float64_is_a_float(tmp_path):
    import numpy

    save(tmp_path / "run", extra=numpy.float64(0.1))
    assert bits(load(tmp_path / "run")) == bits(0.1)


def test_infinite_and_nan_hyperparameters_survive():
    tensors = Tensors()
    groups = [{"lr": math.inf, "eps": math.nan, "betas": (0.9, -math.inf), "lr2": torch.tensor(0.1), "params": [0]}]
    text = json.dumps(encode(groups, ("optimizer",), tensors), allow_nan=False)
    assert bits(decode(json.loads(text), tensors.by_key)) == bits(groups)


def test_learning_rates_as_tensors_survive(tmp_path):
    model = net()
    optimizer = fallline.optim.Adam(model.parameters(), lr=torch.tensor(0.25, dtype=torch.float64))
    save(tmp_path / "run", optimizer=optimizer)
    optimizer.param_groups[0]["lr"] = torch.tensor(0.5, dtype=torch.float64)
    load(tmp_path / "run", optimizer=optimizer)
    assert bits(optimizer.param_groups[0]["lr"]) == bits(torch.tensor(0.25, dtype=torch.float64))


def test_safetensors_itself_opens_the_file(tmp_path):
    model = net()
    save(tmp_path / "run", model=model, extra=torch.tensor([1j], dtype=torch.complex128))
    with safe_open(tmp_path / "run", "pt") as file:
        assert torch.equal(file.get_tensor("model.0.weight"), model[0].weight)
        metadata = file.metadata()
    assert (metadata["format"], metadata["schema"]) == ("fallline checkpoint", "1")
    assert metadata["fallline"] == fallline.__version__


def test_every_tensor_is_aligned_for_readers_that_map_the_file(tmp_path):
    save(tmp_path / "run", extra=[torch.ones(1, dtype=dtype) for dtype in reversed(DTYPES)])
    content = (tmp_path / "run").read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    entries = json.loads(content[8:start])
    for i, dtype in enumerate(reversed(DTYPES)):
        assert (start + entries[f"extra.{i}"]["data_offsets"][0]) % dtype.itemsize == 0


def test_parts_are_read_without_model_or_optimizer(tmp_path):
    model = net()
    optimizer = fallline.optim.Adam(model.parameters(), lr=0.1)
    save(tmp_path / "run", model=model, optimizer=optimizer, extra={"epoch": 3})
    parts = read(tmp_path / "run")
    assert parts.keys() == {"model", "optimizer", "extra", "meta"}
    assert bits(dict(parts["model"])) == bits(dict(model.state_dict()))
    assert parts["model"]._metadata == model.state_dict()._metadata  # module versions, by which torch migrates
    assert bits(parts["optimizer"]) == bits(optimizer.state_dict())
    assert parts["extra"] == {"epoch": 3}
    assert parts["meta"] == {"schema": 1, "fallline": fallline.__version__}
    save(tmp_path / "run", extra=1)
    assert read(tmp_path / "run")["model"] is read(tmp_path / "run")["optimizer"] is None


def test_map_location_moves_what_is_returned(tmp_path):
    save(tmp_path / "run", extra={"a": [torch.ones(2)], "b": (torch.ones(1), 2)})
    extra = load(tmp_path / "run", map_location="meta")
    assert extra["a"][0].device.type == extra["b"][0].device.type == "meta"
    assert read(tmp_path / "run", map_location="meta")["extra"]["a"][0].device.type == "meta"


def test_extra_is_a_copy_that_keeps_nothing_else_alive(tmp_path):
    save(tmp_path / "run", model=net(), extra=torch.ones(2))
    extra = load(tmp_path / "run")
    assert extra.untyped_storage().nbytes() == 8


def test_the_package_and_both_functions_are_public(tmp_path):
    assert fallline.save is fallline.checkpoint.save
    assert fallline.load is fallline.checkpoint.load
    assert issubclass(CheckpointError, ValueError)


def test_saving_leaves_one_file_and_follows_links(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "latest").symlink_to(tmp_path / "disk" / "run")
    for epoch in range(3):
        save(tmp_path / "latest", extra=epoch)
    assert sorted(os.listdir(tmp_path)) == ["disk", "latest"]
    assert os.listdir(tmp_path / "disk") == ["run"]
    assert load(tmp_path / "disk" / "run") == 2
    assert (tmp_path / "latest").is_symlink()


def test_other_processes_of_the_group_may_read_the_file(tmp_path):
    before = os.umask(0o022)
    try:
        save(tmp_path / "run", extra=1)
    finally:
        os.umask(before)
    assert (tmp_path / "run").stat().st_mode & 0o777 == 0o644
