"""The benchmark of steps: shapes, byte counts, statistics, targets, memory, and the command. No test looks at a clock."""

import json
import math
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fallline.bench import SETS, TARGETS, ParameterSet, Result, Row, judge, load, make_plan, save
from fallline.bench.contenders import (
    REFERENCE,
    Contender,
    bytes_moved,
    chain_of,
    flops_of,
    num_slots,
    others,
    ours,
)
from fallline.bench.measure import flights, time_set
from fallline.bench.memory import extra_memory, trace_memory
from fallline.bench.peers import Peer, peers
from fallline.bench.rows import REFERENCE_BYTES
from fallline.bench.step import start_compiler
from fallline.bench.table import COLUMNS, cells, markdown
from fallline.cli import main
from fallline.core.errors import FalllineError
from fallline.core.execute import FUSE_MODES
from fallline.core.method import METHODS

TINY = ParameterSet("tiny", "a matrix and a bias", ((4, 3), (3,)), 2, 2)


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setitem(SETS, "tiny", TINY)
    monkeypatch.setattr("fallline.bench.measure.FLOOR_BYTES", 2**16)


def row(ratios=(1.0,), *, set="large", method="adamw", by="fallline", layout="auto", path="loop", slots=2, **values):
    reference = np.linspace(0.5, 2.0, len(ratios))  # a machine whose speed drifts
    return Row(
        set, 1000, method, by, layout, path, bytes_moved(slots), first=1.0, times=tuple(reference * ratios),
        backward=(0.1,) * len(ratios), reference=tuple(reference), copy=(1e9,) * len(ratios),
        in_place=(2e9,) * len(ratios), **values,
    )  # fmt: skip


# -- shapes and bytes -----------------------------------------------------------------------------------------------


def test_sets_have_the_sizes_that_are_known():
    assert (SETS["large"].numel, len(SETS["large"].shapes)) == (4 * (2048**2 + 2048), 8)
    assert (SETS["small"].numel, len(SETS["small"].shapes)) == (300 * (64**2 + 64), 600)
    assert (SETS["gpt2"].numel, len(SETS["gpt2"].shapes)) == (124_439_808, 148)
    resnet = SETS["mixed"].shapes[:62]
    assert sum(math.prod(s) for s in resnet) == 11_689_512  # torchvision's resnet18
    assert {len(s) for s in SETS["mixed"].shapes} == {1, 2, 4}


@pytest.mark.parametrize(("method", "size"), [("adamw", 28), ("sgd", 20), ("lion", 20), ("lamb", 28), ("amsgrad", 36)])
def test_bytes_that_a_step_moves(method, size):
    assert bytes_moved(num_slots(chain_of(method))) == size


def test_bytes_of_a_step_without_state_and_of_the_reference():
    assert bytes_moved(num_slots(METHODS["sgd"](lr=0.1))) == 12
    assert REFERENCE.bytes == REFERENCE_BYTES == 28


# -- statistics -----------------------------------------------------------------------------------------------------


def test_the_ratio_is_taken_round_by_round_so_drift_cancels():
    r = row([0.5, 0.5, 0.5, 0.9])
    assert r.ratio == pytest.approx(0.5)
    assert r.quartiles == pytest.approx((0.5, 0.6))
    assert r.ratio_of_medians == pytest.approx(np.median(r.times) / np.median(r.reference))
    assert row([0.5] * 3, slots=1).per_byte == pytest.approx(0.5 * 28 / 20)


def test_floors_are_bytes_over_the_speed_of_the_same_round():
    r = Row(
        "large", 1000, "adamw", "x", "", "loop", 28, 0.0, (2.0, 3.0), (0.0, 0.0), (1.0, 1.0), (14.0, 28.0), (7.0,) * 2
    )
    assert r.to_copy == pytest.approx(np.median([2 * 14, 3 * 28]) / 28_000)
    assert r.to_in_place == pytest.approx(np.median([2 * 7, 3 * 7]) / 28_000)
    assert r.bandwidth == pytest.approx(28_000 / 2.5)


def test_a_row_survives_its_file():
    for r in (row([0.5, 0.25]), row((), error="no")):
        again = Row.from_dict(json.loads(json.dumps(r.to_dict())))
        assert (again.name, again.path, again.error) == (r.name, r.path, r.error)
        assert again.times == pytest.approx(r.times)
        assert len(cells(again)) == len(COLUMNS)


# -- targets --------------------------------------------------------------------------------------------------------


def verdicts(*rows):
    return {o.target.text: o for o in judge(rows) if o.met is not None}


def test_without_rows_nothing_is_met():
    assert not verdicts()
    assert all("not measured" in o.line for o in judge([]))


def test_the_worst_row_decides():
    found = verdicts(row([1.0]), row([1.2], set="gpt2"), row([0.7], method="lion", slots=1))
    per_byte = next(o for text, o in found.items() if "per byte" in text)
    in_time = next(o for text, o in found.items() if "1.15" in text)
    assert (per_byte.met, per_byte.missed, per_byte.judged) == (False, 1, 3)
    assert per_byte.value == in_time.value == pytest.approx(1.2)
    assert "missed by 14%" in per_byte.line
    assert "adamw auto on gpt2" in per_byte.line
    assert next(o for text, o in found.items() if "first" in text).met


def test_gradient_paths_are_judged_apart_unless_there_is_no_difference():
    apart = verdicts(row([0.1], set="small"), row([0.9], set="small", path="given"))
    assert [o.met for text, o in apart.items() if "on small" in text] == [True, False]
    one = verdicts(row([0.1], set="small", path="both"))
    assert [o.met for text, o in one.items() if "on small" in text] == [True, True]


def test_blocks_are_judged_by_foreach_of_its_own_method():
    blocks = row([2.0], layout="blocks")
    assert "blocks <= torch foreach of the same method" not in verdicts(
        blocks, row([3.0], by="torch", layout="foreach", set="small")
    )
    found = verdicts(blocks, row([2.5], by="torch", layout="foreach"))
    assert found["blocks <= torch foreach of the same method"].value == pytest.approx(0.8)


def test_a_step_of_ours_that_fails_misses_and_layerwise_methods_are_not_judged_per_byte():
    found = verdicts(row((), error="broken"))
    assert not any(o.met for o in found.values())
    assert "missed, failed" in next(iter(found.values())).line
    lamb = verdicts(row([1.4], method="lamb"))
    assert [o.target.limit for o in lamb.values()] == [1.5, 5.0]


def test_a_matrix_method_is_judged_by_its_products_and_by_the_fastest_peer():
    muon = {"method": "muon", "set": "small"}
    ours = row([0.5], **muon)
    assert not any("Muon" in text for text in verdicts(ours, row([1.0], set="small", by="torch")))
    slow = row([9.0], by="torch", layout="for-loop", **muon)
    stacked = row([0.4], by="other", layout="stacked", **muon)
    quick = row([2.0], by="torch", layout="for-loop, float32", **muon)
    elsewhere = [
        row([0.1], by="x", method="muon"),
        row([0.1], by="x", set="small"),
        row((), error="no", by="y", **muon),
    ]
    found = verdicts(ours, slow, stacked, quick, *elsewhere)
    assert found["auto, Muon <= the fastest peer"].value == pytest.approx(0.5 / 0.4)
    loops = found["auto, Muon <= 0.2 x the fastest peer that goes tensor by tensor, as it is, on small"]
    assert loops.value == pytest.approx(0.5 / 9.0)
    assert loops.met
    one = replace(row([0.5], method="muon", set="gpt2"), flops=1e9, gemm=(3e9,))
    (text, floor), *_ = [(t, o) for t, o in verdicts(one).items() if "products" in t]
    assert floor.value == pytest.approx(one.to_gemm), text
    (both,) = [
        o for t, o in verdicts(row([2.0], method="soap"), row([1.0], method="soap", by="x")).items() if "SOAP" in t
    ]
    assert both.value == pytest.approx(2.0)


def test_every_target_has_its_own_text():
    assert len({t.text for t in TARGETS}) == len(TARGETS)


# -- contenders and timing ------------------------------------------------------------------------------------------


def test_every_method_is_a_contender_and_torch_takes_the_same_steps():
    methods = make_plan(methods=["all"]).methods
    for contender in [*ours(methods, ["eager"]), *others(list(METHODS), ["fused", "foreach", "for-loop"])]:
        p = torch.ones(2, 2, requires_grad=True)
        optimizer = contender.build([p])
        for scale in (1.0, 2.0):  # the first step of some methods rests
            p.grad = torch.full((2, 2), scale)
            optimizer.step()
        assert not torch.equal(p, torch.ones(2, 2)), contender


def test_groups_that_fit_beside_the_reference():
    which = ParameterSet("x", "", ((10**9,),), 1, 1)
    contenders = ours(["adamw", "sgd"], ["eager"])
    groups, left_out = flights(which, contenders, None)
    assert [len(g) for g in groups] == [2]
    assert not left_out
    groups, left_out = flights(which, contenders, int(53e9))  # reference 16, shared 20.5, so one of 12 or of 16 is left
    assert [[c.method for c in g] for g in groups] == [["adamw"], ["sgd"]]
    groups, left_out = flights(which, contenders, int(50e9))
    assert [[c.method for c in g] for g in groups] == [["sgd"]]
    assert "adamw on x: needs 16.0 GB" in left_out[0]
    assert [len(g) for g in flights(which, contenders * 8, None)[0]] == [10, 6]


class KeepsGradients(torch.optim.SGD):
    """An optimizer whose gradients stay in buffers of its own, as a flat layout does."""

    def zero_grad(self, set_to_none=True):
        for p in self.param_groups[0]["params"]:
            p.grad = torch.zeros_like(p)


def test_a_flight_measures_both_paths_where_they_differ_and_failures_become_rows(tiny):
    def broken(params):
        raise RuntimeError("no such\nlibrary")

    keeping = Contender("sgd", "test", "keeping", 1, lambda params: KeepsGradients(params, lr=0.1))
    contenders = [keeping, Contender("lion", "test", "", 1, broken), *ours(["adamw"], ["eager"])]
    rows, left_out = time_set(TINY, contenders, 3)
    assert not left_out
    found = {(r.name, r.path): r for r in rows}
    assert {("torch fused", "both"), ("test keeping", "loop"), ("test keeping", "given")} <= found.keys()
    assert [r.error for r in rows if r.error] == ["RuntimeError: no such library"]
    for r in rows:
        if not r.error:
            assert len(r.times) == len(r.reference) == len(r.copy) == len(r.backward) == 3
            assert min(r.times) > 0


def test_without_time_left_two_rounds_are_taken(tiny):
    rows, _ = time_set(TINY, ours(["sgd"], ["eager"]), 50, seconds=0.0)
    assert [len(r.times) for r in rows] == [2, 2]


def test_a_peer_that_is_not_there_is_a_reason(tiny, monkeypatch):
    monkeypatch.setattr("fallline.bench.peers.PEERS", [Peer("adamw", "nowhere", "nowhere_at_all.AdamW")])
    rows, _ = time_set(TINY, peers(["adamw", "lion"])[0], 1)
    assert "No module named 'nowhere_at_all'" in rows[1].error


def test_extra_memory_counts_what_is_allocated():
    def action():
        with torch.profiler.record_function("step"):
            a = torch.ones(1000)
            b = a + 1
            del a
        return b

    before, peak, after = trace_memory(action)["step"]
    assert peak - before == pytest.approx(8000, abs=100)
    assert after - before == pytest.approx(4000, abs=100)


def test_extra_memory_of_torchs_fused_step_is_none():
    extra = extra_memory(ParameterSet("x", "", ((100, 100),), 1, 1), REFERENCE)
    assert extra.error == ""
    assert extra.state == 8.0
    assert extra.peak < 0.1
    assert extra.kept < 0.1


# -- the command ----------------------------------------------------------------------------------------------------


def test_the_command_prints_and_writes_everything(tiny, tmp_path, capsys):
    file = tmp_path / "step.json"
    argv = ["bench", "step", "--sets", "tiny", "--methods", "adamw,lion", "--fuse", "eager", "--rounds", "2"]
    assert main([*argv, "--threads", "1", "--json", str(file)]) == 0
    text = capsys.readouterr().out
    for expected in (
        "torch fused",
        "fallline eager",
        "torch foreach",
        "tiny: 0.00 M parameters, 2 rounds",
        "not measured",
    ):
        assert expected in text
    result = load(file)
    assert [r.name for r in result.rows] == ["torch fused", "fallline eager", "fallline eager", "torch foreach"]
    assert result.about["threads"] == 1
    assert result.about["command"].startswith("fallline bench step --sets tiny")
    assert str(tmp_path) not in file.read_text()
    content = json.loads(file.read_text())
    assert len(content["targets"]) == len(TARGETS)
    assert content["rows"][1]["derived"]["ratio"] > 0
    assert "| adamw | fallline eager |" in markdown(result)


def test_the_command_measures_memory(tiny, capsys):
    assert main(["bench", "step", "--sets", "tiny", "--methods", "sgd", "--fuse", "eager", "--memory"]) == 0
    assert "step's peak" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        (["--sets", "larg"], "Unknown parameter set 'larg'. Did you mean large"),
        (["--methods", "adamv"], "Unknown method 'adamv'. Did you mean adam"),
        (["--fuse", "eagr"], "Unknown fuse mode 'eagr'. Did you mean eager"),
        (["--rounds", "0"], "rounds=0. Expected at least 1"),
        (["--methods", "adamw,storm"], "bench got storm, which evaluates gradients elsewhere. Expected methods that"),
        (
            ["--methods", "muon,kfac,egn"],
            "bench step got kfac, egn, a second-order solver. Expected a method that steps on the gradients",
        ),
        (["--sets", "small", "--threads", "0"], "threads=0. Expected at least 1"),
        (["--json", "nowhere/step.json"], "is no folder"),
        (["--memory", "--rounds", "3"], "--memory"),
    ],
)
def test_mistakes_are_one_clear_line_and_exit_code_2(argv, text, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["bench", "step", *argv]) == 2
    captured = capsys.readouterr()
    assert text in captured.err
    assert captured.err.count("\n") == 1
    assert not captured.out


def test_a_file_that_is_none_of_ours(tmp_path):
    (tmp_path / "x.json").write_text("{}")
    with pytest.raises(FalllineError, match="Expected a file of `fallline bench step --json`"):
        load(tmp_path / "x.json")


def test_plans():
    assert [s.name for s in make_plan().sets] == ["large", "small", "gpt2", "mixed"]
    assert make_plan().layouts == FUSE_MODES
    assert set(METHODS) - set(make_plan(methods=["all"]).methods) == {
        n for n, m in METHODS.items() if m().needs - {"loss"}
    }
    quick = make_plan(quick=True)
    assert [s.name for s in quick.sets] == ["small", "large", "gpt2"]
    assert quick.seconds < math.inf
    contenders, left_out = quick.contenders(SETS["gpt2"])
    assert {c.layout for c in contenders if c.by == "fallline"} == {"auto"}
    assert "blocks on gpt2" in left_out[0]
    assert {c.by for c in make_plan(peers=True).contenders(SETS["small"])[0]} >= {"timm", "optimi", "heavyball"}
    with start_compiler(["eager"]) as seconds:
        assert seconds is None


def test_the_tables_of_the_page_are_replaced_and_the_rest_stays(tmp_path):
    about = dict.fromkeys(("processor", "cores", "load", "torch", "python", "fallline", "revision"), "?")
    save(tmp_path / "x.json", Result({**about, "date": "today", "threads": 2, "command": "the command"}, (row([0.5]),)))
    sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))
    try:
        import performance
    finally:
        sys.path.pop(0)
    text = performance.PAGE.read_text()
    once = performance.page(text, [tmp_path / "x.json"])
    assert once == performance.page(once, [tmp_path / "x.json"])
    assert "`the command`" in once
    assert "| adamw | fallline auto | loop |" in once
    assert once.startswith(text.partition(performance.START)[0])


def test_the_script_is_the_command():
    script = Path(__file__).parents[2] / "benchmarks" / "step.py"
    assert "fallline.cli" in script.read_text()


def test_products_of_a_step_are_counted():
    rows, columns = 64, 256
    once = 5 * (2 * 2 * rows * rows * columns + 2 * rows**3)
    assert flops_of("muon", ((rows, columns), (rows,), (columns, rows), (rows, columns))) == 3 * once
    assert flops_of("shampoo", ((8, 8),)) == 4 * 2 * 8**3
    assert flops_of("adamw", ((8, 8),)) == flops_of("clip", ((8, 8),)) == 0


def test_times_the_floor_of_products():
    one = replace(row([0.5] * 3), flops=1e9, gemm=(2e10,) * 3)
    assert one.to_gemm == pytest.approx(float(np.median(np.array(one.times))) * 20)
    assert cells(one)[COLUMNS.index("x gemm")] == f"{one.to_gemm:.2f}"
    assert one.to_dict()["derived"]["to_gemm"] == pytest.approx(one.to_gemm, rel=1e-4)
    assert row([0.5] * 3).to_gemm is None
