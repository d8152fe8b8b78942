"""The report page: complete, self-contained, and true to the images and figures it was made from."""

import base64
import html
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
from cifarcnn.wording import percent, short_percent

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
        verdict = "rightly answered" if truth == answer else f"answered {CLASSES[answer]}"
        assert cell["heading"] == f"{confusion[truth, answer]} of class {CLASSES[truth]} {verdict}"
        for image in cell["images"]:
            np.testing.assert_array_equal(pixels_at(text, image["position"]), subject.images[image["index"]])


def test_mistakes_are_the_worst_in_order_and_pixel_equal(text: str, subject: report.Subject) -> None:
    """The gallery lists the largest losses among the wrong answers, each with its answer and its truth."""
    gallery = re.search(r'id="mistakes">(.*?)</ul>', text, re.DOTALL)
    assert gallery
    one = r'background-position:([^"]+)" role="img" aria-label="image (\d+)"></span>(.*?)</li>'
    shown = re.findall(one, gallery[1])
    expected = metrics.worst_mistakes(subject.probabilities, subject.labels, 20).tolist()
    assert [int(index) for _, index, _ in shown] == expected
    for position, index, caption in shown:
        row, truth = subject.probabilities[int(index)], subject.labels[int(index)]
        answer = row.argmax()
        assert html.unescape(caption).replace("\N{NO-BREAK SPACE}", " ").split("<br>") == [
            f"<b>{CLASSES[answer]}</b> {short_percent(row[answer])}",
            f"truth: {CLASSES[truth]} {short_percent(row[truth])}",
            f"image {index}",
        ]
        np.testing.assert_array_equal(pixels_at(text, position), subject.images[int(index)])


def test_matrix_and_class_table_state_the_figures(text: str, subject: report.Subject) -> None:
    """A button per filled cell with its place and count; a sortable row per class with its exact values."""
    confusion = subject.metrics.confusion
    rows = re.findall(r'<tr><th scope="row">(\w+)</th>((?:<td>.*?</td>){10})</tr>', text)
    assert [name for name, _ in rows] == list(CLASSES)
    for truth, (_, row) in enumerate(rows):
        for answer, cell in enumerate(re.findall(r"<td>(.*?)</td>", row)):
            found = re.findall(r'<button data-cell="(.*?)" .* aria-label="(.*?)".*>(\d+)</button>', cell)
            count = confusion[truth, answer]
            label = f"{count} of class {CLASSES[truth]} answered {CLASSES[answer]}"
            assert found == [(f"{truth}-{answer}", label, f"{count}")] * bool(count)
    assert re.findall(r'<th scope="col"><span>(\w+)</span>', text) == list(CLASSES)
    assert re.findall(r'<th scope="col"><button>(\w+)</button>', text) == [
        *("class", "precision", "recall", "F1", "images")
    ]
    values = re.findall(r'<td data-value="([^"]+)">([^<]+)</td>', text)
    assert values == [
        pair
        for name, score in zip(CLASSES, subject.metrics.per_class, strict=True)
        for pair in [
            (name, name),
            *((str(share), percent(share)) for share in (score.precision, score.recall, score.f1)),
            (f"{score.support}", f"{score.support}"),
        ]
    ]


def test_headline_states_each_figure_by_its_name(text: str, subject: report.Subject) -> None:
    """Accuracy with its interval from low to high, and how often the truth is among the first two or five."""
    figures = subject.metrics
    low, high = figures.accuracy_interval
    assert low < figures.accuracy < high < figures.top2 < figures.top5
    stated = re.findall(r"<dt>(.*?)</dt><dd>(.*?)<small>(.*?)</small>", text)
    assert stated == [
        ("accuracy", percent(figures.accuracy), f"95 % interval {percent(low)} to {percent(high)}"),
        ("loss", f"{figures.loss:.4f}", "mean, in nats"),
        ("top-2", percent(figures.top2), ""),
        ("top-5", percent(figures.top5), ""),
        ("calibration error", percent(figures.ece), "expected, 15 bins"),
        ("images", "400", ""),
    ]


def test_curves_rise_and_fall_with_their_values(text: str) -> None:
    """Epochs go to the right and larger values up; training and validation have each their line and name."""
    assert re.findall(r'<polyline class="(\w+)" points="([^"]+)"/>', text) == [
        ("first", "44.0,24.0 350.0,204.0"),
        ("second", "44.0,60.0 350.0,168.0"),
        ("first", "44.0,204.0 350.0,24.0"),
        ("second", "44.0,144.0 350.0,54.0"),
    ]
    assert re.findall(r'<circle class="(\w+)" cx="350.0" cy="([^"]+)"', text) == [
        *(("first", "204.0"), ("second", "168.0"), ("first", "24.0"), ("second", "54.0"))
    ]
    ends = re.findall(r'<text class="(\w+)"[^>]*>(\w+): ([\d.]+) at the end<', text)
    assert [(style, name) for style, name, _ in ends] == [("first", "training"), ("second", "validation")] * 2
    assert [float(value) for *_, value in ends] == [1, 1.2, 60, 55]
    # The values at the lower and the upper end of each chart: loss, accuracy, reliability.
    axes = re.findall(r'<text x="39" y="(\d+)" text-anchor="end">([\d.]+)<', text)
    assert [y for y, _ in axes] == ["204", "33"] * 3
    assert [float(value) for _, value in axes] == [1, 2, 30, 60, 0, 1]
    assert re.findall(r'font-weight="600">(.*?)<', text)[:2] == ["Loss (nats)", "Accuracy (%)"]


def test_reliability_bars_stand_on_the_ground_as_high_as_their_accuracy(
    text: str, subject: report.Subject
) -> None:
    """A bar per bin that has answers, between its edges, against a line from the lower left upwards."""
    number = r'="([\d.]+)"'
    bar = rf'<rect class="bar" x{number} y{number} width{number} height{number}><title>(.*?)</title>'
    bars = re.findall(bar, text)
    filled = [part for part in subject.metrics.bins if part.accuracy is not None]
    assert len({part.accuracy for part in filled}) > 5
    for (*numbers, title), part in zip(bars, filled, strict=True):
        left, top, width, height = map(float, numbers)
        assert part.accuracy is not None
        assert (left, left + width) == pytest.approx((44 + 306 * part.low, 43 + 306 * part.high), abs=0.11)
        assert (top + height, height) == pytest.approx((204, 180 * part.accuracy), abs=0.11)
        assert title.startswith(f"{part.count} images of confidence {part.low:.2f} to {part.high:.2f}: ")
        assert title.endswith(f" {percent(part.accuracy, 1)} right")
    assert '<line class="second" x1="44" y1="204" x2="350" y2="24"/>' in text


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
