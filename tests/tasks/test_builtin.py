"""The tasks that come along: shapes, sizes, the loss that theory gives before training, and cheap listing."""

import datetime
import math

import numpy as np
import pytest
import torch

from fallline.tasks import TASKS, SyntheticDataWarning, data, evaluate, fetch, load
from fallline.tasks.fashion_cnn import SHIFT, mirror_and_shift
from fallline.tasks.shakespeare_gpt import ALPHABET, CONTEXT, CharTransformer, encode

# name: (training examples, validation examples, parameters, shape of the first tensor of a batch of 4)
FACTS = {
    "digits-mlp": (1438, 359, 26_122, (4, 64)),
    "deep-autoencoder": (6000, 1000, 437_664, (4, 784)),
    "fashion-cnn": (6000, 1000, 29_178, (4, 1, 28, 28)),
    "shakespeare-gpt": (137_941, 256, 53_088, (4, 32)),
    "breast-cancer-logistic": (427, 142, 31, (4, 30)),
    "fashion-resnet": (6000, 1000, 44_130, (4, 1, 14, 14)),
    "fashion-nfnet": (6000, 1000, 44_232, (4, 1, 14, 14)),
    "fashion-vit": (6000, 1000, 60_298, (4, 1, 28, 28)),
    "fashion-noisy": (6000, 1000, 269_322, (4, 1, 28, 28)),
    "fashion-longtail": (1390, 870, 269_322, (4, 1, 28, 28)),
    "zipf-words": (200_685, 2_000, 295_257, (4, 2)),
    "signals-gru": (4000, 1000, 3_690, (4, 40)),
    "siren-image": (12_544, 3_136, 4_897, (4, 2)),
    "flights-delay": (59_519, 5_951, 4_837, (4, 6)),
    "gan-ring": (8_192, 512, 9_283, (4, 2)),
    "pinn-poisson": (2_048, 256, 2_209, (4, 1)),
    "matrix-factorisation": (6000, 1000, 1_500, (4, 2)),
    "quadratic": (128, 128, 64, (4, 64)),
    "rosenbrock": (1, 1, 32, (1, 1)),
}
OWN_SELECTION = {"fashion-longtail", "siren-image", "zipf-words", "shakespeare-gpt"}  # of what the corpus counts


def at_most_four(part):
    return fetch(part, torch.tensor([0, 3, 1, 2]) if len(part) > 1 else torch.tensor([0]))


def fresh(task):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return task.model()


@pytest.mark.parametrize("name", TASKS)
def test_sizes_and_shapes(name):
    task, entry = load(name), TASKS[name]
    train, valid, parameters, shape = FACTS[name]
    assert (len(task.train), len(task.valid), entry.num_parameters) == (train, valid, parameters)
    assert entry.num_parameters == sum(p.numel() for p in fresh(task).parameters())
    for part in (task.train, task.valid):
        assert at_most_four(part)[0].shape == shape
    if name not in OWN_SELECTION:
        assert f"{train:,} + {valid:,}" in entry.corpus.size


@pytest.mark.parametrize("name", TASKS)
def test_every_task_passes_its_own_check(name):
    load(name).check()


@pytest.mark.parametrize("name", TASKS)
def test_entries_say_what_a_newcomer_needs(name):
    entry = TASKS[name]
    assert all([entry.summary, entry.target_note, entry.corpus.licence])
    assert len(entry.corpus.sha256) == 64
    assert len(entry.doc.splitlines()) > 2
    assert all(part in entry.data for part in (entry.corpus.name, entry.corpus.size, entry.corpus.licence))
    assert str(entry.metric).startswith(entry.metric.name)
    assert entry.metric.unit in str(entry.metric)


@pytest.mark.parametrize("name", TASKS)
def test_data_and_model_are_the_same_each_time(name):
    a, b = load(name), load(name)
    for x, y in zip(at_most_four(a.train), at_most_four(b.train), strict=True):
        assert torch.equal(x, y)
    for p, q in zip(fresh(a).parameters(), fresh(b).parameters(), strict=True):
        assert torch.equal(p, q)


# A classifier that knows nothing has loss ln(number of classes); random logits add half their variance.
@pytest.mark.parametrize(
    ("name", "classes", "slack"),
    [
        ("digits-mlp", 10, 0.05),
        ("fashion-cnn", 10, 0.4),
        ("shakespeare-gpt", 96, 0.05),
        ("breast-cancer-logistic", 2, 0.01),
        ("fashion-resnet", 10, 0.3),
        ("fashion-nfnet", 10, 0.3),
        ("fashion-vit", 10, 0.3),
        ("fashion-noisy", 10, 0.05),
        ("fashion-longtail", 10, 0.15),
        ("zipf-words", 3001, 0.1),
        ("signals-gru", 10, 0.1),
    ],
)
def test_the_loss_at_the_start_is_that_of_knowing_nothing(name, classes, slack):
    task = load(name)
    loss = task.loss(fresh(task), fetch(task.train, torch.arange(task.batch_size))).item()
    assert loss == pytest.approx(math.log(classes), abs=slack)


def test_an_autoencoder_that_gives_zero_has_the_mean_square_as_loss():
    task = load("deep-autoencoder")
    model = fresh(task)
    torch.nn.init.zeros_(model[-1].weight)
    torch.nn.init.zeros_(model[-1].bias)
    (pixels,) = task.valid.tensors
    assert evaluate(task, model) == pytest.approx(100 * pixels.square().mean().item(), rel=1e-5)
    torch.nn.init.zeros_(model[-1].bias).data += task.train.tensors[0].mean(0)
    assert evaluate(task, model) == pytest.approx(8.67, abs=0.01)  # the mean image, as the task's page says


def test_the_error_of_a_constant_answer_is_the_share_of_the_other_classes():
    task = load("digits-mlp")
    model = fresh(task)
    for p in model.parameters():
        torch.nn.init.zeros_(p)
    model[-1].bias.data[3] = 1.0
    labels = task.valid.tensors[1].numpy()
    assert evaluate(task, model) == pytest.approx(100 * np.mean(labels != 3), rel=1e-5)


def test_the_flights_are_those_of_the_table():
    """The first two flights of the source's table that are five apart, read there by eye; weekdays against the calendar."""
    (table,), _ = TASKS["flights-delay"].corpus.load()
    low, high, *_, month, day, hour, minute = table.astype(int)
    delays = low + 256 * high - 128
    assert delays[:2].tolist() == [11, 12]
    assert list(zip(month, day, hour, minute, strict=True))[:2] == [(1, 1, 5, 15), (1, 1, 5, 58)]
    train, valid = load("flights-delay").train.tensors, load("flights-delay").valid.tensors
    assert [round(45 * x) for x in (train[2][:2] - train[2][1]).tolist()] == [-1, 0]
    assert train[2].mean().abs() < 1e-6
    every = range(0, len(delays), 997)
    wanted = [datetime.date(2013, month[i], day[i]).weekday() for i in every]
    place = {i: (valid if i % 11 == 10 else train)[0][i // 11 if i % 11 == 10 else i - i // 11] for i in every}
    assert [int(place[i][5]) for i in every] == wanted


def test_constant_answers_on_the_flights_have_the_errors_that_the_page_says():
    task = load("flights-delay")
    model = fresh(task)
    delays = task.train.tensors[2]
    assert evaluate(task, model) == pytest.approx(0.600, abs=6e-4)  # the untrained model gives the mean
    for answer, error in ((delays.mean(), 0.600), (delays.median(), 0.550)):
        model.layers[-1].bias.data.fill_(answer)
        assert evaluate(task, model) == pytest.approx(error, abs=6e-4)


def test_training_and_validation_text_do_not_overlap():
    task = load("shakespeare-gpt")
    train, valid = task.train, task.valid
    last = (len(train) - 1) * train.stride + CONTEXT + 1
    assert last <= len(train.tokens)
    assert len(train.tokens) + len(valid.tokens) <= 1_226_170
    assert len(valid) == 256


def test_the_alphabet_is_printable_ascii():
    assert len(set(ALPHABET)) == len(ALPHABET) == 96
    text = "To be,\nor not to be?"
    codes = encode(np.frombuffer(text.encode(), np.uint8))
    assert "".join(ALPHABET[c] for c in codes) == text
    assert ALPHABET[encode(np.array([200], np.uint8))[0]] == "?"


def test_the_transformer_is_causal_and_tied():
    model = fresh(load("shakespeare-gpt")).eval()
    codes = torch.arange(CONTEXT)[None] % 96
    changed = codes.clone()
    changed[0, 20] += 1
    before, after = model(codes), model(changed)
    assert torch.allclose(before[0, :20], after[0, :20], atol=1e-6)
    assert not torch.allclose(before[0, 20:], after[0, 20:], atol=1e-4)
    assert model(codes[:, :10]).shape == (1, 10, 96)


def test_dropout_is_a_choice_and_acts_in_training_only():
    codes = torch.zeros(1, 8, dtype=torch.int64)
    for dropout, same in ((0.0, True), (0.5, False)):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = CharTransformer(dropout=dropout)
            assert torch.equal(model(codes), model(codes)) is same
            model.eval()
            assert torch.equal(model(codes), model(codes))


def test_mirroring_and_shifting_is_one_of_the_fifty_possible_changes():
    """Brute force: every augmented image is one of 2 x 5 x 5 mirrored and padded crops, and all kinds appear."""
    image = torch.rand(1, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    padded = torch.nn.functional.pad(image[0, 0], (SHIFT,) * 4)
    crops = {(m, i, j): c.flip(1) if m else c for m in (0, 1) for i in range(5) for j in range(5)
             for c in [padded[i : i + 28, j : j + 28]]}  # fmt: skip
    batch = image.expand(400, 1, 28, 28), torch.arange(400)
    images, labels = mirror_and_shift(batch, torch.Generator().manual_seed(1))
    kinds = [next(k for k, c in crops.items() if torch.equal(c, x[0])) for x in images]
    assert len(set(kinds)) == 50
    assert labels is batch[1]


def test_augmentation_draws_from_its_generator_alone():
    batch = fetch(load("fashion-cnn").train, torch.arange(8))
    state = torch.get_rng_state()
    a, b = (mirror_and_shift(batch, torch.Generator().manual_seed(5))[0] for _ in range(2))
    assert torch.equal(a, b)
    assert torch.equal(torch.get_rng_state(), state)


def test_the_logistic_features_are_as_badly_scaled_as_the_page_says():
    x, _ = load("breast-cancer-logistic").train.tensors
    x = torch.cat([x.double(), torch.ones(len(x), 1)], 1)
    curvature = torch.linalg.eigvalsh(x.T @ x / (4 * len(x)))  # the Hessian at zero weights
    assert curvature[-1].item() == pytest.approx(4.4e5, rel=0.02)
    assert curvature[0].item() == pytest.approx(1.6e-7, rel=0.05)


def test_listing_reads_no_data(monkeypatch):
    def refuse(*_):
        raise AssertionError("data was read")

    monkeypatch.setattr(data, "_load", refuse)
    for name, entry in TASKS.items():
        assert entry.name == name
        assert entry.num_parameters > 0


def test_the_synthetic_warning_can_be_filtered_by_class():
    assert issubclass(SyntheticDataWarning, UserWarning)
