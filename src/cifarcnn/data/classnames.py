"""What the names of classes mean: CIFAR-10's in any spelling, and a model's classes among a folder's."""

import unicodedata
from collections.abc import Iterable, Sequence

from cifarcnn.data.cifar10 import CLASSES
from cifarcnn.errors import UsageError

SYNONYMS = {
    "plane": "airplane",
    "aeroplane": "airplane",
    "auto": "automobile",
    "car": "automobile",
    "boat": "ship",
    "lorry": "truck",
}


def class_of(name: str) -> int | None:
    """Find the class of CIFAR-10 that a name means: its position in ``CLASSES``, or None.

    Case, surrounding spaces and the plural make no difference; plain synonyms such as "car" count.
    """
    plain = folded(name)
    words = [plain, plain.removesuffix("s")]
    if plain.endswith("ies"):
        words.append(plain.removesuffix("ies") + "y")
    for word in words:
        class_name = SYNONYMS.get(word, word)
        if class_name in CLASSES:
            return CLASSES.index(class_name)
    return None


def normal(name: str) -> str:
    """Return a class's name as it is kept: in the Unicode form that every system writes alike."""
    return unicodedata.normalize("NFC", name).strip()


def folded(name: str) -> str:
    """Return what two names share that differ only in case, Unicode form or surrounding spaces."""
    return normal(normal(name).casefold())


def labels_among(names: Iterable[str], classes: Sequence[str], where: str) -> list[int]:
    """Find the positions of names among a model's classes.

    A name means the class that is spelled so, else one that differs in case or Unicode form alone, else the
    one that means the same class of CIFAR-10.

    Args:
        names: of classes of some images.
        classes: the model's.
        where: of which images, for the message.

    Raises:
        UsageError: a name is none of them; the message gives the differences.
    """
    names = list(names)
    exact = {name: label for label, name in enumerate(classes)}
    loose = {folded(name): label for label, name in enumerate(classes)}
    meant = {class_of(name): label for label, name in enumerate(classes)}
    meant.pop(None, None)
    found = [exact.get(normal(name), loose.get(folded(name), meant.get(class_of(name)))) for name in names]
    unknown = [repr(name) for name, label in zip(names, found, strict=True) if label is None]
    if unknown:
        raise UsageError(
            f"{where}: {some(unknown)} {'are' if len(unknown) > 1 else 'is'} not among the "
            f"{len(classes)} classes; expected {some(classes, shown=10)}"
        )
    return [label for label in found if label is not None]


def some(names: Iterable[str], separator: str = ", ", shown: int = 3) -> str:
    """Give the first few of many names, and the number of the others."""
    names = list(names)
    more = f"{separator}and {len(names) - shown:,} more" if len(names) > shown else ""
    return separator.join(names[:shown]) + more
