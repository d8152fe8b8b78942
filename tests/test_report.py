"""The report page: complete, self-contained, and true to the images and figures it was made from."""

import base64
import html
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from cifarcnn import metrics
from cifarcnn.figures import report
from cifarcnn.figures.style import DARK, LIGHT
from cifarcnn.formatting import percent, short_percent

CLASSES = tuple(f"c{number}<&" for number in range(10))
EPOCHS = [
    {"epoch": 1, "loss": 2.0, "accuracy": 0.3, "val_loss": 1.8, "val_accuracy": 0.4, "learning_rate": 1.0},
    {"epoch": 2, "loss": 1.0, "accuracy": 0.6, "val_loss": 1.2, "val_accuracy": 0.55, "learning_rate": 2.0},
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
        if tag not in ("meta", "col", "br", "img", "source"):
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
    return report.Subject(images, labels, probabilities, metrics.measure(probabilities, labels), CLASSES)


@pytest.fixture(scope="module")
def text(subject: report.Subject) -> str:
    """The page."""
    return report.page("vgg2 <b>", subject, FACTS, ["cifarcnn train && true"], epochs=EPOCHS, best_epoch=2)


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
        attributes[name]
        for _, attributes in page.tags
        for name in ("src", "href", "srcset")
        if name in attributes
    ]
    assert len(addresses) == 2 * 4
    assert all(address and address.startswith("data:image/svg+xml;base64,") for address in addresses)
    assert not re.search(r"https?://|@import|//cdn", text)
    assert all(match.startswith('"data:') for match in re.findall(r"url\(([^)]{6})", text))
    policies = [attributes.get("content") for tag, attributes in page.tags if tag == "meta"]
    assert any(policy and policy.startswith("default-src 'none'") for policy in policies)


def test_text_of_others_is_escaped(text: str) -> None:
    """Titles, settings and commands cannot bring markup or scripts into the page."""
    assert "<script>alert" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; more" in text
    assert "<h1>vgg2 &lt;b&gt;</h1>" in text
    assert "cifarcnn train &amp;&amp; true" in text
    assert "c3<&" not in text
    assert "{{" not in text


def shown(part: str) -> list[tuple[str, int, str]]:
    """The pictures in a part of the page: position, index and caption."""
    one = r'background-position:([^"]+)" role="img" aria-label="image (\d+)"></span>(.*?)</li>'
    return [
        (position, int(index), html.unescape(caption)) for position, index, caption in re.findall(one, part)
    ]


def test_every_cell_shows_its_own_images_of_largest_loss(text: str, subject: report.Subject) -> None:
    """The images behind a cell have its classes, are its worst, and equal the data set's pixels."""
    cells = re.findall(r'<template id="cell-(\d+)-(\d+)"><p>(.*?)</p>(.*?)</template>', text, re.DOTALL)
    predictions = subject.probabilities.argmax(axis=1)
    losses = metrics.losses(subject.probabilities, subject.labels)
    confusion = subject.metrics.confusion
    assert len(cells) == np.count_nonzero(confusion)
    for *cell, heading, part in cells:
        label, prediction = map(int, cell)
        inside = np.flatnonzero((subject.labels == label) & (predictions == prediction))
        worst = inside[np.argsort(-losses[inside], kind="stable")][: report.IMAGES_PER_CELL]
        pictures = shown(part)
        assert [index for _, index, _ in pictures] == worst.tolist()
        verdict = "correctly" if label == prediction else f"as {CLASSES[prediction]}"
        count = confusion[label, prediction]
        assert html.unescape(heading) == f"{count} of class {CLASSES[label]} predicted {verdict}"
        for position, index, _ in pictures:
            np.testing.assert_array_equal(pixels_at(text, position), subject.images[index])


def test_mistakes_are_the_worst_in_order_and_pixel_equal(text: str, subject: report.Subject) -> None:
    """The largest losses among the wrong predictions are listed, each with its two classes."""
    gallery = re.search(r'id="mistakes">(.*?)</ul>', text, re.DOTALL)
    assert gallery
    expected = metrics.worst_mistakes(subject.probabilities, subject.labels, 20).tolist()
    assert [index for _, index, _ in shown(gallery[1])] == expected
    for position, index, caption in shown(gallery[1]):
        row, label = subject.probabilities[index], subject.labels[index]
        prediction = row.argmax()
        assert caption.split("<br>") == [
            f"<b>{CLASSES[prediction]}</b> {short_percent(row[prediction])}",
            f"true: {CLASSES[label]} {short_percent(row[label])}",
            f"image {index}",
        ]
        np.testing.assert_array_equal(pixels_at(text, position), subject.images[index])


def test_matrix_and_class_table_state_the_figures(text: str, subject: report.Subject) -> None:
    """A button per filled cell with its place and count; a sortable row per class with its exact values."""
    confusion = subject.metrics.confusion
    buttons = re.findall(r'<button data-cell="(\d+)-(\d+)".*? aria-label="(.*?)".*?>(\d+)</button>', text)
    assert [
        (int(label), int(prediction), html.unescape(name), int(count))
        for label, prediction, name, count in buttons
    ] == [
        (label, prediction, f"{count} of class {CLASSES[label]} predicted as {CLASSES[prediction]}", count)
        for (label, prediction), count in np.ndenumerate(confusion)
        if count
    ]
    assert text.count("<td>·</td>") == np.count_nonzero(confusion == 0)
    assert re.findall(r'<th scope="col"><button>(\w+)</button>', text) == [
        *("class", "precision", "recall", "F1", "images")
    ]
    values = re.findall(r'data-value="([^"]+)">([^<]+)</t[dh]>', text)
    assert [(html.unescape(value), html.unescape(seen)) for value, seen in values] == [
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
    stated = re.findall(r"<dt>(.*?)</dt><dd>(.*?)(?:<small>(.*?)</small>)?</dd>", text)
    assert stated == [
        ("accuracy", percent(figures.accuracy), f"95% interval {percent(low)} to {percent(high)}"),
        ("loss", f"{figures.loss:.4f}", "mean, in nats"),
        ("top-2", percent(figures.top2), ""),
        ("top-5", percent(figures.top5), ""),
        ("calibration error", percent(figures.ece), "expected, 15 bins"),
        ("images", "400", ""),
    ]


def test_charts_say_what_they_show(text: str, subject: report.Subject) -> None:
    """For those who do not see them; and the bins of the diagram stand in a table."""
    charts = [html.unescape(str(attributes["alt"])) for tag, attributes in Page(text).tags if tag == "img"]
    assert charts == [
        "Loss by epoch, training 1 at the end, validation 1.2 at the end",
        "Accuracy by epoch, training 60.00% at the end, validation 55.00% at the end",
        "Learning rate by epoch, training 2 at the end",
        f"Reliability diagram, expected calibration error {percent(subject.metrics.ece)}",
    ]
    for part in subject.metrics.bins:
        row = (
            f"<td>{part.count}</td><td>{part.confidence:.2%}</td><td>{part.accuracy:.2%}</td>"
            if part.count
            else ""
        )
        assert row in text


def test_charts_have_a_dark_form_for_screens(text: str) -> None:
    """The page says which form to show; the best epoch is marked in both."""
    sources = [attributes for tag, attributes in Page(text).tags if tag in ("source", "img")]
    assert [one.get("media") for one in sources[::2]] == ["screen and (prefers-color-scheme: dark)"] * 4
    forms = [str(one.get("srcset") or one.get("src")).partition("base64,")[2] for one in sources[:2]]
    dark, light = (base64.b64decode(form).decode() for form in forms)
    assert DARK.ground in dark
    assert LIGHT.ground in light
    assert "best epoch 2" in dark
    assert "best epoch 2" in light


def test_page_of_a_hundred_classes() -> None:
    """The matrix is a picture; the most confused pairs lead to their images, and only these are embedded."""
    rng = np.random.default_rng(3)
    images = rng.integers(0, 256, (3000, 32, 32, 3), dtype=np.uint8)
    labels = rng.integers(0, 100, 3000)
    scores = rng.normal(size=(3000, 100))
    scores[np.arange(3000), labels] += 3
    probabilities = metrics.softmax(scores)
    figures = metrics.measure(probabilities, labels)
    names = [f"class {number}" for number in range(100)]
    text = report.page("many", report.Subject(images, labels, probabilities, figures, names), {}, [])
    assert Page(text).open == []
    assert 'alt="Confusion matrix"' in text
    cells = re.findall(r'data-cell="(\d+)-(\d+)"', text)
    pairs = [(pair.label, pair.prediction) for pair in figures.most_confused]
    assert [(int(label), int(prediction)) for label, prediction in cells] == pairs
    assert text.count("<template") == len(pairs) == 10
    assert len(text) < 2_000_000


def test_page_of_a_perfect_model_without_curves(subject: report.Subject) -> None:
    """No mistakes, no epochs, a single image: the page is still whole."""
    labels = subject.labels[:1]
    perfect = np.eye(10)[labels]
    figures = metrics.measure(perfect, labels)
    text = report.page("one", report.Subject(subject.images[:1], labels, perfect, figures, CLASSES), {}, [])
    assert Page(text).open == []
    assert "There are none." in text
    assert "Learning curves" not in text


def test_curves_leave_out_what_is_no_number(subject: report.Subject) -> None:
    """Epochs without validation or with a diverged loss do not put nan into the drawing."""
    rows = [{**EPOCHS[0], "val_loss": None, "val_accuracy": None, "loss": float("nan")}]
    text = report.page("diverged", subject, {}, [], epochs=rows)
    assert "Learning curves" in text
