"""Tasks with made data or made changes of data: each fact of their pages, by closed form or by counting."""

import dataclasses
import math
import warnings

import numpy as np
import pytest
import torch

from fallline.core.errors import FalllineError
from fallline.lab import RunSpec, train
from fallline.tasks import TASKS, DifferentDataWarning, data, evaluate, fetch, load
from fallline.tasks.corpora import FASHION_MNIST
from fallline.tasks.fashion_longtail import first_of_each
from fallline.tasks.fashion_noisy import wrong
from fallline.tasks.gan_ring import energy_distance
from fallline.tasks.generated import Generated
from fallline.tasks.pinn_poisson import Jet, residual, right_hand_side, solution
from fallline.tasks.quadratic import hadamard
from fallline.tasks.zipf_words import number_words

MADE = [entry for entry in TASKS.values() if isinstance(entry.corpus, Generated)]


def fresh(task, seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return task.model()


@pytest.mark.parametrize("entry", MADE, ids=lambda e: e.name)
def test_generated_data_have_the_published_hash_and_are_no_stand_in(entry):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        arrays, source = entry.corpus.load()
    assert source.sha256 == entry.corpus.sha256 == data.digest(arrays)
    assert all(np.issubdtype(a.dtype, np.integer) for a in arrays)
    assert not source.synthetic
    assert "made by fallline" in source.origin


def test_generated_data_have_no_folder(tmp_path):
    with pytest.raises(FalllineError, match=r"data folder .* given for no data.*have no files.*Leave the folder out"):
        load("rosenbrock", tmp_path)


def test_other_numbers_than_the_published_are_warned_about():
    other = dataclasses.replace(TASKS["rosenbrock"].corpus, sha256="0" * 64)
    with pytest.warns(DifferentDataWarning, match=r"came out with SHA-256 6e34.*not the published 0000.*not compare"):
        other.load()


def test_the_spectrum_is_the_prescribed_one():
    rows, _ = load("quadratic").train.tensors
    curvature = torch.linalg.eigvalsh(rows.double().T @ rows.double() / len(rows)).flip(0)
    expected = torch.logspace(0, -4, 64, dtype=torch.float64)
    torch.testing.assert_close(curvature, expected, rtol=1e-3, atol=0)
    assert torch.equal(torch.from_numpy(hadamard(8) @ hadamard(8).T), 8 * torch.eye(8, dtype=torch.float64))


def test_the_equations_have_a_solution_far_from_zero():
    rows, right = (x.double() for x in load("quadratic").train.tensors)
    solution = torch.linalg.lstsq(rows, right[:, None]).solution
    assert (rows @ solution - right[:, None]).abs().max() < 1e-5
    assert solution.norm().item() == pytest.approx(8.0, rel=1e-3)  # 64 eigenvectors with weights of +1 or -1


def test_gradient_descent_follows_the_closed_form():
    """At rate 1 the error along each eigenvector shrinks by 1 - eigenvalue in each step."""
    rows, right = (x.double() for x in load("quadratic").train.tensors)
    hessian = rows.T @ rows / len(rows)
    values, vectors = torch.linalg.eigh(hessian)
    solution = torch.linalg.lstsq(rows, right[:, None]).solution.squeeze()
    model = fresh(load("quadratic")).double()
    start = model.weight.detach().squeeze() - solution
    for _ in range(20):
        model.zero_grad()
        TASKS["quadratic"].loss(model, (rows, right)).backward()
        model.weight.data -= model.weight.grad
    end = vectors.T @ (model.weight.detach().squeeze() - solution)
    torch.testing.assert_close(end, (1 - values) ** 20 * (vectors.T @ start), rtol=1e-8, atol=1e-10)


def test_the_valley_has_its_floor_at_ones_and_the_usual_start():
    task = load("rosenbrock")
    model = fresh(task)
    assert model.pairs.mean(1).tolist() == pytest.approx([-1.2, 1.0], abs=0.1)
    model.pairs.data = torch.tensor([[-1.2], [1.0]]).expand(2, 16).clone()
    assert task.loss(model, fetch(task.train, torch.tensor([0]))).item() == pytest.approx(
        24.2
    )  # the paper's f at the start
    assert evaluate(task, model) == pytest.approx(math.log10(24.2))
    model.pairs.data = torch.ones(2, 16)
    assert evaluate(task, model) == pytest.approx(-12)  # the floor of the metric


def test_the_jet_has_the_derivatives_of_autograd():
    torch.manual_seed(0)
    model = Jet(width=7).double()
    x = torch.rand(9, 1, dtype=torch.float64, requires_grad=True)
    u = model(x)[:, :1]
    first = torch.autograd.grad(u.sum(), x, create_graph=True)[0]
    second = torch.autograd.grad(first.sum(), x)[0]
    torch.testing.assert_close(model(x), torch.cat([u, first, second], 1))


def test_the_solution_solves_the_equation():
    x = torch.linspace(0, 1, 11, dtype=torch.float64)[:, None].requires_grad_()
    first = torch.autograd.grad(solution(x).sum(), x, create_graph=True)[0]
    second = torch.autograd.grad(first.sum(), x)[0]
    torch.testing.assert_close(second, right_hand_side(x.detach()))

    class Exact(torch.nn.Module):
        def forward(self, x):
            return torch.cat([solution(x), torch.zeros_like(x), right_hand_side(x)], 1)

    assert residual(Exact(), (x.detach(),)).item() == pytest.approx(0, abs=1e-12)
    assert evaluate(load("pinn-poisson"), Exact()) == pytest.approx(0, abs=1e-6)


def test_a_network_that_says_zero_has_an_error_of_a_hundred_per_cent():
    model = fresh(load("pinn-poisson"))
    torch.nn.init.zeros_(model.layers[-1].weight)
    torch.nn.init.zeros_(model.layers[-1].bias)
    assert evaluate(load("pinn-poisson"), model) == pytest.approx(100, rel=1e-4)


def test_the_matrix_has_rank_five_and_the_said_singular_values():
    """The true factors of the completed matrix, found from its entries by alternating least squares, give them back."""
    task = load("matrix-factorisation")
    (places, values), (others, truth) = task.train.tensors, task.valid.tensors
    matrix = torch.zeros(200, 100, dtype=torch.float64)
    known = torch.zeros(200, 100, dtype=torch.bool)
    for where, what in ((places, values), (others, truth)):
        matrix[where[:, 0], where[:, 1]], known[where[:, 0], where[:, 1]] = what.double(), True
    assert known.sum() == 7_000  # no entry twice
    right = torch.linalg.svd(matrix / 0.35)[2][:5].T
    for _ in range(40):
        left = _rows(matrix, known, right)
        right = _rows(matrix.T, known.T, left)
    singular = torch.linalg.svdvals(left @ right.T)
    assert singular[:5].tolist() == pytest.approx([120, 60, 30, 15, 7.5], rel=2e-3)
    model = fresh(task)
    model.rows.data, model.columns.data = left.float(), right.float()
    assert evaluate(task, model) < 1e-4
    model.rows.data.zero_()
    assert evaluate(task, model) == pytest.approx(100, rel=0.1)


def _rows(matrix, known, columns):
    """Least squares for all rows at once, each over its known entries."""
    gram = torch.einsum("ij,jk,jl->ikl", known.double(), columns, columns)
    return torch.linalg.solve(gram, torch.einsum("ij,jk->ik", matrix * known, columns))


def test_signals_are_all_of_ten_patterns_in_equal_shares():
    signals, labels = load("signals-gru").train.tensors
    counts = torch.bincount(labels, minlength=10)
    assert counts.min() > 340
    assert 0.5 < signals.std().item() < 1.5
    assert torch.unique(signals, dim=0).shape == signals.shape


def test_forty_per_cent_of_the_labels_are_wrong_and_validation_is_clean():
    (_, labels, _, truth), _ = FASHION_MNIST.load()
    noisy = wrong(labels)
    assert (noisy != labels).mean() == pytest.approx(0.4, abs=1e-9)
    spread = np.bincount((noisy.astype(int) - labels)[noisy != labels] % 10, minlength=10)
    assert spread[0] == 0
    assert spread[1:].min() > 2400 / 9 - 60
    task = load("fashion-noisy")
    assert np.array_equal(task.train.tensors[1].numpy(), noisy)
    assert np.array_equal(task.valid.tensors[1].numpy(), truth)


def test_the_tail_is_geometric_and_validation_is_balanced():
    task = load("fashion-longtail")
    counts = torch.bincount(task.train.tensors[1])
    assert counts[0] / counts[-1] == pytest.approx(100, rel=0.1)
    assert (counts[1:] / counts[:-1]).tolist() == pytest.approx([100 ** (-1 / 9)] * 9, abs=0.08)
    assert torch.bincount(task.valid.tensors[1]).tolist() == [87] * 10
    assert first_of_each(np.array([*range(10)] * 3), 1).tolist() == list(range(30))


def test_words_are_numbered_by_frequency_in_the_training_part():
    words, cut = number_words("A a a b B c " * 9 + "new c c c c c")
    assert (words[:6].tolist(), cut) == ([1, 1, 1, 2, 2, 3], 54)
    assert words[54:].tolist() == [0, 3, 3, 3, 3, 3]


def test_word_frequencies_follow_zipf():
    targets = load("zipf-words").train.tensors[1]
    share = torch.bincount(targets, minlength=3001).double()[1:] / len(targets)
    assert (share.diff() * len(targets)).max() <= 2  # sorted, but for the two words that are no targets
    slope = np.polyfit(np.log(np.arange(10, 1001)), share[9:1000].log().numpy(), 1)[0]
    assert slope == pytest.approx(-1, abs=0.15)
    assert (targets == 0).double().mean() < 0.12


def test_the_picture_is_the_sixteen_images_in_their_places():
    places, brightness = load("siren-image").train.tensors
    (_, _, images, _), _ = FASHION_MNIST.load()
    picture = (255 * brightness).round().reshape(112, 112).numpy()
    assert np.array_equal(picture[28:56, 56:84], images[4 + 2])
    assert places[0].tolist() == [-1, -1]
    assert places[112 * 2 + 5].tolist() == pytest.approx([-1 + 2 * 2 / 111, -1 + 2 * 5 / 111])


def test_the_twins_differ_in_normalisation_alone():
    plain, free = (fresh(load(name)) for name in ("fashion-resnet", "fashion-nfnet"))
    convolutions = [[m.weight.shape for m in net.modules() if isinstance(m, torch.nn.Conv2d)] for net in (plain, free)]
    assert sorted(convolutions[0]) == sorted(convolutions[1])
    assert len(convolutions[0]) == 1 + 2 * 6 + 2
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in free.modules())
    x = load("fashion-resnet").train.tensors[0]
    assert (x.mean().item(), x.std().item()) == pytest.approx((0, 1), abs=1e-4)


def test_the_game_descends_for_one_player_and_ascends_for_the_other():
    """The gradient of the one loss is that of the discriminator's loss, with the generator's part reversed."""
    task = load("gan-ring")
    torch.manual_seed(0)
    model = task.model()
    points, noise = batch = fetch(task.train, torch.arange(64))
    loss = task.loss(model, batch)
    loss.backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    real, made = model.discriminator(points), model.discriminator(model(noise))
    plain = -real.sigmoid().log().mean() - (1 - made.sigmoid()).log().mean()
    plain.backward()
    assert loss.item() == pytest.approx(plain.item(), rel=1e-5)
    for name, p in model.named_parameters():
        sign = -1 if name.startswith("generator") else 1
        assert torch.allclose(found[name], sign * p.grad, rtol=1e-4, atol=1e-7), name


def test_the_energy_distance_is_that_of_its_definition():
    x, y = torch.randn(5, 2, generator=torch.Generator().manual_seed(0)).double(), torch.eye(2).double()

    def mean(a, b):
        return np.mean([[np.linalg.norm(p - q) for q in b] for p in a])

    assert energy_distance(x, y).item() == pytest.approx(2 * mean(x, y) - mean(x, x) - mean(y, y), rel=1e-12)
    assert energy_distance(x, x).item() == pytest.approx(0, abs=1e-12)


def test_the_ring_has_eight_modes_and_samples_of_it_are_close():
    task = load("gan-ring")
    points, valid = task.train.tensors[0], task.valid.tensors[0]
    angle = torch.atan2(points[:, 1], points[:, 0]) / (2 * math.pi / 8)
    assert torch.bincount(angle.round().long() % 8).tolist() == [1024] * 8
    assert (points.norm(dim=1) - 1).std().item() == pytest.approx(0.05, rel=0.05)
    assert energy_distance(points[:512], valid).item() == pytest.approx(0.0004, abs=2e-4)
    assert energy_distance(torch.zeros(512, 2), valid).item() == pytest.approx(0.73, abs=0.01)


@pytest.mark.slow
def test_momentum_hurts_in_the_game():
    finals = {}
    for method, lr in (("sgd", 0.3), ("nesterov", 0.03), ("nesterov", 0.01)):
        spec = RunSpec("gan-ring", method, (("lr", lr),), 1, 1000, "tune")
        finals[method, lr] = train(load("gan-ring"), spec)["final"] or math.inf
    assert finals["sgd", 0.3] < 0.05
    assert finals["nesterov", 0.01] > 0.1
    assert finals["nesterov", 0.03] > 1
