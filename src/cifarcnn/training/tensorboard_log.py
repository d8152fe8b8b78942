"""The epochs' figures and pictures as TensorBoard reads them, written with its own package on any backend."""

import shutil
import struct
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

SCALARS = ("loss", "accuracy", "val_loss", "val_accuracy", "learning_rate", "images_per_second")


class TensorBoardLog:
    """An event file below ``directory``, begun anew from ``rows`` so that no epoch stands in it twice.

    TensorBoard's ``EventFileWriter`` writes in a thread, which prints a traceback when the disk is full. This
    one writes at once, and raises OSError.
    """

    def __init__(self, directory: Path, rows: Sequence[Mapping[str, Any]]) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.summary.writer.record_writer import RecordWriter

        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(exist_ok=True)
        file = open(directory / f"events.out.tfevents.{time.time():.0f}", "wb", buffering=0)  # noqa: SIM115
        self._writer = RecordWriter(file)
        self._writer.write(Event(wall_time=time.time(), file_version="brain.Event:2").SerializeToString())
        for row in rows:
            self.add(row)

    def add(self, row: Mapping[str, Any]) -> None:
        """Add the scalars of one epoch."""
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        values = [
            Summary.Value(tag=name, simple_value=float(row[name]))
            for name in SCALARS
            if row.get(name) is not None
        ]
        event = Event(wall_time=time.time(), step=row["epoch"], summary=Summary(value=values))
        self._writer.write(event.SerializeToString())

    def add_image(self, tag: str, png: bytes, step: int) -> None:
        """Add a picture, the content of a PNG file, under a name that it shares with its successors."""
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        # The header of a PNG file begins with its size.
        width, height = struct.unpack(">II", png[16:24])
        image = Summary.Image(height=height, width=width, encoded_image_string=png)
        event = Event(
            wall_time=time.time(), step=step, summary=Summary(value=[Summary.Value(tag=tag, image=image)])
        )
        self._writer.write(event.SerializeToString())

    def close(self) -> None:
        """Finish the file."""
        self._writer.close()
