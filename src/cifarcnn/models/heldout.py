"""The images that a model's training held out, found again by what is stored with the model."""

from dataclasses import dataclass
from typing import Any

from cifarcnn.data.cifar10 import Images, stratified_split

TRAINED_ON = "training_images_sha256"
"""The fact in a model's metadata that identifies all images its training was given, held out or not."""


@dataclass(frozen=True)
class HeldOut:
    """Which images a training held out: how many, and drawn by which seed.

    ``sha256`` is the checksum of all the images that the training was given; None where it is not known.
    """

    size: int
    seed: int
    sha256: str | None

    def among(self, images: Images) -> Images:
        """Return those held out of all that the training was given.

        Raises:
            UsageError: there are too few.
        """
        return images.at(stratified_split(images.labels, self.size, self.seed)[1])


def told(metadata: dict[str, Any]) -> HeldOut | None:
    """Read from a model's metadata what its training held out; None where it does not say."""
    size, seed = metadata.get("val_size"), metadata.get("seed")
    if not (isinstance(size, int) and isinstance(seed, int)):
        return None
    return HeldOut(size, seed, trained_on(metadata))


def trained_on(metadata: dict[str, Any]) -> str | None:
    """Return the checksum of the images that the training was given; None where it is not known."""
    facts = metadata.get("facts")
    return str(facts[TRAINED_ON]) if isinstance(facts, dict) and TRAINED_ON in facts else None
