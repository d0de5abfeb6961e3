"""Fashion-MNIST with wrong labels: a small network that can learn them by heart."""

import torch
import torch.nn.functional as F
from torch import nn

from fallline.core.oracle import of_module
from fallline.tasks.corpora import FASHION_MNIST
from fallline.tasks.fashion_cnn import split


def images():
    """6,000 training and 1,000 validation images of 14 x 14 pixels, and their labels."""
    return [(F.avg_pool2d(d.tensors[0], 2), d.tensors[1]) for d in split(*FASHION_MNIST.load()[0])]


def accuracy(seed, objective_of, lr, sets, examples=1000, epochs=50, share=0.4, batch=100):
    """Validation accuracy in per cent after training 196-128-10 units with momentum 0.9 and a cosine, 40 % of the labels wrong."""
    (x, y), (valid, labels) = sets
    made = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(x), generator=made)[:examples]
    x, y = x[chosen], y[chosen]
    wrong = torch.rand(examples, generator=made) < share
    y = torch.where(wrong, (y + torch.randint(1, 10, (examples,), generator=made)) % 10, y)
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Flatten(), nn.Linear(196, 128), nn.ReLU(), nn.Linear(128, 10))
    objective = objective_of(of_module(model, F.cross_entropy))
    optimizer = torch.optim.SGD(model.parameters(), lr, momentum=0.9)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * (examples // batch))
    for _ in range(epochs):
        for part in torch.randperm(examples, generator=made).split(batch):
            optimizer.zero_grad()
            objective.backward((x[part], y[part]))
            optimizer.step()
            schedule.step()
    with torch.no_grad():
        return float((model(valid).argmax(1) == labels).float().mean() * 100)
