"""Headless Chromium driven through the two pipes of its DevTools protocol; needs nothing but the program itself."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

PROGRAM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
FLAGS = [
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--disable-default-apps", "--disable-extensions",
    "--disable-dev-shm-usage", "--hide-scrollbars", "--remote-debugging-pipe",
]  # fmt: skip


class Chromium:
    """A browser with one page.

    Attributes:
        events: everything that the browser reported since the page was opened.
    """

    def __init__(self, profile: Path, timeout: float = 240) -> None:
        assert PROGRAM is not None
        self.timeout, self.number, self.rest = timeout, 0, b""
        self.events: list[dict[str, Any]] = []
        read, self.write_end = os.pipe()
        self.read_end, write = os.pipe()
        # The protocol's pipes must be descriptors 3 and 4; a shell moves them there, through numbers that are free.
        moved = f'exec 8<&{read} 9>&{write}; exec 3<&8 4>&9 8<&- 9>&-; exec "$@"'
        self.process = subprocess.Popen(
            ["bash", "-c", moved, "bash", PROGRAM, *FLAGS, f"--user-data-dir={profile}", "about:blank"],
            pass_fds=(read, write), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(read)
        os.close(write)
        os.set_blocking(self.read_end, False)
        self.session: str | None = None
        pages = [one for one in self.send("Target.getTargets")["targetInfos"] if one["type"] == "page"]
        target = pages[0]["targetId"] if pages else self.send("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        os.close(self.read_end)
        os.close(self.write_end)

    def send(self, method: str, **arguments: Any) -> dict[str, Any]:
        """Call a method of the protocol and wait for its answer."""
        self.number += 1
        message: dict[str, Any] = {"id": self.number, "method": method, "params": arguments}
        if self.session is not None:
            message["sessionId"] = self.session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self.write_end, data) :]
        until = time.monotonic() + self.timeout
        while True:
            answer = self._receive(until, method)
            if answer.get("id") == self.number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                result: dict[str, Any] = answer["result"]
                return result
            self.events.append(answer)

    def _receive(self, until: float, what: str) -> dict[str, Any]:
        while b"\0" not in self.rest:
            assert time.monotonic() < until, f"Chromium gave no answer to {what} in {self.timeout} s"
            try:
                data = os.read(self.read_end, 2**20)
            except BlockingIOError:
                time.sleep(0.01)
                continue
            assert data, f"Chromium ended during {what}"
            self.rest += data
        line, _, self.rest = self.rest.partition(b"\0")
        message: dict[str, Any] = json.loads(line)
        return message

    def open(self, file: Path, width: int, *, height: int = 900, dark: bool = False) -> None:
        """Open a file at that width in CSS pixels, as a phone below 500."""
        self.send(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 500
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", features=[scheme])
        self.events.clear()
        self.send("Page.navigate", url=file.resolve().as_uri())
        until = time.monotonic() + self.timeout
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            self.events.append(self._receive(until, "Page.navigate"))
        self.run("document.fonts.ready.then(() => true)")

    def run(self, script: str) -> Any:
        """Value of a JavaScript expression in the page."""
        found = self.send("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def press(self, key: str) -> None:
        """Press and release a key."""
        codes = {"Tab": 9, "Enter": 13, "ArrowRight": 39}
        for kind in ("keyDown", "keyUp"):
            text = {"text": "\r"} if key == "Enter" and kind == "keyDown" else {}
            self.send("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=codes[key], **text)

    def problems(self) -> list[str]:
        """Script errors, warnings and refused loads since the page was opened."""
        found = []
        for event in self.events:
            method, about = event.get("method"), event.get("params", {})
            if method == "Runtime.exceptionThrown":
                found.append(f"script error: {about['exceptionDetails'].get('text')}")
            elif method == "Log.entryAdded" and about["entry"]["level"] in ("error", "warning"):
                found.append(f"{about['entry']['level']}: {about['entry']['text']}")
            elif method == "Runtime.consoleAPICalled":
                found.append(f"console: {about.get('args')}")
        return found

    def requests(self) -> list[str]:
        """Addresses that the page asked for, data: and the page itself left out."""
        urls = [e["params"]["request"]["url"] for e in self.events if e.get("method") == "Network.requestWillBeSent"]
        own = self.run("location.href").partition("#")[0]
        return [url for url in urls if not url.startswith("data:") and url.partition("#")[0] != own]

    def picture(self, file: Path, *, whole: bool = True) -> None:
        """Save what the page looks like as a PNG file."""
        found = self.send("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        if whole:
            size = self.send("Page.getLayoutMetrics")["cssContentSize"]
            clip = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
            found = self.send("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip)
        file.write_bytes(base64.b64decode(found["data"]))
