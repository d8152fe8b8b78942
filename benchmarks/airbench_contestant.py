"""The PyTorch contestant of ``time_to_94.py``: the seconds of a training step of airbench94_muon's network.

Network, optimizer and constants follow cifar10-airbench's ``airbench94_muon.py`` (Keller Jordan, 2024,
https://github.com/KellerJordan/cifar10-airbench): frozen whitening of 2x2 patches, three groups of two
3x3 convolutions (64, 256, 256 filters) with batch norm without scale and GELU, a linear head; Muon for
the filters, SGD with Nesterov's momentum for the rest; batches of 2,000. For a CPU it uses channels last
and, as ``torch``, bfloat16 autocast. Only its speed is measured: images are random, and neither
augmentation nor evaluation is counted, which favours it.
"""

import json
import sys
import time

import torch
from torch import nn

BATCH = 2000
WIDTHS = (64, 256, 256)
COEFFICIENTS = (3.4445, -4.7750, 2.0315)


def group(inputs: int, outputs: int) -> list[nn.Module]:
    """Two convolutions; the first is followed by pooling."""
    layers: list[nn.Module] = []
    for number, channels in enumerate((inputs, outputs)):
        layers.append(nn.Conv2d(channels, outputs, 3, padding="same", bias=False))
        if number == 0:
            layers.append(nn.MaxPool2d(2))
        norm = nn.BatchNorm2d(outputs, momentum=0.4, eps=1e-12)
        norm.weight.requires_grad = False
        layers += [norm, nn.GELU()]
    return layers


def build() -> nn.Sequential:
    """The network, from normalised images to logits."""
    whiten = nn.Conv2d(3, 24, 2, bias=True)
    whiten.weight.requires_grad = False
    channels = (24, *WIDTHS)
    groups = [layer for pair in zip(channels, WIDTHS, strict=False) for layer in group(*pair)]
    return nn.Sequential(
        whiten, nn.GELU(), *groups, nn.MaxPool2d(3), nn.Flatten(), nn.Linear(WIDTHS[-1], 10, bias=False)
    ).to(memory_format=torch.channels_last)


def orthogonal(matrix: torch.Tensor) -> torch.Tensor:
    """Three iterations of Newton and Schulz in bfloat16."""
    first, second, third = COEFFICIENTS
    x = matrix.bfloat16()
    x = x / (x.norm() + 1e-7)
    tall = x.size(0) > x.size(1)
    x = x.T if tall else x
    for _ in range(3):
        square = x @ x.T
        x = first * x + (second * square + third * square @ square) @ x
    return x.T if tall else x


class Muon:
    """Nesterov momentum, made orthogonal; filters are held at a fixed norm."""

    def __init__(self, filters: list[nn.Parameter], rate: float = 0.24, momentum: float = 0.6) -> None:
        self.filters, self.rate, self.momentum = filters, rate, momentum
        self.velocities = [torch.zeros_like(kernel) for kernel in filters]

    @torch.no_grad()
    def step(self) -> None:
        """Change the filters by their gradients."""
        for kernel, velocity in zip(self.filters, self.velocities, strict=True):
            velocity.mul_(self.momentum).add_(kernel.grad)
            update = kernel.grad + self.momentum * velocity
            kernel.mul_(len(kernel) ** 0.5 / kernel.norm())
            kernel.add_(orthogonal(update.reshape(len(kernel), -1)).view_as(kernel), alpha=-self.rate)


def main() -> None:
    """Time steps after one that warms up; print the median of their seconds as JSON."""
    bfloat16, spec = sys.argv[1] == "torch", json.loads(sys.argv[2])
    torch.manual_seed(0)
    torch.set_num_threads(spec["cpus"])
    network = build()
    filters = [weight for weight in network.parameters() if weight.ndim == 4 and weight.requires_grad]
    chosen = {id(weight) for weight in filters}
    rest = [weight for weight in network.parameters() if weight.requires_grad and id(weight) not in chosen]
    sgd = torch.optim.SGD(rest, lr=0.1, momentum=0.85, nesterov=True, fused=True)
    muon = Muon(filters)
    images = torch.randn(BATCH, 3, 32, 32).to(memory_format=torch.channels_last)
    labels = torch.randint(0, 10, (BATCH,))
    seconds = []
    for _ in range(spec["steps"] + 1):
        started = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            logits = network(images)
        nn.functional.cross_entropy(logits.float(), labels, label_smoothing=0.2, reduction="sum").backward()
        sgd.step()
        muon.step()
        network.zero_grad(set_to_none=True)
        seconds.append(time.perf_counter() - started)
    print(
        json.dumps(
            {"seconds_per_step": sorted(seconds[1:])[len(seconds[1:]) // 2], "torch": torch.__version__}
        )
    )


if __name__ == "__main__":
    main()
