"""Reports in a real browser, on a laptop and on a phone, light and dark: nothing fails, overflows, loads or stays silent."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from polymodal.analysis import compare, report
from tests.analysis.runs import HOSTILE, write_media_table, write_run
from tests.browser.chromium import PROGRAM, Chromium

pytestmark = pytest.mark.browser

LONG = "a class whose name is a whole sentence " + "withoutanyspacetobreakthelineat" * 3

OVERFLOW = """(() => {
  document.querySelectorAll('details').forEach(one => one.open = true);
  const wide = document.documentElement.clientWidth, found = [];
  for (const one of document.body.querySelectorAll('*')) {
    if (one.closest('.scroll, pre, .skip, .unseen') && !one.matches('.scroll, pre')) continue;
    if (one.closest('svg') && one.tagName !== 'svg') continue;
    const box = one.getBoundingClientRect();
    if (box.width && (box.right > wide + 1 || box.left < -1)) found.push(one.tagName + '.' + one.className + ' ' + box.right);
  }
  const root = document.documentElement;
  return {root: root.scrollWidth, inner: window.innerWidth, found: found.slice(0, 5)};
})()"""

LETTERS = """[...document.querySelectorAll('svg')].flatMap(svg => {
  const box = svg.getBoundingClientRect();
  return [...svg.querySelectorAll('text')].filter(text => {
    const one = text.getBoundingClientRect();
    return one.left < box.left - 1 || one.right > box.right + 1 || one.top < box.top - 1 || one.bottom > box.bottom + 1;
  }).map(text => svg.querySelector('title').textContent + ': ' + text.textContent);
})"""

SIZES = """Math.min(...[...document.querySelectorAll('svg text')].map(text => {
  const svg = text.closest('svg');
  return parseFloat(getComputedStyle(text).fontSize) * svg.getBoundingClientRect().width / svg.viewBox.baseVal.width;
}))"""

# What stands behind an element is the nearest ground that is opaque; tints over it are tested with the style's colours.
CONTRAST = """(() => {
  const parts = text => (text.match(/[\\d.]+/g) || []).map(Number);
  const light = c => c.slice(0, 3).map(v => v / 255).map(v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
  const ground = one => {
    for (; one; one = one.parentElement) {
      const c = parts(getComputedStyle(one).backgroundColor);
      if (c.length === 3 || (c.length === 4 && c[3] === 1)) return c;
    }
    return [255, 255, 255];
  };
  const found = [];
  for (const one of document.body.querySelectorAll('*')) {
    const own = [...one.childNodes].some(node => node.nodeType === 3 && node.textContent.trim());
    if (!own || one.closest('title, desc')) continue;
    const style = getComputedStyle(one), ink = parts(one.closest('svg') ? style.fill : style.color);
    const [a, b] = [light(ink), light(ground(one))].sort((x, y) => y - x), ratio = (a + .05) / (b + .05);
    if (ratio < 4.5) found.push(one.tagName + ' ' + one.textContent.slice(0, 20) + ' ' + ratio.toFixed(2));
  }
  return found.slice(0, 5);
})()"""


@pytest.fixture(scope="module")
def pages(tmp_path_factory) -> dict[str, Path]:
    """A page of each kind."""
    folder = tmp_path_factory.mktemp("pages")
    table = write_media_table(folder / "data")
    many = tuple(f"class {i}" for i in range(110))
    vectors = {f"{HOSTILE}{i}": "vector" for i in range(6)}
    runs = {
        "media": write_run(folder / "media", table=table, skill=0.5),
        "auto": write_run(folder / "auto", table=table, recipe="auto", seed=1),
        "many": write_run(folder / "many", classes=many, rows=600),
        "long": write_run(folder / LONG[:80], classes=(LONG, HOSTILE, "c"), kinds=vectors),
        "multilabel": write_run(folder / "multilabel", "multilabel", classes=(LONG, "b", HOSTILE)),
        "regression": write_run(folder / "regression", "regression"),
        "plain": write_run(folder / "plain", unimodal=False, epochs=1),
    }
    found = {name: report(run) for name, run in runs.items()}
    same = [runs["media"], runs["auto"], runs["plain"]]
    found["compared"] = compare([*same, runs["long"]], folder / "compared.html")
    return found


@pytest.fixture(scope="module")
def browser(tmp_path_factory) -> Iterator[Chromium]:
    if PROGRAM is None:
        pytest.fail("tests marked `browser` need Chromium: apt-get install chromium")
    with Chromium(tmp_path_factory.mktemp("profile")) as one:
        yield one


NAMES = ["media", "auto", "many", "long", "multilabel", "regression", "plain", "compared"]


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("name", NAMES)
def test_page(browser: Chromium, pages: dict[str, Path], name: str, width: int, dark: bool):
    browser.open(pages[name], width, dark=dark)
    assert browser.run("matchMedia('(prefers-color-scheme: dark)').matches") is dark
    assert browser.run("window.innerWidth") == width
    found = browser.run(OVERFLOW)
    assert found["root"] <= found["inner"] == width
    assert found["found"] == [], "elements outside the screen"
    assert browser.run(LETTERS) == [], "letters outside their drawing"
    assert browser.run(SIZES) >= 9, "letters too small to read"
    assert browser.run(CONTRAST) == [], "text too faint"
    assert browser.run("typeof alert === 'function' && document.scripts.length") == 0
    assert browser.problems() == []
    assert browser.requests() == []


@pytest.mark.parametrize("name", NAMES)
def test_every_figure_is_told_to_a_screen_reader(browser: Chromium, pages: dict[str, Path], name: str):
    browser.open(pages[name], 1280)
    tree = browser.send("Accessibility.getFullAXTree")["nodes"]
    nodes = [one for one in tree if not one.get("ignored")]

    def role(one: dict) -> str:
        return str(one.get("role", {}).get("value", ""))

    def said(one: dict, what: str) -> str:
        return str(one.get(what, {}).get("value", ""))

    pictures = [one for one in nodes if role(one) in ("image", "img", "graphics-document")]
    assert len(pictures) == browser.run("document.querySelectorAll('svg, img').length")
    assert all(said(one, "name") for one in pictures)
    drawings = browser.run("[...document.querySelectorAll('svg')].map(svg => svg.querySelector('title').textContent)")
    named = [said(one, "name") for one in pictures]
    assert all(any(name.startswith(title) for name in named) for title in drawings)
    roles = [role(one) for one in nodes]
    assert roles.count("main") == 1
    assert {"banner", "navigation", "contentinfo"} <= set(roles)
    audio = [one for one in nodes if role(one) == "Audio"]
    assert all(said(one, "name") for one in audio)


def test_sounds_and_pictures_load(browser: Chromium, pages: dict[str, Path]):
    browser.open(pages["media"], 1280)
    assert browser.run("[...document.images].every(one => one.complete && one.naturalWidth > 0)")
    lengths = browser.run(
        """Promise.all([...document.querySelectorAll('audio')].map(one => one.readyState ? one.duration
           : new Promise(done => { one.onloadedmetadata = () => done(one.duration); one.onerror = () => done(-1);
             one.load(); })))"""
    )
    assert lengths
    assert all(abs(length - 0.5) < 0.05 for length in lengths)


def test_keyboard(browser: Chromium, pages: dict[str, Path]):
    browser.open(pages["many"], 390)
    browser.press("Tab")
    assert browser.run("document.activeElement.className") == "skip"
    assert browser.run("document.activeElement.getBoundingClientRect().top") >= 0
    browser.press("Enter")
    assert browser.run("location.hash") == "#content"
    seen = []
    for _ in range(60):
        browser.press("Tab")
        label = browser.run("document.activeElement.getAttribute('aria-label') || document.activeElement.tagName")
        seen.append(label)
        if label == "Table: confusion matrix":
            break
    assert seen[-1] == "Table: confusion matrix"
    assert "SUMMARY" in seen
    outline = (
        "getComputedStyle(document.activeElement).outlineStyle + getComputedStyle(document.activeElement).outlineWidth"
    )
    assert browser.run(outline) == "solid3px"
    before = browser.run("document.activeElement.scrollLeft")
    browser.press("ArrowRight")
    until = time.monotonic() + 30  # scrolling is animated
    while browser.run("document.activeElement.scrollLeft") <= before:
        assert time.monotonic() < until, "the arrow key does not scroll the table"
