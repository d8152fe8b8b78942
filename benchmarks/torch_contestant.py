"""The PyTorch contestant: the same network, optimizer and batch in a PyTorch loop; needs torch and numpy.

The network is made from the Keras one's layer list, so the two are the same by construction. What helps
PyTorch on a CPU is used: channels last, images kept as bytes in one tensor, the fused optimizer where there
is one, as many threads as cores, and, as ``torch-compiled``, ``torch.compile`` (which needs g++). It neither
augments nor counts accuracy, which favours it.
"""

import json
import sys
import time
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import nn

import harness

PREDICT_BATCH = 500


class Rescaling(nn.Module):
    """Pixels times scale plus offset, per channel."""

    def __init__(self, scale: Any, offset: Any) -> None:
        super().__init__()
        self.scale = torch.tensor(scale, dtype=torch.float32).reshape(-1, 1, 1)
        self.offset = torch.tensor(offset, dtype=torch.float32).reshape(-1, 1, 1)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Normalise uint8 (n, 3, 32, 32)."""
        return pixels.float() * self.scale + self.offset


def modules(layers: list[dict[str, Any]]) -> Iterator[nn.Module]:
    """Yield what a Keras network consists of, up to its logits."""
    flat = False
    for layer in layers:
        settings = layer["config"]
        match layer["class_name"]:
            case "InputLayer":
                continue
            case "Rescaling":
                yield Rescaling(settings["scale"], settings["offset"])
            case "Conv2D":
                margin = settings["kernel_size"][0] // 2 if settings["padding"] == "same" else 0
                convolution = nn.LazyConv2d(settings["filters"], settings["kernel_size"][0], padding=margin)
                penalty = settings["kernel_regularizer"]
                convolution.l2 = penalty["config"]["l2"] if penalty else 0.0
                yield convolution
            case "BatchNormalization":
                kind = nn.LazyBatchNorm1d if flat else nn.LazyBatchNorm2d
                yield kind(eps=settings["epsilon"], momentum=1 - settings["momentum"])
            case "MaxPooling2D":
                yield nn.MaxPool2d(settings["pool_size"][0])
            case "Dropout":
                yield nn.Dropout(settings["rate"])
            case "Flatten":
                flat = True
                yield nn.Flatten()
            case "Dense":
                yield nn.LazyLinear(settings["units"])
            case other:
                sys.exit(f"the PyTorch contestant knows no layer like {other}")
        if settings.get("activation") == "relu":
            yield nn.ReLU(inplace=True)


def build(spec: dict[str, Any]) -> nn.Module:
    """Make the network, and see that it has as many parameters as the Keras one."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # lazy modules announce that they may change
        network = nn.Sequential(*modules(spec["layers"]))
    network.eval()
    network(torch.zeros((1, 3, 32, 32), dtype=torch.uint8))
    count = sum(parameter.numel() for parameter in network.parameters())
    count += sum(buffer.numel() for name, buffer in network.named_buffers() if "running" in name)
    if count != spec["params"]:
        sys.exit(f"the PyTorch network has {count} parameters, the Keras network {spec['params']}")
    return network.to(memory_format=torch.channels_last)


def make_optimizer(network: nn.Module, spec: dict[str, Any]) -> torch.optim.Optimizer:
    """Make the optimizer; an L2 penalty on convolutions acts as weight decay of twice its factor."""
    kernels = {
        id(module.weight): 2 * module.l2 for module in network if isinstance(module, nn.Conv2d) and module.l2
    }
    groups = [
        {"params": [parameter], "weight_decay": kernels[id(parameter)]}
        for parameter in network.parameters()
        if id(parameter) in kernels
    ]
    groups.append({"params": [item for item in network.parameters() if id(item) not in kernels]})
    if spec["optimizer"] == "sgd":
        return torch.optim.SGD(groups, lr=spec["learning_rate"], momentum=spec["momentum"], fused=True)
    return torch.optim.RMSprop(groups, lr=spec["learning_rate"], alpha=0.9)


def main() -> None:
    """Time training, then inference, and print a line of JSON."""
    kind, spec = sys.argv[1], json.loads(sys.argv[2])
    bfloat16 = kind != "torch-float32"
    torch.manual_seed(0)
    torch.set_num_threads(spec["cpus"])
    network = build(spec)
    compute = torch.compile(network) if kind == "torch-compiled" else network
    optimizer = make_optimizer(network, spec)
    batch, count = spec["batch_size"], spec["steps"] * spec["batch_size"]
    images = torch.from_numpy(np.load(spec["images"]))
    labels = torch.from_numpy(np.load(spec["labels"]).astype(np.int64))

    def answer(pixels: torch.Tensor) -> torch.Tensor:
        """Return logits of uint8 images, (n, 32, 32, 3): permuted they are in channels-last order."""
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            logits: torch.Tensor = compute(pixels.permute(0, 3, 1, 2))
        return logits.float()

    def train(order: torch.Tensor) -> None:
        for start in range(0, len(order), batch):
            picks = order[start : start + batch]
            optimizer.zero_grad(set_to_none=True)
            nn.functional.cross_entropy(answer(images[picks]), labels[picks]).backward()
            optimizer.step()

    network.train()
    train(torch.arange(spec["warmup"] * batch))
    started = time.perf_counter()
    train(torch.randperm(count))
    speed = count / (time.perf_counter() - started)
    peak = harness.peak_memory()

    network.eval()
    pixels = images[: spec["predict_images"]]
    with torch.inference_mode():
        answer(pixels[:PREDICT_BATCH])
        started = time.perf_counter()
        for start in range(0, len(pixels), PREDICT_BATCH):
            answer(pixels[start : start + PREDICT_BATCH]).softmax(1).numpy()
        inference = len(pixels) / (time.perf_counter() - started)
    measured = {
        "images_per_second": speed,
        "epoch_images_per_second": speed,
        "peak_memory": peak,
        "precision": "bfloat16" if bfloat16 else "float32",
        "predict_images_per_second": inference,
    }
    print(json.dumps(measured))


if __name__ == "__main__":
    main()
