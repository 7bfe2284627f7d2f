"""Headless Chromium (WebDriver), for tests of HTML reports."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

_FLAGS = (
    "--headless=new",
    "--no-sandbox",  # refuses to run as root
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
)


def missing_browser() -> str | None:
    """Which of Chromium and its driver is missing; None where both are installed."""
    names = [name for name in ("chromium", "chromedriver") if shutil.which(name) is None]
    return f"{' and '.join(names)} not installed (CONTRIBUTING.md)" if names else None


class Browser:
    """One window of `width` x `height` pixels, also narrower than a window on a screen can be."""

    def __init__(self, profile: Path, width: int, height: int) -> None:
        options = webdriver.ChromeOptions()
        options.binary_location = str(shutil.which("chromium"))
        for flag in (*_FLAGS, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        # The driver is named, so that selenium looks for none on the network.
        self._driver = webdriver.Chrome(options, Service(str(shutil.which("chromedriver"))))
        self.resize(width, height)

    def __enter__(self) -> Browser:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._driver.quit()

    def resize(self, width: int, height: int) -> None:
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self._driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)

    def prefer(self, colour_scheme: str) -> None:
        """As if the person had set "dark" or "light" for all programs."""
        features = [{"name": "prefers-color-scheme", "value": colour_scheme}]
        self._driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    def open(self, path: Path) -> None:
        self._driver.get(path.resolve().as_uri())

    def run(self, script: str, *arguments: Any) -> Any:
        return self._driver.execute_script(script, *arguments)

    def find(self, selector: str) -> WebElement:
        return self._driver.find_element(By.CSS_SELECTOR, selector)

    def visible(self, selector: str) -> list[WebElement]:
        """Elements that take up room on the page."""
        found = self._driver.find_elements(By.CSS_SELECTOR, selector)
        return [element for element in found if element.is_displayed()]

    def click(self, selector: str) -> None:
        """In the middle of the window, as somebody does who has scrolled there."""
        element = self.find(selector)
        self.run("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", element)
        element.click()

    def saved(self, selector: str, folder: Path) -> Path:
        """Click on what saves a file; the file."""
        place = {"behavior": "allow", "downloadPath": str(folder)}
        self._driver.execute_cdp_cmd("Browser.setDownloadBehavior", place)
        self.click(selector)
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            found = [path for path in folder.iterdir() if not path.name.endswith(".crdownload")]
            if found:
                return found[0]
            time.sleep(0.02)
        raise AssertionError(f"{selector} saved no file in {folder}")

    @property
    def title(self) -> str:
        return self._driver.title

    def complaints(self) -> list[str]:
        """Errors and warnings of the console since the last call."""
        return [str(entry["message"]) for entry in self._driver.get_log("browser")]

    def requests(self) -> list[str]:
        """Addresses that pages asked for since the last call."""
        messages = [
            json.loads(entry["message"])["message"] for entry in self._driver.get_log("performance")
        ]
        return [
            message["params"]["request"]["url"]
            for message in messages
            if message["method"] == "Network.requestWillBeSent"
        ]

    def save_picture(self, path: Path) -> None:
        self._driver.save_screenshot(str(path))
