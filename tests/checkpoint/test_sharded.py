"""The sharded form: any number of ranks writes, any number resumes, and a crash never mixes two versions."""

import copy
import os
import random
import re
import shutil

import pytest
import torch
import torch.distributed as dist
from checkpoint_tools import bits, killed_while
from torch import nn
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor, init_device_mesh

import fallline
from fallline.checkpoint import CheckpointError, load, load_sharded, save, save_sharded, sharded
from fallline.core.errors import FalllineError
from ranks import run_ranks


def net(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Linear(5, 2))


def adamw(model):
    return fallline.optim.AdamW(model.named_parameters(), lr=0.1)


def step(model, optimizer, times=1):
    for _ in range(times):
        for i, p in enumerate(model.parameters()):
            p.grad = torch.full_like(p, 0.5 + i)
        optimizer.step()


def whole(value):
    """Bits of a structure, the shards of DTensors put together."""
    if isinstance(value, DTensor):
        return bits(value.full_tensor())
    if isinstance(value, dict):
        return {key: whole(item) for key, item in value.items()}
    return bits(value)


def everything(model, optimizer):
    return whole(dict(model.state_dict())), whole(optimizer.state_dict())


THREE_WAYS = (Shard(0), Shard(1), Replicate())


def shard(model, world_size, placements=THREE_WAYS):
    """The parameters of ``model`` as DTensors, uneven where 5 rows meet 2 or 3 ranks."""
    mesh = init_device_mesh("cpu", (world_size,))
    for module in model:
        for i, (name, p) in enumerate(list(module.named_parameters(recurse=False))):
            placement = placements[i % len(placements)] if p.ndim > 1 else Shard(0)
            setattr(module, name, nn.Parameter(distribute_tensor(p.data, mesh, [placement])))
    return model


def test_one_process_without_a_group(tmp_path):
    model = net()
    optimizer = adamw(model)
    step(model, optimizer, 3)
    save_sharded(tmp_path / "run", model=model, optimizer=optimizer, extra={"epoch": 3, "rng": torch.ones(2)})
    other = net(1)
    resumed = adamw(other)
    extra = load_sharded(tmp_path / "run", model=other, optimizer=resumed)
    assert bits(extra) == bits({"epoch": 3, "rng": torch.ones(2)})
    assert everything(other, resumed) == everything(model, optimizer)
    for m, o in ((model, optimizer), (other, resumed)):
        step(m, o)
    assert everything(other, resumed) == everything(model, optimizer)
    assert sorted(os.listdir(tmp_path / "run")) == ["checkpoint.safetensors", "rank-0.safetensors"]
    assert os.listdir(tmp_path) == ["run"]


def test_every_kind_of_tensor_survives(tmp_path):
    model = nn.Module()
    kinds = [torch.tensor(1.5).bfloat16(), torch.empty(0, 3), torch.tensor([1j, 2]).to(torch.complex128)]
    kinds += [torch.tensor([True, False]), torch.arange(6).reshape(2, 3).t(), torch.arange(4.0)[1:3]]
    for i, tensor in enumerate(kinds):
        model.register_buffer(f"b{i}", tensor)
    save_sharded(tmp_path / "run", model=model)
    expected = bits(dict(model.state_dict()))
    for b in model.buffers():
        b.zero_()
    load_sharded(tmp_path / "run", model=model)
    assert bits(dict(model.state_dict())) == expected


def test_nothing_is_pickled(tmp_path):
    from safetensors import safe_open

    model = net()
    save_sharded(tmp_path / "run", model=model, optimizer=adamw(model))
    for name in os.listdir(tmp_path / "run"):
        with safe_open(tmp_path / "run" / name, "pt") as file:
            assert file.metadata()["format"] == "fallline checkpoint"


def test_state_goes_by_the_names_of_parameters(tmp_path):
    model = net()
    save_sharded(tmp_path / "run", optimizer=adamw(model))
    keys = sharded.read_file(tmp_path / "run" / "checkpoint.safetensors").document["chunks"].keys()
    assert {"optimizer.state.0.weight.adam.m", "optimizer.state.2.bias.step"} <= keys
    save_sharded(
        tmp_path / "run", optimizer=fallline.optim.AdamW(model.parameters(), lr=0.1)
    )  # without names: positions
    keys = sharded.read_file(tmp_path / "run" / "checkpoint.safetensors").document["chunks"].keys()
    assert {"optimizer.state.0.adam.m", "optimizer.state.5.step"} <= keys


def test_parameters_in_another_order_are_matched_by_name(tmp_path):
    model = net()
    optimizer = adamw(model)
    step(model, optimizer)
    save_sharded(tmp_path / "run", optimizer=optimizer)
    resumed = fallline.optim.AdamW(reversed(list(model.named_parameters())), lr=0.1)
    load_sharded(tmp_path / "run", optimizer=resumed)
    for p in model.parameters():
        assert whole(resumed.state[p]) == whole(optimizer.state[p])


# -- ranks ------------------------------------------------------------------------------------------------------------


def replicated(rank, world_size, folder):
    model = net()
    optimizer = adamw(model)
    step(model, optimizer, 3)
    save_sharded(folder, model=model, optimizer=optimizer, extra={"from": rank})
    other = net(1)
    resumed = adamw(other)
    extra = load_sharded(folder, model=other, optimizer=resumed)
    return extra, everything(other, resumed), everything(model, optimizer)


def test_replicated_tensors_on_two_ranks_are_written_once(tmp_path):
    answers = run_ranks(replicated, 2, tmp_path / "run")
    model = net()
    optimizer = adamw(model)
    step(model, optimizer, 3)
    for extra, loaded, saved in answers:
        assert extra == {"from": 0}
        assert loaded == saved == everything(model, optimizer)
    folder = tmp_path / "run"
    assert sorted(os.listdir(folder)) == [f"{n}.safetensors" for n in ("checkpoint", "rank-0", "rank-1")]
    from safetensors import safe_open

    keys = []
    for rank in range(2):
        with safe_open(folder / f"rank-{rank}.safetensors", "pt") as file:
            keys += list(file.keys())
    assert len(keys) == len(set(keys)) == len(model.state_dict()) + 3 * len(list(model.parameters()))


def write_shards(rank, world_size, folder):
    model = shard(net(), world_size)
    optimizer = adamw(model)
    step(model, optimizer, 3)
    kind = type(optimizer.state[model[0].weight]["adam.m"])
    save_sharded(folder, model=model, optimizer=optimizer, extra={"epoch": 3})
    step(model, optimizer)
    return kind, everything(model, optimizer)


def resume_shards(rank, world_size, folder, placements):
    model = shard(net(1), world_size, placements)
    optimizer = adamw(model)
    extra = load_sharded(folder, model=model, optimizer=optimizer)
    step(model, optimizer)
    return extra, model[0].weight.placements[0], everything(model, optimizer)


@pytest.mark.parametrize("world_size", [2, 3])
def test_dtensors_resume_at_another_world_size_and_placement(tmp_path, world_size):
    wrote = run_ranks(write_shards, 2, tmp_path / "run")
    assert {kind for kind, _ in wrote} == {DTensor}
    expected = wrote[0][1]
    placements = (Shard(1), Shard(0))
    for extra, placement, state in run_ranks(resume_shards, world_size, tmp_path / "run", placements):
        assert (extra, placement, state) == ({"epoch": 3}, Shard(1), expected)
    model = net(1)
    optimizer = adamw(model)  # and without any group
    load_sharded(tmp_path / "run", model=model, optimizer=optimizer)
    step(model, optimizer)
    assert everything(model, optimizer) == expected


def grow(rank, world_size, folder):
    model = shard(net(1), world_size)
    optimizer = adamw(model)
    load_sharded(folder, model=model, optimizer=optimizer)
    return everything(model, optimizer)


def test_a_checkpoint_of_one_process_resumes_on_two_ranks(tmp_path):
    model = net()
    optimizer = adamw(model)
    step(model, optimizer, 2)
    save_sharded(tmp_path / "run", model=model, optimizer=optimizer)
    assert run_ranks(grow, 2, tmp_path / "run") == [everything(model, optimizer)] * 2


def failing(rank, world_size, folder, where):
    model = net()
    optimizer = adamw(model)
    save_sharded(folder, model=model, optimizer=optimizer, extra="old")
    step(model, optimizer)
    if where == "encode" and rank == 1:
        model[0].register_buffer("lazy", torch.empty(1, device="meta"))
    if where == "write" and rank == 1:
        sharded.ChunkWriter.write_data = lambda *args: (_ for _ in ()).throw(OSError(28, "No space left on device"))
    if where == "publish":
        real = os.rename
        os.rename = lambda a, b: real(a, b) if ".old-" in str(b) or ".old-" in str(a) else _deny()
    try:
        save_sharded(folder, model=model, optimizer=optimizer, extra="new")
    except Exception as error:
        return type(error), str(error)


def _deny():
    raise PermissionError(13, "Permission denied")


@pytest.mark.parametrize(
    ("where", "text"),
    [
        ("encode", r"model\['0\.lazy'\] is on the meta device"),
        (
            "write",
            r"save_sharded failed on rank 1: OSError\(28, 'No space left on device'\)\. Expected every rank to succeed",
        ),
        ("publish", r"could not be renamed to .*: Permission denied.*The older checkpoint, if any, is in place"),
    ],
)
def test_when_one_rank_fails_all_do_and_the_old_checkpoint_stays(tmp_path, where, text):
    for kind, message in run_ranks(failing, 2, tmp_path / "run", where):
        assert kind is CheckpointError
        assert re.search(text, message), message
    assert load_sharded(tmp_path / "run") == "old"
    assert os.listdir(tmp_path) == ["run"]


def refusing(rank, world_size, folder):
    model = net()
    save_sharded(folder, model=model, optimizer=adamw(model))
    other = net(1)
    if rank == 1:
        other.append(nn.Linear(2, 2))
    before = copy.deepcopy(other.state_dict())
    optimizer = fallline.optim.SGD(net(1).named_parameters(), lr=0.1, momentum=0.9)
    messages = []
    for arguments in ({"model": other}, {"model": net(1), "optimizer": optimizer}):
        try:
            load_sharded(folder, **arguments)
        except FalllineError as error:
            messages.append(str(error))
    return messages, bits(dict(other.state_dict())) == bits(dict(before))


def test_when_one_rank_cannot_load_all_say_so(tmp_path):
    (first, unchanged), (second, also) = run_ranks(refusing, 2, tmp_path / "run")
    assert re.search(r"load_sharded failed on rank 1: .* lacks 3\.weight, 3\.bias", first[0])
    assert re.search(r"lacks 3\.weight, 3\.bias\. Expected the names", second[0])
    assert unchanged
    assert also
    assert all(re.search("was saved by adamw, this one runs", messages[1]) for messages in (first, second))


# -- crashes and damage -----------------------------------------------------------------------------------------------


def test_a_kill_while_overwriting_never_mixes_versions(tmp_path):
    model = nn.Sequential(*(nn.Linear(40, 40) for _ in range(5)))

    def overwrite(n):
        for p in model.parameters():
            p.data.fill_(n)
        save_sharded(tmp_path / "run", model=model, extra=n)

    overwrite(0)
    moments, interrupted = random.Random(0), 0
    for _ in range(10):
        killed_while(overwrite, moments.random())
        n = load_sharded(tmp_path / "run", model=model)
        assert all(torch.equal(p, torch.full_like(p, n)) for p in model.parameters())
        assert n > 0
        interrupted += len(os.listdir(tmp_path)) > 1
    assert interrupted, "no kill fell into a save"
    overwrite(1)
    assert os.listdir(tmp_path) == ["run"]


@pytest.mark.parametrize("at", [1, 2, 3])
def test_a_kill_between_the_renames_leaves_a_checkpoint_that_loads(tmp_path, monkeypatch, at):
    save_sharded(tmp_path / "run", extra="old")
    real, calls = os.rename, []

    class Killed(BaseException):
        pass

    def rename(a, b):
        calls.append(a)
        if len(calls) == at:
            raise Killed
        real(a, b)

    with monkeypatch.context() as patch, pytest.raises(Killed) if at < 3 else pytest.MonkeyPatch.context():
        patch.setattr(os, "rename", rename)
        patch.setattr(shutil, "rmtree", lambda *args, **kwargs: None)  # a killed process cleans nothing up
        save_sharded(tmp_path / "run", extra="new")
    assert load_sharded(tmp_path / "run") == ("old" if at < 3 else "new")
    save_sharded(tmp_path / "run", extra="newer")
    assert load_sharded(tmp_path / "run") == "newer"
    assert os.listdir(tmp_path) == ["run"]


@pytest.mark.parametrize("change", ["flip", "truncate", "delete", "older"])
def test_damage_to_a_shard_is_found_before_anything_changes(tmp_path, change):
    model = net()
    save_sharded(tmp_path / "run", model=model)
    path = tmp_path / "run" / "rank-0.safetensors"
    content = path.read_bytes()
    if change == "flip":
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    elif change == "truncate":
        path.write_bytes(content[:-1])
    elif change == "delete":
        path.unlink()
    else:
        step(model, adamw(model))
        save_sharded(tmp_path / "run", model=model)
        path.write_bytes(content)
    before = bits(dict(model.state_dict()))
    with pytest.raises(
        CheckpointError, match=r"rank-0\.safetensors is damaged: (the SHA-256 of model\.|it cannot be read)"
    ):
        load_sharded(tmp_path / "run", model=model)
    assert bits(dict(model.state_dict())) == before


def test_damage_to_the_index_is_found(tmp_path):
    save_sharded(tmp_path / "run", model=net())
    path = tmp_path / "run" / "checkpoint.safetensors"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"checkpoint\.safetensors is damaged"):
        load_sharded(tmp_path / "run")


def test_folders_that_are_not_checkpoints_are_neither_read_nor_replaced(tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").write_text("")
    with pytest.raises(
        CheckpointError, match=r"home holds 'thesis\.tex', which save_sharded did not write.*Choose another"
    ):
        save_sharded(tmp_path / "home", extra=1)
    with pytest.raises(CheckpointError, match=r"thesis\.tex is a file, which save_sharded did not write"):
        save_sharded(tmp_path / "home" / "thesis.tex", extra=1)
    with pytest.raises(
        CheckpointError, match=r"home holds no checkpoint\.safetensors.*use fallline\.load for one file"
    ):
        load_sharded(tmp_path / "home")
    with pytest.raises(CheckpointError, match=r"could not be made: No such file.*exists and can be written"):
        save_sharded(tmp_path / "no" / "run", extra=1)
    with pytest.raises(CheckpointError, match=r"holds no checkpoint"):
        load_sharded(tmp_path / "no" / "run")
    assert os.listdir(tmp_path / "home") == ["thesis.tex"]


def test_the_two_forms_point_to_each_other(tmp_path):
    model = net()
    save_sharded(tmp_path / "run", model=model)
    with pytest.raises(CheckpointError, match=r"is the index of a sharded checkpoint.*load_sharded\('.*run'"):
        load(tmp_path / "run" / "checkpoint.safetensors", model=model)
    save(tmp_path / "run" / "checkpoint.safetensors", model=model)
    with pytest.raises(CheckpointError, match=r"is not the index of a sharded checkpoint.*fallline\.load for one file"):
        load_sharded(tmp_path / "run", model=model)


def test_a_missing_part_is_said(tmp_path):
    model = net()
    save_sharded(tmp_path / "run", model=model)
    with pytest.raises(CheckpointError, match=r"run holds no optimizer, only the model"):
        load_sharded(tmp_path / "run", optimizer=adamw(model))


def one_file(rank, world_size, path):
    try:
        save(path, model=shard(net(), world_size))
    except CheckpointError as error:
        return str(error)


def test_one_file_refuses_dtensors(tmp_path):
    for message in run_ranks(one_file, 2, tmp_path / "run"):
        assert re.search(r"model\['0\.weight'\] is a DTensor of shape \(5, 3\).*save_sharded", message)


# -- the helper -------------------------------------------------------------------------------------------------------


def talk(rank, world_size, what):
    if what == "sum":
        total = torch.tensor(rank + 1)
        dist.all_reduce(total)
        return int(total)
    if what == "raise" and rank == 1:
        raise ValueError("rank 1 has a reason")
    if what == "die" and rank == 1:
        os._exit(3)
    dist.barrier()


def test_ranks_return_their_values_and_raise_what_went_wrong():
    assert run_ranks(talk, 3, "sum") == [6, 6, 6]
    with pytest.raises(RuntimeError, match=r"(?s)rank 1 of 2 raised:.*ValueError: rank 1 has a reason"):
        run_ranks(talk, 2, "raise")
    with pytest.raises(RuntimeError, match=r"rank 1 died without a word|rank 0 of 2 raised"):
        run_ranks(talk, 2, "die")


def hang(rank, world_size):
    import time

    time.sleep(30)


def test_ranks_that_hang_are_killed():
    with pytest.raises(TimeoutError, match=r"ranks \[0, 1\] returned nothing within 0\.5 s"):
        run_ranks(hang, 2, timeout=0.5)
