"""Populations: run k of many is run k alone; what cannot be trained together says so."""

import dataclasses
from pathlib import Path

import pytest
import small
import torch
from torch import nn

import fallline.lab.population.stack as stack
import fallline.lab.population.traced as graph_module
import fallline.lab.population.train as population
from fallline import METHODS
from fallline.core.kernel import hypers_of
from fallline.core.transform import named_steps
from fallline.lab import Alone, RunSpec, make_spec, run_study, train, train_population
from fallline.lab.population.state import Hypers
from fallline.lab.population.traced import traced
from fallline.lab.population.update import Native, Single, Vectorised, make_update
from fallline.lab.run import chain_of, schedule
from fallline.lab.store import Store
from fallline.tasks import Metric, Tensors

TOGETHER = [name for name, m in METHODS.items() if not m().needs - {"loss"}]


def spec(method="adamw", seed=1, steps=10, **hypers):
    return RunSpec("small", method, tuple(sorted(hypers.items())), seed, steps, "tune")


def specs_of(method, steps=10, factors=(1.0, 0.3), seeds=(1, 2)):
    space = METHODS[method].space
    lr = space["lr"].at(0.2) if "lr" in space else METHODS[method].defaults["lr"]
    return [spec(method, seed, steps, lr=lr * f) for f in factors for seed in seeds]


def double(width=3):
    """The small task in float64, with a hidden layer."""
    x, y = (a.double() for a in small.data())
    return small.make_task(
        model=lambda: nn.Sequential(nn.Linear(4, width), nn.Tanh(), nn.Linear(width, 1)).double(),
        train=Tensors(x[:48], y[:48]),
        valid=Tensors(x[48:], y[48:]),
    )


def wide(dtype=torch.float32):
    """With enough parameters for native loops."""
    task = double(width=2000)
    if dtype is torch.float64:
        return task
    return small.make_task(model=lambda: nn.Sequential(nn.Linear(4, 2000), nn.Tanh(), nn.Linear(2000, 1)))


def assert_alike(task, specs, records, tolerance):
    for one, record in zip(specs, records, strict=True):
        alone = train(task, one)
        for key in (
            "status",
            "diverged_at",
            "steps",
            "initial",
            "initial_parameters",
            "state_bytes_per_parameter",
            "gradient_evaluations",
        ):
            assert record[key] == alone[key], key
        for key in ("metric", "train_loss"):
            assert record[key] == pytest.approx(alone[key], rel=tolerance), key
        hit, other = record["to_target"] or {}, alone["to_target"] or {}
        assert {**hit, "seconds": 0} == {**other, "seconds": 0}


def ways(monkeypatch):
    """The kinds of update that were chosen."""
    chosen = []

    def spy(*args):
        found = make_update(*args)
        chosen.append(type(found))
        return found

    monkeypatch.setattr(population, "make_update", spy)
    return chosen


@pytest.mark.parametrize("method", TOGETHER)
def test_run_k_is_run_k_alone(method, monkeypatch):
    chosen = ways(monkeypatch)
    specs = [*specs_of(method, factors=(1.0,)), specs_of(method)[-1]]
    assert_alike(double(), specs[::2], train_population(double(), specs)[::2], 1e-10)
    assert chosen == [Vectorised]


@pytest.mark.parametrize("method", ["adamw", "prodigy", "sps", "noisy_sgd"])
def test_steps_that_vmap_cannot_take_run_by_run(method, monkeypatch):
    def fail(*args):
        raise RuntimeError("vmap: no rule")

    monkeypatch.setattr(Vectorised, "found", fail)
    chosen = ways(monkeypatch)
    specs = specs_of(method)
    assert_alike(double(), specs[1:3], train_population(double(), specs)[1:3], 1e-10)
    assert chosen == [Single]


def test_a_vectorised_step_that_differs_is_not_taken(monkeypatch):
    right = Vectorised.found
    monkeypatch.setattr(
        Vectorised, "found", lambda *args: {n: {k: 2 * x for k, x in o.items()} for n, o in right(*args).items()}
    )
    chosen = ways(monkeypatch)
    train_population(double(), specs_of("adamw"))
    assert chosen == [Single]


@pytest.mark.parametrize("method", ["adamw", "lamb", "prodigy", "sps"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
def test_native_loops_step_every_run_with_its_own_numbers(method, dtype, tolerance, monkeypatch):
    chosen = ways(monkeypatch)
    specs = specs_of(method, steps=6)
    assert_alike(wide(dtype), specs[1:3], train_population(wide(dtype), specs)[1:3], tolerance)
    assert chosen == [Native]


@pytest.fixture(params=[False, True], ids=["under vmap", "as a graph"])
def graphs(request, monkeypatch):
    """The gradients as they are, or as a graph from the second step on."""
    made = []

    def spy(*args):
        made.append(traced(*args))
        return made[-1]

    if request.param:
        monkeypatch.setattr(stack, "TRACE_FROM", 1)
        monkeypatch.setattr(stack, "traced", spy)
    yield
    assert (not request.param and not made) or (made and all(made))


def test_dropout_and_augmentation_are_those_of_the_runs_own_streams(graphs):
    specs = [spec(seed=s, lr=lr) for s in (1, 2, 3) for lr in (0.01, 0.03)]
    assert_alike(small.noisy(), specs, train_population(small.noisy(), specs), 1e-5)


def test_every_run_keeps_its_own_running_statistics(graphs):
    # A bias before normalisation has a gradient of rounding errors alone, which AdamW blows up to whole steps.
    task = small.make_task(
        model=lambda: nn.Sequential(nn.Linear(4, 6, bias=False), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 1))
    )
    specs = [spec(seed=s, lr=lr) for s in (1, 2) for lr in (0.01, 0.03)]
    assert_alike(task, specs, train_population(task, specs), 1e-5)


@pytest.mark.parametrize("dims", [1, 3])
def test_linear_layers_of_any_input_and_frozen_ones(dims, graphs):
    def model():
        layers = nn.Sequential(
            nn.Unflatten(1, (1,) * (dims - 1) + (4,)),
            nn.Linear(4, 5),
            nn.Tanh(),
            nn.Linear(5, 1, bias=False),
            nn.Flatten(),
        )
        layers[1].bias.requires_grad_(False)
        return layers

    specs = [spec(seed=s, lr=0.03) for s in (1, 2, 3)]
    task = small.make_task(model=model)
    assert_alike(task, specs, train_population(task, specs), 1e-5)


def test_diverged_runs_are_left_out_and_the_others_do_not_notice(graphs):
    task = small.diverging()
    specs = [spec("sgd", lr=lr, steps=40) for lr in (1e6, 1e-3, 1e9, 3e-3, 1e7)]
    records = train_population(task, specs)
    assert [r["status"] for r in records] == ["diverged", "done", "diverged", "done", "diverged"]
    assert_alike(task, specs, records, 1e-5)


def test_a_population_may_diverge_altogether():
    records = train_population(small.make_task(), [spec("sgd", lr=lr) for lr in (1e12, 1e15)])
    assert [r["final"] for r in records] == [None, None]


LARGEST = small.data()[0][:48, 0].max()


def spiky(model, batch):
    """The batch with the largest example has a gradient whose square overflows, and the same loss."""
    x, _ = batch
    spike = 1e25 * (x[:, 0].max() >= LARGEST) * next(model.parameters()).sum()
    return small.mse(model, batch) + (spike - spike.detach())


def test_a_gradient_that_is_not_finite_is_a_skipped_step_of_that_run_alone():
    task = small.make_task(loss=spiky)
    specs = [spec(seed=s, lr=0.03, steps=12) for s in (1, 2, 3)]
    records = train_population(task, specs)
    assert_alike(task, specs, records, 1e-5)
    plain = train_population(small.make_task(), specs)
    assert all(a["metric"] != b["metric"] for a, b in zip(records, plain, strict=True)), "no step was skipped"


def test_gradients_that_stay_without_a_finite_value_end_the_run_as_they_do_alone(monkeypatch):
    monkeypatch.setattr(population, "PATIENCE", 5)
    task = small.make_task(loss=lambda m, b: small.mse(m, b) + (s := 1e25 * next(m.parameters()).sum()) - s.detach())
    with pytest.raises(Alone, match="gradients stay without a finite value"):
        train_population(task, [spec(seed=s) for s in (1, 2)])


def test_a_metric_that_vmap_cannot_take_is_taken_run_by_run():
    task = small.make_task(metric=Metric("MSE", lambda m, b: torch.tensor(small.mse(m, b).item())))
    specs = [spec(seed=s, lr=0.03) for s in (1, 2)]
    assert_alike(task, specs, train_population(task, specs), 1e-5)


def test_the_company_changes_rounding_at_most():
    task, specs = small.make_task(), [spec(seed=s, lr=0.03) for s in range(8)]
    whole = train_population(task, specs)
    some = train_population(task, specs[2:4])
    for a, b in zip(whole[2:4], some, strict=True):
        assert a["metric"] == pytest.approx(b["metric"], rel=1e-6)
    assert (whole[0]["population"], some[0]["population"]) == (8, 2)


def test_more_runs_than_there_is_room_for_train_in_several_populations():
    task, specs = small.make_task(), [spec(seed=s, lr=0.03) for s in range(8)]
    found = population.survey(task, 0)
    room = population.FEWEST * (2 * found.activation_bytes + 4 * found.parameter_bytes)
    records = train_population(task, specs, room=room)
    assert [r["population"] for r in records] == [4] * 8
    assert_alike(task, specs, records, 1e-5)
    assert [r["population"] for r in train_population(task, specs, room=None)] == [8] * 8


def test_a_population_repeats_itself_to_the_bit():
    specs = [spec(seed=s, lr=0.03) for s in (1, 2, 3)]
    one, two = (train_population(small.noisy(), specs) for _ in range(2))
    assert [r["metric"] for r in one] == [r["metric"] for r in two]


class Random(nn.Linear):
    def forward(self, x):
        return super().forward(x) + 0.1 * torch.randn(len(x), 1)


def test_graphs_are_shared_by_populations_of_one_task_and_size(monkeypatch):
    monkeypatch.setattr(stack, "TRACE_FROM", 1)
    task, made = small.make_task(), []
    original = graph_module._traced
    monkeypatch.setattr(graph_module, "_traced", lambda *args: made.append(original(*args)) or made[-1])
    for method in ("adamw", "lion"):
        train_population(task, specs_of(method))
    assert len(made) == 2  # of the gradients and of the metric
    train_population(task, specs_of("lion", seeds=(1, 2, 3)))
    assert len(made) == 4


def test_a_model_that_keeps_count_in_python_is_no_graph():
    model = Late(4, 1)
    x = torch.ones(2, 4)
    assert traced(lambda x: model(x), (x,), model, object(), "late") is None
    assert traced(lambda x: model(x), (x,), nn.Linear(4, 1), object(), "unseen") is not None


class Late(nn.Linear):
    """The hundredth call gives more."""

    calls = 0

    def forward(self, x):
        self.calls += 1
        return super().forward(x) * (2 if self.calls > 100 else 1)


class Remembering(nn.Linear):
    """Each call gives more than the last."""

    calls = 0

    def forward(self, x):
        self.calls += 1
        return super().forward(x) * self.calls


@pytest.mark.parametrize(
    ("task", "specs", "text"),
    [
        (small.branching, None, "data-dependent control flow"),
        (lambda: small.make_task(model=lambda: Random(4, 1)), None, "random numbers otherwise than by dropout"),
        (lambda: small.make_task(model=lambda: Remembering(4, 1)), None, "other gradients than among others"),
        (lambda: small.make_task(model=lambda: nn.Bilinear(4, 4, 1), loss=lambda m, b: m.weight.sum()), None, "'bias' takes no part in the loss"),
        (lambda: small.make_task(model=lambda: nn.Linear(4, 1).bfloat16()), None, "'weight' is torch.bfloat16, not float32"),
        (small.make_task, [spec("svrg"), spec("svrg", seed=2)], r"svrg needs more than one gradient a step \(closure, full\)"),
        (small.make_task, [spec("svrg"), spec("adamw")], "differ in task, method, options or steps"),
        (lambda: small.make_task(model=lambda: nn.Sequential(nn.Linear(4, 10**6), nn.Linear(10**6, 1))), None, "keep a core busy by itself"),
    ],
)  # fmt: skip
def test_what_cannot_be_trained_together_says_why_in_a_line(task, specs, text):
    with pytest.raises(Alone, match=text) as error:
        train_population(task(), specs or [spec(seed=s, lr=0.01) for s in (1, 2)])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("method", METHODS)
def test_hyperparameters_are_the_recipes_at_every_step(method):
    chain = chain_of(small.make_task(), spec(method, steps=50))
    found = Hypers(chain, 50)
    for t in (1, 2, 3, 7, 20, 33, 50, 60):
        moved = chain.rebuild({"lr": METHODS[method].defaults["lr"] * schedule(50)(t)})
        assert found.at(t) == [float(x) for x in hypers_of(tuple(named_steps(moved.steps)))]


def test_a_field_that_no_schedule_equals_evaluates_the_recipe():
    adamw = METHODS["adamw"]
    chain = adamw(lr=0.1 * schedule(20))
    squared = dataclasses.make_dataclass("Squared", ["inner"])(chain)
    squared.hypers = chain.hypers
    squared.rebuild = lambda values: chain.rebuild({"lr": values["lr"] ** 2})
    found = Hypers(squared, 20)
    for t in (1, 5, 20):
        steps = chain.rebuild({"lr": (0.1 * schedule(20)(t)) ** 2}).steps
        assert found.at(t) == [float(x) for x in hypers_of(tuple(named_steps(steps)))]


def study(name="make_task", seeds=3):
    return make_spec([f"{small.__file__}:{name}"], ["lion"], "quick", seeds)


def finals(results):
    return [[(r["run"], r["final"]) for r in (*m["trials"], *m["runs"])] for m in results["tasks"][0]["methods"]]


def test_a_study_that_lost_part_of_a_population_gives_equal_numbers(tmp_path):
    straight = finals(run_study(study("noisy"), tmp_path, 1))
    with Store(tmp_path) as store:
        # trials in eights, fresh seeds in threes; five runs at defaults and at AdamW's rate by themselves
        sizes = [r.get("population", 1) for r in store.results().values()]
        assert {size: sizes.count(size) for size in sizes} == {8: 24, 3: 9, 1: 5}
        some = [row[0] for row in store._db.execute("SELECT id FROM runs ORDER BY id")][::3]
        store._db.executemany("DELETE FROM runs WHERE id=?", [(i,) for i in some])
    events = []
    assert finals(run_study(study("noisy"), tmp_path, 1, events.append)) == straight
    assert events[-1].repeated == 38 - len(some)


def test_a_study_says_what_trains_one_by_one(tmp_path):
    events = []
    results = run_study(study("branching"), tmp_path, 1, events.append)
    said = {e.method: e.status for e in events if e.kind == "alone"}
    assert set(said) == {"adamw", "nesterov", "lion"}
    assert all("data-dependent control flow" in text for text in said.values())
    assert results["study"]["complete"]


def test_the_example_of_the_page_runs():
    page = (Path(small.__file__).parents[2] / "docs" / "population.md").read_text()
    names = {}
    exec(page.partition("```python\n")[2].partition("```")[0], names)
    assert names["best"][1]["final"] < 15
    assert len(names["records"]) == 8
