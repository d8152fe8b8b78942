"""What can be refused before a training begins because it does not suit the images or the hardware."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from cifarcnn.config import Settings
from cifarcnn.data import sources
from cifarcnn.errors import UsageError
from cifarcnn.events import OnEvent
from cifarcnn.machine import devices
from cifarcnn.training.setup import check_shares, divide


def check(runs: Mapping[str, Settings], data: str | Path | None, on_event: OnEvent) -> None:
    """Refuse what one of several runs would be refused for, before the first of them is trained.

    Args:
        runs: the settings of each run, by its name.
        data: where the data set is.
        on_event: told of a download.

    Raises:
        UsageError: there are too few images for a run, or its device or arithmetic cannot be had, or the runs
            differ in what one process cannot change.
        DataError: the data set cannot be had.
    """
    from cifarcnn.machine import backend

    images = sources.load("train", data, on_event)
    # Dividing copies images; that there are enough can be told from the labels alone.
    labels = dataclasses.replace(images, images=images.images[:, :0])
    hardware = backend.hardware()
    if len(counts := {wanted.devices or 1 for wanted in runs.values()}) > 1:
        raise UsageError(
            f"devices is {' and '.join(map(str, sorted(counts)))} in runs of one process, which can divide"
            " itself once; expected the same for all, or a process for each with --task"
        )
    on_gpus = [wanted for wanted in runs.values() if hardware.gpus and wanted.device != "cpu"]
    if len({wanted.deterministic for wanted in on_gpus}) > 1:
        raise UsageError(
            "deterministic is true and false in runs of one process, whose GPUs stay so once they are;"
            " expected the same for all, or a process for each with --task"
        )
    seen = set()
    for name, wanted in runs.items():
        computing = (wanted.device, wanted.precision, wanted.devices)
        limits = (wanted.val_size, wanted.train_size, wanted.batch_size, wanted.micro_batch, *computing)
        if limits not in seen:
            seen.add(limits)
            try:
                divide(labels, wanted)
                devices.choose(hardware, *computing)
                check_shares(wanted, wanted.devices or 1)
            except UsageError as problem:
                raise UsageError(f"{name}: {problem}") from None
