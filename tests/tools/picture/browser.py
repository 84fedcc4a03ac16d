"""A Chromium that tests drive: chromedriver speaks HTTP and JSON, so nothing but Python's own library is needed."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

DRIVER = shutil.which("chromedriver")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
MISSING = "needs chromium and chromedriver (Debian: apt-get install chromium chromium-driver)"
_FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip
KEYS = {"Escape": "\ue00c", "Enter": "\ue007", "Tab": "\ue004", "Space": " "}


class Browser:
    """One window. Pages are files; `errors` are those that a page's console has shown since it was opened."""

    def __init__(self, port: int) -> None:
        self._at = f"http://127.0.0.1:{port}"
        self._session = ""

    def begin(self, profile: Path) -> None:
        """Open the window, with an empty profile."""
        options = {"args": [*_FLAGS, f"--user-data-dir={profile}"], "binary": CHROMIUM}
        asked = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        self._session = self._call("POST", "/session", {"capabilities": {"alwaysMatch": asked}})["sessionId"]

    def _call(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        data = json.dumps(body or {}).encode() if method == "POST" else None
        request = urllib.request.Request(self._at + path, data, {"Content-Type": "application/json"}, method=method)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)["value"]

    def _own(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        return self._call(method, f"/session/{self._session}{path}", body)

    def _protocol(self, command: str, **facts: Any) -> Any:
        return self._own("POST", "/goog/cdp/execute", {"cmd": command, "params": facts})

    def open(self, page: Path, width: int = 1280, height: int = 900, scheme: str = "light") -> None:
        """Open a file, in a window of that size, where the system prefers light or dark."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self._protocol("Emulation.setDeviceMetricsOverride", **size)
        self._protocol("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.errors()
        self._own("POST", "/url", {"url": page.as_uri()})
        self.settle()

    def settle(self) -> None:
        """Wait for two frames, in which lines are drawn."""
        wait = "const done = arguments[0]; requestAnimationFrame(() => requestAnimationFrame(() => done()))"
        self._own("POST", "/execute/async", {"script": wait, "args": []})

    def run(self, script: str, *args: Any) -> Any:
        """What the body of a function returns there."""
        return self._own("POST", "/execute/sync", {"script": script, "args": list(args)})

    def run_later(self, script: str) -> Any:
        """What it gives to its callback `done`."""
        return self._own("POST", "/execute/async", {"script": f"const done = arguments[0]; {script}", "args": []})

    def press(self, *keys: str) -> None:
        """Press keys, by name or as they are written, one after another."""
        strokes = [{"type": kind, "value": KEYS.get(key, key)} for key in keys for kind in ("keyDown", "keyUp")]
        self._own("POST", "/actions", {"actions": [{"type": "key", "id": "keys", "actions": strokes}]})
        self.settle()

    def errors(self) -> list[str]:
        """What the console has shown since it was last asked."""
        return [entry["message"] for entry in self._own("POST", "/se/log", {"type": "browser"})]

    @contextlib.contextmanager
    def within(self, frame: str) -> Iterator[None]:
        """Look into the frame that a selector finds."""
        element = self._own("POST", "/element", {"using": "css selector", "value": frame})
        self._own("POST", "/frame", {"id": element})
        yield
        self._own("POST", "/frame", {"id": None})

    def screenshot(self) -> str:
        """The window as a PNG, in base64."""
        return str(self._own("GET", "/screenshot"))

    def end(self) -> None:
        """Close the window."""
        if self._session:
            self._own("DELETE", "")


@contextlib.contextmanager
def browser(folder: Path) -> Iterator[Browser]:
    """A window, as long as it is needed."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    assert DRIVER is not None
    driver = subprocess.Popen([DRIVER, f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    window = Browser(port)
    try:
        until = time.monotonic() + 30
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/status", timeout=5).close()
                break
            except OSError:
                assert time.monotonic() < until, "chromedriver doesn't answer"
                time.sleep(0.05)
        window.begin(folder)
        yield window
        window.end()
    finally:
        driver.terminate()
        driver.wait(10)
