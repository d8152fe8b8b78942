"""The report page in a real browser: it works from a file, asks nobody for anything, and responds."""

import base64
import io
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.actions import interaction
from selenium.webdriver.common.actions.action_builder import ActionBuilder
from selenium.webdriver.common.actions.pointer_input import PointerInput
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

from cifarcnn import metrics
from cifarcnn.data.cifar10 import CLASSES
from cifarcnn.figures import report

pytestmark = pytest.mark.slow

WIDE, PHONE = (1200, 800), (390, 800)
EPOCHS = [
    {"epoch": 1, "loss": 2.0, "accuracy": 0.3, "val_loss": 1.8, "val_accuracy": 0.4, "learning_rate": 1.0},
    {"epoch": 2, "loss": 1.0, "accuracy": 0.6, "val_loss": 1.2, "val_accuracy": 0.55, "learning_rate": 2.0},
]
SWITCHES = (
    *("--headless=new", "--disable-gpu", "--disable-background-networking", "--disable-component-update"),
    *("--disable-sync", "--no-first-run", "--hide-scrollbars", "--force-color-profile=srgb"),
)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    """A headless Chromium that keeps a log of its console and of its requests."""
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    driver = shutil.which("chromedriver")
    if program is None or driver is None:
        # In continuous integration a page that no browser has opened is a page that was not tested.
        missing = "Chromium and chromedriver are needed on PATH (Debian: apt-get install chromium-driver)"
        if os.environ.get("CI"):
            pytest.fail(missing)
        pytest.skip(missing)
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for switch in (*SWITCHES, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(switch)
    if os.geteuid() == 0:
        options.add_argument("--no-sandbox")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    # With its path given, Selenium looks for no driver to download.
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield browser
    browser.quit()


@pytest.fixture(scope="module")
def subject() -> report.Subject:
    """Noise images with answers of which about a third is wrong."""
    rng = np.random.default_rng(9)
    images = rng.integers(0, 256, (600, 32, 32, 3), dtype=np.uint8)
    labels = rng.integers(0, 10, 600).astype(np.uint8)
    scores = rng.normal(size=(600, 10))
    scores[np.arange(600), labels] += 2
    probabilities = metrics.softmax(scores)
    return report.Subject(images, labels, probabilities, metrics.measure(probabilities, labels), CLASSES)


@pytest.fixture(scope="module")
def page(subject: report.Subject, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page, in a directory whose name needs quoting in an address."""
    path = tmp_path_factory.mktemp("a report #1") / "report.html"
    facts = {"Settings": {"arch": "vgg2", "checksum": "f" * 64}}
    commands = ["cifarcnn train --arch vgg2 --recipe fast --learning-rate 0.05"]
    path.write_text(report.page("vgg2", subject, facts, commands, epochs=EPOCHS, best_epoch=2), "utf-8")
    return path


def open_page(
    browser: webdriver.Chrome,
    page: Path,
    size: tuple[int, int] = WIDE,
    scheme: str = "light",
    media: str = "",
) -> None:
    """Show the page in a window of a size, on paper or on a screen of light or dark."""
    width, height = size
    metrics_override = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": size == PHONE}
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics_override)
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": media, "features": features})
    browser.get(page.as_uri())


def cell(browser: webdriver.Chrome, truth: int, answer: int) -> WebElement:
    """The button in a row and column of the confusion matrix."""
    place = f"tr:nth-child({truth + 1}) td:nth-of-type({answer + 1}) button"
    return browser.find_element(By.CSS_SELECTOR, f"#confusion tbody {place}")


def shown(browser: webdriver.Chrome) -> WebElement:
    """Where the images of a cell appear."""
    return browser.find_element(By.ID, "shown")


def pixels(element: WebElement) -> npt.NDArray[np.uint8]:
    """What the browser has drawn for an element."""
    with Image.open(io.BytesIO(base64.b64decode(element.screenshot_as_base64))) as picture:
        return np.asarray(picture.convert("RGB"))


def expected_images(subject: report.Subject, truth: int, answer: int) -> list[int]:
    """The images that a cell is to show: its six of largest loss."""
    inside = (subject.labels == truth) & (subject.probabilities.argmax(axis=1) == answer)
    losses = np.where(inside, metrics.losses(subject.probabilities, subject.labels), -1)
    return np.argsort(-losses, kind="stable")[: min(6, inside.sum())].tolist()


def assert_shown(browser: webdriver.Chrome, subject: report.Subject, truth: int, answer: int) -> None:
    """Heading and images of a cell are there, drawn with the pixels of the data set."""
    count = subject.metrics.confusion[truth, answer]
    assert shown(browser).text.startswith(f"{count} of class {CLASSES[truth]}")
    pictures = shown(browser).find_elements(By.CSS_SELECTOR, ".picture")
    expected = expected_images(subject, truth, answer)
    assert [picture.get_attribute("aria-label") for picture in pictures] == [f"image {i}" for i in expected]
    for picture, index in zip(pictures, expected, strict=True):
        enlarged = subject.images[index].repeat(report.SCALE, axis=0).repeat(report.SCALE, axis=1)
        np.testing.assert_array_equal(pixels(picture), enlarged)


def test_the_page_asks_nobody_and_has_no_errors(browser: webdriver.Chrome, page: Path) -> None:
    """From a file, in both widths, the file is all that is requested, and the console stays empty."""
    browser.get_log("performance")
    browser.get_log("browser")
    for size in (WIDE, PHONE):
        open_page(browser, page, size)
        for button in browser.find_elements(By.CSS_SELECTOR, "#confusion button, table.sortable button"):
            button.click()
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    requests = [
        message["params"]["request"]["url"]
        for message in messages
        if message["method"] == "Network.requestWillBeSent"
    ]
    # Chromium's own pages, such as the empty one it begins with, ask itself for their icons.
    asked = [address for address in requests if not address.startswith(("data:", "chrome:"))]
    assert asked == [page.as_uri()] * 2
    assert browser.get_log("browser") == []


def test_the_policy_of_the_page_forbids_requests(browser: webdriver.Chrome, page: Path) -> None:
    """Even a script that got in could load nothing: the browser refuses before anything is sent."""
    open_page(browser, page)
    refused = browser.execute_async_script(
        "const done = arguments[0];"
        "addEventListener('securitypolicyviolation', event => done(event.effectiveDirective));"
        "new Image().src = 'http://127.0.0.1:9/';"
    )
    assert refused == "img-src"
    browser.get_log("browser")


@pytest.mark.parametrize("size", [WIDE, PHONE], ids=["wide", "phone"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_fits_its_window_in_light_and_dark(
    browser: webdriver.Chrome, page: Path, size: tuple[int, int], scheme: str
) -> None:
    """Nothing sticks out sideways, every section is there, and ground and ink follow the scheme."""
    open_page(browser, page, size, scheme)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= size[0]
    headings = [heading.text for heading in browser.find_elements(By.TAG_NAME, "h2")]
    assert headings == [
        *("Learning curves", "Confusion matrix", "Per class", "Worst mistakes", "Calibration", "Settings"),
        "Reproduce",
    ]
    style = "const style = getComputedStyle(document.body); return [style.backgroundColor, style.color]"
    ground, ink = (sum(map(int, color[4:-1].split(","))) for color in browser.execute_script(style))
    assert (ground > 2 * ink) if scheme == "light" else (ink > 2 * ground)


def test_pointing_at_a_cell_shows_its_images(
    browser: webdriver.Chrome, page: Path, subject: report.Subject
) -> None:
    """Each cell shows its own images; a clicked one comes back when the pointer leaves another."""
    open_page(browser, page)
    assert shown(browser).text == ""
    pointer = ActionChains(browser)
    pointer.move_to_element(cell(browser, 3, 3)).perform()
    assert_shown(browser, subject, 3, 3)
    pointer.move_to_element(cell(browser, 4, 4)).click().perform()
    assert_shown(browser, subject, 4, 4)
    assert len({tuple(expected_images(subject, *place)) for place in ((5, 7), (7, 5), (4, 4))}) == 3
    pointer.move_to_element(cell(browser, 5, 7)).perform()
    assert_shown(browser, subject, 5, 7)
    pointer.move_to_element(browser.find_element(By.TAG_NAME, "h1")).perform()
    assert_shown(browser, subject, 4, 4)


def test_tapping_a_cell_shows_its_images(
    browser: webdriver.Chrome, page: Path, subject: report.Subject
) -> None:
    """On a phone a finger does it."""
    open_page(browser, page, PHONE)
    browser.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": True})
    target = cell(browser, 2, 2)
    # The matrix and the place below it, where the images appear, are in the window together.
    browser.execute_script("document.getElementById('confusion').scrollIntoView()")
    touch = ActionBuilder(browser, mouse=PointerInput(interaction.POINTER_TOUCH, "finger"))
    touch.pointer_action.move_to(target).pointer_down().pointer_up()
    touch.perform()
    browser.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": False})
    assert_shown(browser, subject, 2, 2)


def test_headings_sort_the_class_table(
    browser: webdriver.Chrome, page: Path, subject: report.Subject
) -> None:
    """The first click sorts downwards, the second upwards; names sort as names."""
    open_page(browser, page)

    def classes() -> list[str]:
        return [row.text for row in browser.find_elements(By.CSS_SELECTOR, "table.sortable tbody th")]

    recalls = np.array([score.recall for score in subject.metrics.per_class])
    name, _, recall, *_ = browser.find_elements(By.CSS_SELECTOR, "table.sortable th button")
    assert classes() == list(CLASSES)
    recall.click()
    assert classes() == [CLASSES[label] for label in np.argsort(-recalls, kind="stable")]
    recall.click()
    assert classes() == [CLASSES[label] for label in np.argsort(recalls, kind="stable")]
    assert browser.find_element(By.CSS_SELECTOR, "[aria-sort]").text.startswith("recall")
    name.click()
    assert classes() == sorted(CLASSES, reverse=True)


def test_paper_shows_what_can_be_read_there(browser: webdriver.Chrome, page: Path) -> None:
    """In print the ground is white, even in the dark, and what needs a pointer is left out."""
    open_page(browser, page, scheme="dark", media="print")
    ground = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert ground == "rgb(255, 255, 255)"
    assert not shown(browser).is_displayed()
    assert browser.find_element(By.ID, "mistakes").is_displayed()
