import math
import random
from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from flclient.apps.cifar10 import data, task
from flclient.apps.cifar10.data import Examples, Source

RECIPE = task.Recipe(lr=0.02, momentum=0.9, batch_size=32, epochs=1, seed=5)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def digits() -> Examples:
    return data.load(Source("digits"), train=True)


@pytest.fixture
def unseen() -> Examples:
    return data.load(Source("digits"), train=False)


def fresh_net() -> task.Net:
    torch.manual_seed(3)
    return task.Net()


def weights(net: task.Net) -> torch.Tensor:
    return torch.cat([values.flatten() for values in net.state_dict().values()])


def test_net_is_the_one_of_the_study() -> None:
    """The study's CNN, layer by layer, has 62,006 parameters in 248,024 bytes."""
    shapes = {name: tuple(values.shape) for name, values in task.Net().state_dict().items()}
    assert shapes == {
        "conv1.weight": (6, 3, 5, 5),
        "conv1.bias": (6,),
        "conv2.weight": (16, 6, 5, 5),
        "conv2.bias": (16,),
        "fc1.weight": (120, 400),
        "fc1.bias": (120,),
        "fc2.weight": (84, 120),
        "fc2.bias": (84,),
        "fc3.weight": (10, 84),
        "fc3.bias": (10,),
    }
    values = weights(task.Net())
    assert values.dtype == torch.float32
    assert (values.numel(), values.numel() * values.element_size()) == (62_006, 248_024)


def test_net_uses_every_layer() -> None:
    """Each parameter takes part in the output (the study's printed forward pass leaves one layer out)."""
    net = fresh_net()
    scores = net(torch.rand(8, 3, 32, 32))
    assert scores.shape == (8, 10)
    scores.square().sum().backward()
    assert all(values.grad is not None and values.grad.abs().sum() > 0 for values in net.parameters())


def test_evaluation_of_a_net_that_knows_nothing(unseen: Examples) -> None:
    """Equal scores for all classes: the loss is ln 10, and the answer is always class 0."""
    net = task.Net()
    net.load_state_dict({name: torch.zeros_like(values) for name, values in net.state_dict().items()})
    score = task.evaluate(net, unseen)
    assert score.loss == pytest.approx(math.log(10), rel=1e-6)
    assert score.accuracy == int((unseen.labels == 0).sum()) / len(unseen)


def test_evaluation_counts_every_example_once(digits: Examples) -> None:
    """A set longer than one evaluation batch gives the same score as the whole at once."""
    assert len(digits) > 2 * task.EVALUATION_BATCH
    net = fresh_net()
    images, labels = digits.batch(torch.arange(len(digits)))
    with torch.no_grad():
        scores = net(images)
    score = task.evaluate(net, digits)
    assert score.accuracy == int((scores.argmax(1) == labels).sum()) / len(digits)
    assert score.loss == pytest.approx(functional.cross_entropy(scores, labels).item(), rel=1e-5)


def test_training_is_plain_sgd(unseen: Examples) -> None:
    """One batch without momentum moves the weights by lr times the gradient, and reports the loss before the step."""
    net, twin = fresh_net(), fresh_net()
    images, labels = unseen.batch(torch.arange(len(unseen)))
    loss = functional.cross_entropy(twin(images), labels)
    loss.backward()
    expected = torch.cat([(p - 0.1 * p.grad).flatten() for p in twin.parameters() if p.grad is not None])
    reported = task.train(net, unseen, replace(RECIPE, lr=0.1, momentum=0.0, batch_size=len(unseen)))
    assert reported == pytest.approx(loss.item(), rel=1e-5)
    torch.testing.assert_close(weights(net), expected.detach(), rtol=0, atol=1e-6)


def test_same_seed_gives_the_same_bits(unseen: Examples) -> None:
    """Only the recipe's seed decides: not the global generators, and another seed gives other weights."""
    first, second, other = fresh_net(), fresh_net(), fresh_net()
    losses = [task.train(first, unseen, RECIPE)]
    torch.manual_seed(99)
    random.seed(99)
    losses.append(task.train(second, unseen, RECIPE))
    task.train(other, unseen, replace(RECIPE, seed=6))
    assert torch.equal(weights(first), weights(second))
    assert losses[0] == losses[1]
    assert not torch.equal(weights(first), weights(other))


def test_training_learns(digits: Examples, unseen: Examples) -> None:
    """Two epochs on the digits bring the loss down and the accuracy on unseen digits far above chance."""
    net = fresh_net()
    before = task.evaluate(net, unseen)
    first = task.train(net, digits, RECIPE)
    second = task.train(net, digits, replace(RECIPE, seed=6))
    after = task.evaluate(net, unseen)
    assert before.accuracy < 0.3
    assert after.accuracy > 0.7
    assert after.loss < before.loss
    assert second < first
