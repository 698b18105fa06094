"""The learning: the study's CNN, local training and evaluation in plain PyTorch; knows nothing of federation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, cast

import torch
from torch import nn
from torch.nn import functional

if TYPE_CHECKING:
    from flclient.apps.cifar10.data import Examples

EVALUATION_BATCH = 500


class Net(nn.Module):
    """The CNN of the study: 62,006 parameters, 248,024 bytes as float32.

    The net of PyTorch's CIFAR-10 tutorial (https://pytorch.org/tutorials/beginner/blitz/cifar10_tutorial.html), which
    Flower's first quickstart used. Maps images (n, 3, 32, 32) to class scores (n, 10).
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 5)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.pool = nn.MaxPool2d(2)
        self.fc1 = nn.Linear(400, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return unnormalised class scores (n, 10) of float32 images (n, 3, 32, 32)."""
        maps = self.pool(functional.relu(self.conv1(images)))
        maps = self.pool(functional.relu(self.conv2(maps)))
        features = functional.relu(self.fc1(maps.flatten(1)))
        features = functional.relu(self.fc2(features))
        return cast("torch.Tensor", self.fc3(features))


@dataclass(frozen=True)
class Recipe:
    """Plain SGD over `epochs` passes; `seed` alone decides the order of the examples."""

    lr: float
    momentum: float
    batch_size: int
    epochs: int
    seed: int


class Score(NamedTuple):
    """How a net does on a set: the fraction of right answers, and the mean cross-entropy in nats."""

    accuracy: float
    loss: float


def train(net: Net, examples: Examples, recipe: Recipe) -> float:
    """Train `net` in place; return the mean cross-entropy in nats of the examples as they were met.

    Batches are picked by index from tensors in memory, by a generator of its own: no worker processes, and the same
    recipe gives the same bits whatever drew random numbers before.
    """
    net.train()
    optimizer = torch.optim.SGD(net.parameters(), lr=recipe.lr, momentum=recipe.momentum)
    order = torch.Generator().manual_seed(recipe.seed)
    total = torch.zeros(())
    for _ in range(recipe.epochs):
        for batch in _batches(torch.randperm(len(examples), generator=order), recipe.batch_size):
            total += _step(net, optimizer, examples.batch(batch)) * len(batch)
    return total.item() / (recipe.epochs * len(examples))


def _batches(index: torch.Tensor, size: int) -> tuple[torch.Tensor, ...]:
    return tuple(torch.split(index, size))


def _step(net: Net, optimizer: torch.optim.SGD, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """Take one step of SGD; return the batch's mean loss before it."""
    images, labels = batch
    optimizer.zero_grad()
    loss = functional.cross_entropy(net(images), labels)
    loss.backward()  # type: ignore[no-untyped-call] # torch leaves this one method unannotated
    optimizer.step()
    return loss.detach()


@torch.no_grad()
def evaluate(net: Net, examples: Examples) -> Score:
    """Return the score of `net` on all `examples`."""
    net.eval()
    right, loss = 0, 0.0
    for batch in _batches(torch.arange(len(examples)), EVALUATION_BATCH):
        images, labels = examples.batch(batch)
        scores = net(images)
        right += int((scores.argmax(1) == labels).sum())
        loss += functional.cross_entropy(scores, labels, reduction="sum").item()
    return Score(accuracy=right / len(examples), loss=loss / len(examples))
