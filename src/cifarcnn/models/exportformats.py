"""The formats of exported models: one table, from which the command, the converter and the loader read.

How a model is written stands in ``conversion``, how one is opened in ``exported``.
"""

from dataclasses import dataclass

GIGABYTE = 1 << 30


@dataclass(frozen=True)
class Format:
    """One row of the table.

    Attributes:
        name: what ``--format`` takes.
        runtime: what runs it, as its makers spell it.
        suffix: how the name of a file or directory of the format ends.
        keras_name: what ``keras.Model.export`` calls it.
        memory: the bytes of address space in which an unknown model must open and answer.
    """

    name: str
    runtime: str
    suffix: str
    keras_name: str
    memory: int


FORMATS = {
    row.name: row
    for row in (
        Format("litert", "LiteRT", ".tflite", "litert", 4 * GIGABYTE),
        Format("onnx", "ONNX Runtime", ".onnx", "onnx", 4 * GIGABYTE),
        # TensorFlow alone maps several gigabytes that it never uses.
        Format("saved-model", "TensorFlow", "_saved_model", "tf_saved_model", 12 * GIGABYTE),
    )
}
