"""The report page: complete, self-contained, and true to the images and figures it was made from."""

import base64
import io
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from cifarcnn import metrics
from cifarcnn.data.cifar10 import CLASSES
from cifarcnn.figures import report

EPOCHS = [
    {"epoch": 1, "loss": 2.0, "accuracy": 0.3, "val_loss": 1.8, "val_accuracy": 0.4},
    {"epoch": 2, "loss": 1.0, "accuracy": 0.6, "val_loss": 1.2, "val_accuracy": 0.55},
]
FACTS = {"Settings": {"arch": "vgg2", "note": "<script>alert(1)</script> & more"}}


class Page(HTMLParser):
    """Collects the tags, and the text below each kind of tag, of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note a tag, and that it is open unless it never closes."""
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "col", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        """Fail where the page closes another tag than the last one opened."""
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def subject() -> report.Subject:
    """Noise images with answers of which about a third is wrong."""
    rng = np.random.default_rng(8)
    images = rng.integers(0, 256, (400, 32, 32, 3), dtype=np.uint8)
    labels = rng.integers(0, 10, 400).astype(np.uint8)
    scores = rng.normal(size=(400, 10))
    scores[np.arange(400), labels] += 2
    probabilities = metrics.softmax(scores).astype(np.float32)
    return report.Subject(images, labels, probabilities, metrics.measure(probabilities, labels))


@pytest.fixture(scope="module")
def text(subject: report.Subject, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The page as written to a file."""
    path = tmp_path_factory.mktemp("report") / "report.html"
    report.write_report(
        path, "vgg2 <b> \udcff", subject, facts=FACTS, commands=["cifarcnn train && true"], epochs=EPOCHS
    )
    return path.read_text("utf-8")


def pixels_at(text: str, position: str) -> np.ndarray:
    """The 32x32 pixels that the page shows for a background position."""
    encoded = re.search(r'url\("data:image/png;base64,([^"]+)"\)', text)
    assert encoded
    with Image.open(io.BytesIO(base64.b64decode(encoded[1]))) as picture:
        sprite = np.asarray(picture)
    x, y = (-int(part.removesuffix("px")) // report.SCALE for part in position.split())
    return sprite[y : y + 32, x : x + 32]


def test_page_is_well_formed_and_fetches_nothing(text: str) -> None:
    """All tags close, nothing names another address, and the policy forbids every request."""
    page = Page(text)
    assert page.open == []
    addresses = [
        value for _, attributes in page.tags for name in ("src", "href") for value in [attributes.get(name)]
    ]
    assert set(addresses) == {None}
    assert not re.search(r"https?://|@import|//cdn", text)
    assert all(match.startswith('"data:') for match in re.findall(r"url\(([^)]{6})", text))
    policies = [attributes.get("content") for tag, attributes in page.tags if tag == "meta"]
    assert any(policy and policy.startswith("default-src 'none'") for policy in policies)


def test_text_of_others_is_escaped(text: str) -> None:
    """Titles, settings and commands cannot bring markup or scripts into the page."""
    assert "<script>alert" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; more" in text
    assert "<h1>vgg2 &lt;b&gt; \\udcff</h1>" in text
    assert "cifarcnn train &amp;&amp; true" in text
    assert not re.search(r"@[a-z_]+@", text)


def test_every_cell_shows_its_own_images_of_largest_loss(text: str, subject: report.Subject) -> None:
    """The images behind a cell have its truth and answer, are its worst, and equal the data set's pixels."""
    found = re.search(r'id="cells">(.*?)</script>', text, re.DOTALL)
    assert found
    cells = json.loads(found[1])
    answers = subject.probabilities.argmax(axis=1)
    losses = metrics.losses(subject.probabilities, subject.labels)
    confusion = subject.metrics.confusion
    assert len(cells) == np.count_nonzero(confusion)
    for name, cell in cells.items():
        truth, answer = map(int, name.split("-"))
        inside = np.flatnonzero((subject.labels == truth) & (answers == answer))
        worst = inside[np.argsort(-losses[inside], kind="stable")][: report.IMAGES_PER_CELL]
        assert [image["index"] for image in cell["images"]] == worst.tolist()
        assert cell["heading"].startswith(f"{confusion[truth, answer]} of class {CLASSES[truth]}")
        for image in cell["images"]:
            np.testing.assert_array_equal(pixels_at(text, image["position"]), subject.images[image["index"]])


def test_mistakes_are_the_worst_in_order_and_pixel_equal(text: str, subject: report.Subject) -> None:
    """The gallery lists the largest losses among the wrong answers."""
    gallery = re.search(r'id="mistakes">(.*?)</ul>', text, re.DOTALL)
    assert gallery
    shown = re.findall(r'background-position:([^"]+)" role="img" aria-label="image (\d+)"', gallery[1])
    expected = metrics.worst_mistakes(subject.probabilities, subject.labels, 20).tolist()
    assert [int(index) for _, index in shown] == expected
    for position, index in shown:
        np.testing.assert_array_equal(pixels_at(text, position), subject.images[int(index)])


def test_matrix_and_class_table_state_the_figures(text: str, subject: report.Subject) -> None:
    """A button per filled cell with its count; a sortable row per class with its exact values."""
    counts = [int(count) for count in re.findall(r"<button data-cell=[^>]*>(\d+)</button>", text)]
    assert counts == [count for count in subject.metrics.confusion.ravel().tolist() if count]
    values = re.findall(r'<td data-value="([^"]+)"', text)
    assert len(values) == 10 * 5
    assert values[::5] == list(CLASSES)
    assert [float(value) for value in values[1::5]] == [s.precision for s in subject.metrics.per_class]
    assert f"{100 * subject.metrics.accuracy:.2f} %" in text


def test_page_of_a_perfect_model_without_curves(subject: report.Subject) -> None:
    """No mistakes, no epochs, a single image: the page is still whole."""
    labels = subject.labels[:1]
    perfect = np.eye(10)[labels]
    figures = metrics.measure(perfect, labels)
    text = report.page("one", report.Subject(subject.images[:1], labels, perfect, figures), {}, [])
    assert Page(text).open == []
    assert "There are none." in text
    assert "Learning curves" not in text


def test_curves_leave_out_what_is_no_number(subject: report.Subject) -> None:
    """Epochs without validation or with a diverged loss do not put nan into the drawing."""
    rows = [{**EPOCHS[0], "val_loss": None, "val_accuracy": None, "loss": float("nan")}]
    text = report.page("diverged", subject, {}, [], epochs=rows)
    assert "Learning curves" in text
    assert not re.search(r'(points|cx|cy)="[^"]*nan', text)
