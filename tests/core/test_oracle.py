"""Oracles: pure in the parameters, equal to backward, one loss for each example, and nothing of the module changed."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fallline.core.errors import FalllineError
from fallline.core.oracle import of_loss, of_module


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 3))


@pytest.fixture
def batch():
    made = torch.Generator().manual_seed(1)
    return torch.randn(12, 5, generator=made), torch.randint(3, (12,), generator=made)


def test_backward_equals_loss_backward_with_its_statistics(model, batch):
    import copy

    twin = copy.deepcopy(model)
    F.cross_entropy(twin(batch[0]), batch[1]).backward()
    value = of_module(model, F.cross_entropy).backward(batch)
    assert value == F.cross_entropy(copy.deepcopy(twin)(batch[0]), batch[1])
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(p.grad, q.grad)
    for b, c in zip(model.buffers(), twin.buffers(), strict=True):
        assert torch.equal(b, c)


def test_backward_adds_to_what_is_there(model, batch):
    oracle = of_module(model, F.cross_entropy)
    oracle.backward(batch)
    once = {n: p.grad.clone() for n, p in oracle.params.items()}
    oracle.backward(batch)
    for n, p in oracle.params.items():
        torch.testing.assert_close(p.grad, 2 * once[n])
    oracle.closure(batch)()
    for n, p in oracle.params.items():
        torch.testing.assert_close(p.grad, once[n])


def test_pure_calls_change_neither_parameters_nor_buffers(model, batch):
    before = {k: v.clone() for k, v in model.state_dict().items()}
    oracle = of_module(model, F.cross_entropy)
    moved = {n: p + 1 for n, p in oracle.params.items()}
    assert oracle.loss(moved, batch) != oracle.loss(oracle.params, batch)
    oracle.losses(moved, batch), oracle.value_and_grad(moved, batch)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_losses_of_examples(model, batch, reduction):
    oracle = of_module(model, lambda out, y: F.cross_entropy(out, y, reduction=reduction))
    expected = F.cross_entropy(model(batch[0]), batch[1], reduction="none")
    torch.testing.assert_close(oracle.losses(oracle.params, batch), expected)
    torch.testing.assert_close(oracle.loss(oracle.params, batch), expected.mean())
    torch.testing.assert_close(oracle.criterion(oracle.outputs(oracle.params, batch), batch), expected)


def test_all_that_a_loss_sees_of_the_model_has_the_given_parameters(model, batch):
    penalised = of_loss(model, lambda m, b: F.cross_entropy(m(b[0]), b[1]) + m[0].weight.square().sum() / 2)
    plain = of_module(model, F.cross_entropy)
    moved = {n: p.detach() + 0.1 for n, p in plain.params.items()}
    extra = penalised.value_and_grad(moved, batch)[1]["0.weight"] - plain.value_and_grad(moved, batch)[1]["0.weight"]
    torch.testing.assert_close(extra, moved["0.weight"])
    assert penalised.losses(moved, batch).shape == (12,)


def test_frozen_parameters_are_left_out(model):
    model[0].weight.requires_grad_(False)
    assert list(of_module(model, F.cross_entropy).params) == ["0.bias", "1.weight", "1.bias", "3.weight", "3.bias"]


def test_unused_parameters_have_a_gradient_of_zero(batch):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.idle = nn.Linear(5, 3), nn.Linear(2, 2)

        def forward(self, x):
            return self.used(x)

    oracle = of_module(Net(), F.cross_entropy)
    _, gradients = oracle.value_and_grad(oracle.params, batch)
    assert gradients["idle.weight"].abs().max() == 0 < gradients["used.weight"].abs().max()


def test_what_is_wrong_is_said(model, batch):
    oracle = of_loss(model, lambda m, b: 3.0)
    with pytest.raises(FalllineError, match="returned float"):
        oracle.loss(oracle.params, batch)
    twice = of_loss(model, lambda m, b: F.cross_entropy(m(b[0]), b[1]) + m(b[0]).sum())
    with pytest.raises(FalllineError, match="calls the model 2 times"):
        twice.losses(twice.params, batch)
    with pytest.raises(FalllineError, match="no tensor with a first dimension"):
        oracle.num_examples(3)
    assert oracle.num_examples(batch) == 12


def test_losses_and_outputs_update_the_buffers_if_told_to(model, batch):
    import copy

    oracle = of_module(model, F.cross_entropy)
    for call in (oracle.losses, oracle.outputs):
        twin = copy.deepcopy(model)
        twin(batch[0])
        call(oracle.params, batch, statistics=True)
        for b, c in zip(model.buffers(), twin.buffers(), strict=True):
            assert torch.equal(b, c)


def test_a_scaler_scales_what_is_left_and_no_value(model, batch):
    oracle = of_module(model.eval(), F.cross_entropy)
    value, gradients = oracle.value_and_grad(oracle.params, batch)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    assert oracle.backward(batch, scaler=scaler) == value
    for n, p in oracle.params.items():
        assert torch.equal(p.grad, 1024 * gradients[n])
