# SPDX-License-Identifier: Apache-2.0
"""The page at ``GET /``, in a real browser."""

import os
import shutil
from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from selenium.webdriver import Chrome, ChromeOptions, ChromeService

from deploy.packaging.page_picture import BOOTED, FAILED, WIDTH, digest
from tests.api.over_http import port_that_is_free
from tests.cli.process import HEARTBEAT, beat, connected, nitrohb

from .serving import Server, serving, until

HOSTILE = "<img src=x onerror=hacked=1>"

ROWS = """
    return [...document.querySelectorAll(`#${arguments[0]} tbody tr`)]
        .map((row) => [...row.cells].map((cell) => cell.innerText));
"""
# Words that the browser splits between two lines. Only paths may be split.
BROKEN = """
    const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    const broken = [];
    while (texts.nextNode()) {
        const text = texts.currentNode;
        for (const { 0: word, index } of text.data.matchAll(/\\S+/g)) {
            const range = new Range();
            range.setStart(text, index);
            range.setEnd(text, index + word.length);
            if (range.getClientRects().length > 1 && !word.includes("/")) broken.push(word);
        }
    }
    return broken;
"""
# The times of the heartbeats in the table. The table itself shows only seconds.
TIMES = "return [...enclaves.values()].reverse().map((beat) => beat.time)"
RESOURCES = "return performance.getEntriesByType('resource').map((entry) => entry.name)"


class Page:
    """The page of a server, as a user sees it."""

    def __init__(self, browser: Chrome) -> None:
        self._browser: Any = browser  # its type hints are incomplete

    def run(self, script: str, *args: object) -> Any:
        return self._browser.execute_script(script, *args)

    def state(self) -> str:
        return str(self.run("return document.getElementById('state').innerText"))

    def rows(self, table: str) -> list[list[str]]:
        """The texts of the cells of a table."""
        rows: list[list[str]] = self.run(ROWS, table)
        return rows

    def column(self, table: str, number: int) -> list[str]:
        return [row[number] for row in self.rows(table)]

    def times(self) -> list[str]:
        """The times of the heartbeats in the table, with microseconds."""
        times: list[str] = self.run(TIMES)
        return times

    def log(self) -> list[str]:
        """The messages of the browser since the last call."""
        entries: list[dict[str, str]] = self._browser.get_log("browser")
        return [entry["message"] for entry in entries]

    def show(self, *, width: int, height: int = 800, mobile: bool = False) -> None:
        """Show the page on a screen of this size."""
        screen = {"width": width, "height": height, "deviceScaleFactor": 2, "mobile": mobile}
        self._browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)

    def picture(self, path: Path) -> None:
        assert self._browser.save_screenshot(str(path))


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    """A browser that can connect only to 127.0.0.1."""
    options = ChromeOptions()
    options.binary_location = program("chromium")
    for argument in (
        "--headless=new",
        "--no-sandbox",  # root cannot use the sandbox
        "--disable-dev-shm-usage",  # it is small in a container
        "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
        f"--user-data-dir={tmp_path_factory.mktemp('browser')}",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = Chrome(options, ChromeService(program("chromedriver")))
    yield browser
    browser.quit()


def program(name: str) -> str:
    """Return the path of a program. Without it, Selenium would download one."""
    path = shutil.which(name)
    assert path is not None, f"no {name}"
    return path


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    directory = Path(os.environ.get("NITROHB_PICTURES", tmp_path))
    directory.mkdir(exist_ok=True)
    return directory


@contextmanager
def opened(browser: Chrome, server: Server) -> Generator[Page]:
    """Open the page, and leave it before its server ends."""
    origin = f"http://127.0.0.1:{server.port}/"
    browser.get(origin)
    page = Page(browser)
    try:
        page.run("window.isTheSame = true")
        until(page.state, "live")
        yield page
        check_page(page, origin)
    finally:  # the next page must not get the messages of this one
        browser.get("about:blank")
        page.log()


def check_page(page: Page, origin: str) -> None:
    """Check that it was not reloaded, loaded nothing from elsewhere, and logged nothing."""
    assert page.run("return window.isTheSame") is True
    resources: list[str] = page.run(RESOURCES)
    assert {f"{origin}readyz", f"{origin}heartbeats"} <= {*resources}
    assert [url for url in resources if not url.startswith(origin)] == []
    assert page.log() == []


def test_heartbeats_appear_when_they_arrive(browser: Chrome, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    with serving(one, two) as server, opened(browser, server) as page:
        assert page.column("listeners", 0) == [f"unix:{one}", f"unix:{two}"]
        assert page.column("listeners", 1) == ["listening", "listening"]
        assert page.rows("heartbeats") == []
        assert beat(one) == HEARTBEAT
        until(lambda: page.column("heartbeats", 1), [f"unix:{one}"])
        (first,) = page.times()
        assert beat(two) == HEARTBEAT
        until(lambda: page.column("heartbeats", 1), [f"unix:{two}", f"unix:{one}"])
        second, again = page.times()
        assert second > again == first
        assert beat(one) == HEARTBEAT
        until(lambda: page.column("heartbeats", 1), [f"unix:{one}", f"unix:{two}"])
        third, again = page.times()
        assert third > again == second


def test_earlier_heartbeats_are_shown(browser: Chrome, tmp_path: Path) -> None:
    path = tmp_path / "hb"
    with serving(path) as server:
        assert beat(path) == HEARTBEAT
        with opened(browser, server) as page:
            assert page.column("heartbeats", 1) == [f"unix:{path}"]


def test_an_address_is_text(browser: Chrome, tmp_path: Path) -> None:
    path = tmp_path / HOSTILE
    with serving(path) as server, opened(browser, server) as page:
        assert beat(path) == HEARTBEAT
        assert beat(path, b"\x00") == b""
        until(lambda: page.column("failures", 1), [f"unix:{path}"])
        assert page.column("failures", 3) == ["sent a wrong byte"]
        assert page.column("heartbeats", 1) == page.column("listeners", 0) == [f"unix:{path}"]
        assert page.run("return document.images.length") == 0


def test_injected_code_is_not_executed(browser: Chrome, tmp_path: Path) -> None:
    """The browser obeys the policy, and logs what it blocks, which the other tests check."""
    with serving(tmp_path / "hb") as server, opened(browser, server) as page:
        page.run("document.body.insertAdjacentHTML('beforeend', arguments[0])", HOSTILE)
        until(lambda: "Content Security Policy" in "".join(page.log()), True)
        assert page.run("return typeof hacked") == "undefined"


@pytest.mark.parametrize(("name", "width"), [("phone", 360), ("desktop", 1280)])
def test_it_fits_on_the_screen(
    name: str, width: int, browser: Chrome, tmp_path: Path, pictures: Path
) -> None:
    paths = (tmp_path / "enclave.sock", tmp_path / ("long" * 10))
    with serving(*paths) as server, opened(browser, server) as page:
        page.show(width=width, mobile=name == "phone")
        for path in paths:
            assert beat(path) == HEARTBEAT
            assert beat(path, b"\x00") == b""
        until(lambda: len(page.rows("failures")), 2)
        page.picture(pictures / f"{name}.png")
        assert page.run("return innerWidth") == width
        assert page.run("return document.documentElement.scrollWidth") <= width
        assert page.run(BROKEN) == []


def test_the_picture_in_the_readme(
    browser: Chrome, tmp_path: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for address in (*BOOTED, FAILED):
        socket_file(address).parent.mkdir()
    listen = tuple(f"--listen={address}" for address in (*BOOTED, FAILED))
    with serving(options=listen) as server:
        for address in BOOTED:
            assert nitrohb("send", address)[0] == 0
        with opened(browser, server) as page:
            with connected(socket_file(FAILED)):
                pass
            assert beat(socket_file(FAILED), b"\x00") == b""
            until(lambda: len(page.rows("failures")), 2)
            assert page.column("heartbeats", 1) == [*reversed(BOOTED)]
            # A border: a README may have the same background.
            page.run("document.documentElement.style.border = '1px solid #8888'")
            page.show(width=WIDTH)
            page.show(width=WIDTH, height=page.run("return document.documentElement.offsetHeight"))
            picture = pictures / "page.png"
            page.picture(picture)
    make_small(picture)
    assert picture.stat().st_size <= 80_000
    assert digest().encode() in picture.read_bytes()


def make_small(picture: Path) -> None:
    """Keep the 32 most important colors, and add the hash of what the picture is made of."""
    text = PngInfo()
    text.add_text("Source", digest())
    with Image.open(picture) as image:
        small = image.quantize(32, dither=Image.Dither.NONE)
    small.save(picture, optimize=True, pnginfo=text)


def socket_file(address: str) -> Path:
    """The Unix socket to which a VMM connects for its guest."""
    path, _, port = address.removeprefix("hybrid:").rpartition(":")
    return Path(f"{path}_{port}")


def test_it_says_when_the_server_is_gone_and_recovers(browser: Chrome, tmp_path: Path) -> None:
    path, port = tmp_path / "hb", port_that_is_free()
    with ExitStack() as later, serving(path, port=port) as server, opened(browser, server) as page:
        assert beat(path) == HEARTBEAT
        until(lambda: len(page.rows("heartbeats")), 1)
        before = page.times()
        server.end()
        until(page.state, "not connected, trying again")
        later.enter_context(serving(path, port=port))
        until(page.state, "live")
        assert beat(path) == HEARTBEAT
        # The new server begins without heartbeats.
        until(lambda: [time > before[0] for time in page.times()], [True])
        assert all("/events - Failed to load resource: net::ERR_" in line for line in page.log())
