"""Batches and the evaluation over a whole validation set."""

import pytest
import torch
from torch import nn

from fallline.core.errors import FalllineError
from fallline.tasks import Metric, Task, Tensors, Windows, evaluate, fetch


def test_tensors_give_the_rows_asked_for():
    data = Tensors(torch.arange(10).view(5, 2), torch.arange(5))
    rows, labels = fetch(data, torch.tensor([4, 0]))
    assert len(data) == 5
    assert rows.tolist() == [[8, 9], [0, 1]]
    assert labels.tolist() == [4, 0]


def test_windows_are_shifted_by_one_and_stay_inside():
    tokens = torch.arange(11, dtype=torch.uint8)
    data = Windows(tokens, length=4, stride=3)
    inputs, targets = data.batch(torch.arange(len(data)))
    assert inputs.tolist() == [[0, 1, 2, 3], [3, 4, 5, 6], [6, 7, 8, 9]]  # brute force; the next would need token 13
    assert torch.equal(targets, inputs + 1)
    assert inputs.dtype == torch.int64
    assert len(Windows(tokens, length=10)) == 1


@pytest.mark.parametrize("tensors", [(), (torch.zeros(3), torch.zeros(4)), (torch.zeros(()),)])
def test_tensors_refuse_unequal_lengths(tensors):
    with pytest.raises(FalllineError, match=r"Tensors\(\) got .*same first dimension.*same length"):
        Tensors(*tensors)


@pytest.mark.parametrize(("length", "stride"), [(11, 1), (0, 1), (4, 0)])
def test_windows_refuse_what_does_not_fit(length, stride):
    with pytest.raises(
        FalllineError, match=r"Windows\(\) got tokens of shape \(11,\).*longer than length.*smaller length"
    ):
        Windows(torch.arange(11), length, stride)


def test_a_plain_torch_dataset_is_collated():
    examples = [(torch.full((2,), float(i)), i) for i in range(4)]
    rows, labels = fetch(examples, torch.tensor([2, 1]))
    assert rows.tolist() == [[2, 2], [1, 1]]
    assert labels.tolist() == [2, 1]


def test_torch_batch_look_up_comes_before_a_batch_method_of_another_meaning():
    class Foreign:
        def __len__(self):
            return 4

        def __getitems__(self, indices):
            return [{"x": float(i)} for i in indices]

        def batch(self, batch_size):
            raise AssertionError("this batch() wants a size")

    assert fetch(Foreign(), torch.tensor([3, 1]))["x"].tolist() == [3.0, 1.0]


def mean_task(count, batch_size):
    data = Tensors(torch.arange(float(count)))
    return Task("t", "", lambda: nn.Linear(1, 1), _mean, data, data, Metric("mean", _mean), 0.0, batch_size, 20)


def _mean(model, batch):
    return batch[0].mean()


@pytest.mark.parametrize("batch_size", [1, 2, 3, 5, 11])
def test_evaluation_weights_a_last_small_chunk_by_its_size(batch_size):
    assert evaluate(mean_task(11, batch_size), nn.Linear(1, 1)) == pytest.approx(5.0)  # the mean of 0..10


def test_evaluation_uses_eval_mode_without_gradients_and_restores_every_mode():
    seen = []

    def metric(model, batch):
        seen.append((model[0].training, model[1].training, torch.is_grad_enabled()))
        return batch[0].mean()

    data = Tensors(torch.arange(4.0))
    model = nn.Sequential(nn.Dropout(), nn.BatchNorm1d(1)).train()
    model[1].eval()  # frozen by the user
    task = Task("t", "", lambda: model, _mean, data, data, Metric("m", metric), 0.0, 2, 20)
    evaluate(task, model)
    assert seen == [(False, False, False)]
    assert (model.training, model[0].training, model[1].training) == (True, True, False)


def test_modes_are_restored_when_the_metric_raises():
    def metric(model, batch):
        raise RuntimeError("boom")

    data = Tensors(torch.arange(4.0))
    task = Task("t", "", nn.Dropout, _mean, data, data, Metric("m", metric), 0.0, 2, 20)
    model = nn.Dropout()
    with pytest.raises(RuntimeError, match="boom"):
        evaluate(task, model)
    assert model.training
