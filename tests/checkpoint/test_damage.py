"""Crashes, damage and refusals: the old file or the new one, an error or the right values, all or nothing."""

import copy
import errno
import json
import os
import random
import re
import resource

import pytest
import safetensors.torch
import torch
from checkpoint_tools import killed_while
from torch import nn

import fallline
from fallline.checkpoint import CheckpointError, atomic, load, read, save
from fallline.core.errors import FalllineError, InvalidTypeError


def net(seed=0, width=3):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, width), nn.Linear(width, 2))


def pair(seed=0, width=3):
    model = net(seed, width)
    optimizer = fallline.optim.Adam(model.named_parameters(), lr=0.1)
    model(torch.ones(1, 4)).sum().backward()
    optimizer.step()
    return model, optimizer


def same(a, b):
    return str(a) == str(b)


@pytest.fixture
def saved(tmp_path):
    model, optimizer = pair()
    save(tmp_path / "run", model=model, optimizer=optimizer, extra={"epoch": 3})
    return tmp_path / "run"


# -- crashes ----------------------------------------------------------------------------------------------------------


def test_a_kill_while_overwriting_leaves_the_old_file_or_the_new_one(tmp_path):
    path = tmp_path / "run"

    def overwrite(n):
        save(path, extra={"n": n, "all": torch.full((200_000,), n)})

    overwrite(0)
    moments, interrupted = random.Random(0), 0
    for _ in range(10):
        killed_while(overwrite, moments.random())
        interrupted += len(os.listdir(tmp_path)) > 1
        extra = load(path)
        assert torch.equal(extra["all"], torch.full((200_000,), extra["n"]))
        assert extra["n"] > 0
    assert interrupted, "no kill fell into a save"
    save(path, extra=None)
    assert os.listdir(tmp_path) == ["run"]  # what the killed ones left was swept


def test_the_file_of_a_live_writer_is_not_swept(tmp_path):
    with atomic.replacing(tmp_path / "run") as file:
        file.write(b"first")
        with atomic.replacing(tmp_path / "run") as other:
            other.write(b"second")
        assert (tmp_path / "run").read_bytes() == b"second"
    assert (tmp_path / "run").read_bytes() == b"first"


def test_data_is_on_disk_before_the_rename_and_the_rename_before_the_return(tmp_path, monkeypatch):
    events = []
    for name in ("fsync", "replace"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *args, name=name, real=real: (events.append(name), real(*args))[1])
    save(tmp_path / "run", extra=1)
    assert events == ["fsync", "replace", "fsync"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_a_failing_disk_is_said_and_the_old_file_stays(saved, monkeypatch, code):
    before = saved.read_bytes()

    def fail(fd):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(
        CheckpointError, match=rf"run could not be written: {os.strerror(code)}\. Expected .* MB.*free space"
    ):
        save(saved, extra=torch.ones(3))
    assert saved.read_bytes() == before
    assert os.listdir(saved.parent) == ["run"]


def test_a_limit_hit_halfway_is_said_and_the_old_file_stays(saved):
    before = saved.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, hard))
    try:
        with pytest.raises(CheckpointError, match=r"could not be written: File too large.*room for 8\.0 MB"):
            save(saved, extra=torch.zeros(2_000_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert saved.read_bytes() == before
    assert os.listdir(saved.parent) == ["run"]


@pytest.mark.parametrize("name", ["no/run", "run/below"])
def test_a_folder_that_is_missing_or_a_file_is_said(saved, name):
    with pytest.raises(
        CheckpointError, match=r"could not be written: (No such file|Not a directory).*Expected a folder that"
    ):
        save(saved.parent / name, extra=1)


def test_a_folder_without_permission_is_said(saved):
    saved.parent.chmod(0o500)
    user = os.geteuid()
    if user == 0:  # root may write anywhere
        os.seteuid(65534)
    try:
        with pytest.raises(CheckpointError, match=r"could not be (written|read): Permission denied"):
            save(saved, extra=1)
    finally:
        os.seteuid(user)
        saved.parent.chmod(0o700)


def test_an_interrupt_leaves_nothing_behind(saved, monkeypatch):
    before = saved.read_bytes()

    def interrupt(fd):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        save(saved, extra=1)
    assert saved.read_bytes() == before
    assert os.listdir(saved.parent) == ["run"]


# -- damage -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(40))
def test_a_flipped_bit_is_always_noticed(saved, seed):
    content = bytearray(saved.read_bytes())
    at = random.Random(seed).randrange(len(content) * 8)
    content[at // 8] ^= 1 << at % 8
    saved.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"damaged|not a safetensors file|of another program"):
        read(saved)


def test_every_byte_of_a_small_file_is_covered(tmp_path):
    save(tmp_path / "run", extra=torch.ones(2))
    content = (tmp_path / "run").read_bytes()
    for at in range(len(content)):
        (tmp_path / "run").write_bytes(content[:at] + bytes([content[at] ^ 0x01]) + content[at + 1 :])
        with pytest.raises(CheckpointError):
            read(tmp_path / "run")


@pytest.mark.parametrize("share", [0, 4, 8, 9, 0.1, 0.5, 0.9, -1])
def test_truncation_is_always_noticed(saved, share):
    content = saved.read_bytes()
    saved.write_bytes(content[: share if isinstance(share, int) else int(len(content) * share)])
    with pytest.raises(CheckpointError, match=r"header is cut off|holds \d+ bytes of data and its header tells of \d+"):
        read(saved)


def test_appended_bytes_are_noticed(saved):
    saved.write_bytes(saved.read_bytes() + b"\0")
    with pytest.raises(CheckpointError, match="is damaged: it holds"):
        read(saved)


def rewritten(path, change):
    """The file with its header changed, and all sizes as they should be."""
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    entries = json.loads(content[8 : 8 + length])
    change(entries)
    text = json.dumps(entries, separators=(",", ":")).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + length :])


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda e: e["model.0.bias"].update(dtype="F99"), "places of its tensors do not add up"),
        (lambda e: e["model.0.bias"].update(shape=[2]), "places of its tensors do not add up"),
        (lambda e: e["model.0.bias"].update(shape=[-1, -3]), "places of its tensors do not add up"),
        (lambda e: e["model.0.bias"].pop("data_offsets"), "places of its tensors do not add up"),
        (lambda e: e.update({"other": e.pop("model.0.bias")}), "SHA-256 differs"),
        (lambda e: e["__metadata__"].update(document="{}"), "SHA-256 differs"),
        (lambda e: e["__metadata__"].update(schema="0"), "SHA-256 differs"),
        (lambda e: e["__metadata__"].pop("digest"), "SHA-256 differs"),
    ],
)
def test_a_header_that_lies_is_refused(saved, change, text):
    rewritten(saved, change)
    with pytest.raises(CheckpointError, match=rf"run is damaged: .*{text}.*Restore it from a copy, or load an older"):
        read(saved)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (
            lambda p: p.write_bytes(b"\x80\x02not a checkpoint" * 100),
            r"\(1800 bytes\) is not a safetensors file.*Check the path",
        ),
        (lambda p: p.write_bytes(b"\x02" + bytes(7) + b"{{"), r"damaged: its header is not JSON"),
        (lambda p: torch.save({"a": 1}, p), r"is not a safetensors file"),
        (
            lambda p: safetensors.torch.save_file({"a": torch.ones(1)}, p),
            r"a safetensors file of another program.*safetensors\.torch\.load_file",
        ),
        (lambda p: None, r"could not be read: No such file.*Check the path"),
        (lambda p: p.mkdir(), r"could not be read: Is a directory.*load_sharded"),
    ],
    ids=["junk", "not json", "pickle", "foreign", "missing", "folder"],
)
def test_what_is_not_ours_is_refused(tmp_path, make, text):
    make(tmp_path / "run")
    with pytest.raises(CheckpointError, match=text):
        load(tmp_path / "run")


# -- what cannot be saved ---------------------------------------------------------------------------------------------


class Point(tuple):
    pass


@pytest.mark.parametrize(
    ("extra", "text"),
    [
        (
            {"callback": max},
            r"extra\['callback'\] is <built-in function max> of type builtin_function.*Save what it is built",
        ),
        ({"a": [1, (2, {3})]}, r"extra\['a'\]\[1\]\[1\] is \{3\} of type set"),
        ({"a": {(1, 2): 3}}, r"extra\['a'\] has the key \(1, 2\) of type tuple.*str or int keys"),
        ({True: 1}, r"extra has the key True of type bool"),
        (Point((1, 2)), r"extra is \(1, 2\) of type Point"),
        ([torch.eye(2).to_sparse()], r"extra\[0\] is a torch\.sparse_coo tensor.*to_dense"),
        ([torch.empty(2, device="meta")], r"extra\[0\] is on the meta device.*Materialise"),
        (
            [torch.empty(2, dtype=torch.float8_e8m0fnu)],
            r"extra\[0\] has dtype torch\.float8_e8m0fnu\. Checkpoints hold float64, .*Convert",
        ),
    ],
)
def test_what_cannot_be_saved_is_named_before_anything_is_written(saved, extra, text):
    before = saved.read_bytes()
    with pytest.raises(CheckpointError, match=text):
        save(saved, model=net(), extra=extra)
    assert saved.read_bytes() == before
    assert os.listdir(saved.parent) == ["run"]


def test_wrapped_tensors_are_refused(tmp_path):
    from torch.nested import nested_tensor

    with pytest.raises(CheckpointError, match=r"extra\['n'\] is a NestedTensor\. Checkpoints hold plain dense"):
        save(tmp_path / "run", extra={"n": nested_tensor([torch.ones(1), torch.ones(2)], layout=torch.jagged)})


@pytest.mark.parametrize("name", ["model", "optimizer"])
def test_state_dicts_in_place_of_objects_are_refused(saved, name):
    before = saved.read_bytes()
    for call in (save, load):
        with pytest.raises(
            InvalidTypeError, match=rf"{name} is a dict\. Expected a torch (Module|Optimizer)\. Pass the object"
        ):
            call(saved, **{name: {}})
    assert saved.read_bytes() == before


# -- all or nothing ---------------------------------------------------------------------------------------------------


def refused(path, model, optimizer, text, error=CheckpointError, strict=True):
    before = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    with pytest.raises(error, match=text):
        load(path, model=model, optimizer=optimizer, strict=strict)
    assert same((model.state_dict(), optimizer.state_dict()), before)


def test_damage_is_found_before_anything_changes(saved):
    content = bytearray(saved.read_bytes())
    content[-1] ^= 1
    saved.write_bytes(content)
    refused(saved, *pair(seed=1), r"is damaged")


def test_a_model_with_other_names_is_refused(saved):
    model, optimizer = pair(seed=1)
    model.append(nn.Linear(2, 1, bias=False))
    refused(saved, model, optimizer, r"run lacks 2\.weight\. Expected the names of this model.*strict=False")
    del model[1:]
    refused(saved, model, optimizer, r"run has also 1\.weight, 1\.bias")


def test_many_differing_names_are_counted(saved):
    model, optimizer = pair(seed=1)
    model.extend(nn.Linear(2, 2) for _ in range(4))
    refused(saved, model, optimizer, r"lacks 2\.weight, .* and 3 more\.")


@pytest.mark.parametrize("strict", [True, False])
def test_a_model_with_other_shapes_is_refused(saved, strict):
    refused(saved, *pair(seed=1, width=5), r"has '0\.weight' of shape \(3, 4\)\. Expected \(5, 4\)", strict=strict)


def test_a_cast_is_refused_unless_asked_for(saved):
    model, optimizer = pair(seed=1)
    refused(
        saved, model.double(), optimizer, r"has '0\.weight' in torch\.float32\. Expected torch\.float64.*strict=False"
    )
    load(saved, model=model, strict=False)
    assert torch.equal(model[0].weight.float(), read(saved)["model"]["0.weight"])


def test_strict_false_loads_what_agrees_by_name(saved):
    model = net(seed=1).append(nn.Linear(2, 1))
    last = model[2].weight.clone()
    assert load(saved, model=model, strict=False) == {"epoch": 3}
    assert torch.equal(model[0].weight, read(saved)["model"]["0.weight"])
    assert torch.equal(model[2].weight, last)


def test_a_model_that_ties_what_differs_is_refused(tmp_path):
    untied = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    save(tmp_path / "run", model=untied)
    tied = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    tied[1].weight = tied[0].weight
    with pytest.raises(
        CheckpointError, match=r"different values for '0\.weight' and '1\.weight', which this model ties"
    ):
        load(tmp_path / "run", model=tied)
    untied[1].load_state_dict(untied[0].state_dict())
    save(tmp_path / "run", model=untied)
    load(tmp_path / "run", model=tied)


def test_when_the_optimizer_refuses_the_model_is_put_back(saved):
    model = net(seed=1)
    optimizer = fallline.optim.SGD(model.named_parameters(), lr=0.1, momentum=0.9)
    refused(saved, model, optimizer, r"was saved by adam, this one runs", FalllineError)


class Counted(nn.Module):
    """Has extra state, which it may refuse to take."""

    def __init__(self, count, refuse=False):
        super().__init__()
        self.weight, self.count, self.refuse = nn.Parameter(torch.full((2,), float(count))), count, refuse

    def get_extra_state(self):
        return {"count": self.count}

    def set_extra_state(self, state):
        if self.refuse and state["count"] != self.count:
            raise RuntimeError("no")
        self.count = state["count"]


def test_the_extra_state_of_modules_is_saved_and_put_back(tmp_path):
    save(tmp_path / "run", model=nn.Sequential(Counted(1), Counted(2)))
    model = nn.Sequential(Counted(3), Counted(4))
    load(tmp_path / "run", model=model)
    assert [m.count for m in model] == [1, 2]
    model = nn.Sequential(Counted(3), Counted(4, refuse=True))
    with pytest.raises(RuntimeError, match="no"):
        load(tmp_path / "run", model=model)
    assert [m.count for m in model] == [3, 4]
    assert model[0].weight[0] == 3


@pytest.mark.parametrize(
    ("kept", "asked", "held"),
    [("model", "optimizer", ", only the model"), ("optimizer", "model", ", only the optimizer")],
)
def test_a_missing_part_is_said(tmp_path, kept, asked, held):
    parts = dict(zip(("model", "optimizer"), pair(), strict=True))
    save(tmp_path / "run", **{kept: parts[kept]})
    with pytest.raises(CheckpointError, match=rf"run holds no {asked}{held}\. Expected one, since {asked}= was given"):
        load(tmp_path / "run", **{asked: parts[asked]})
    save(tmp_path / "run")
    with pytest.raises(CheckpointError, match=rf"run holds no {re.escape(asked)}\. Expected"):
        load(tmp_path / "run", **{asked: parts[asked]})
