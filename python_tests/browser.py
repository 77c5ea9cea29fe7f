"""A headless browser, if the machine has one, and what it finds out about a page."""

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome")
WIDTHS = (1280, 400)  # CSS pixels

# Waits for all frames, then writes what it measured into the title.
MEASURE = """
addEventListener('load', () => {
  const found = [...document.querySelectorAll('iframe')].map(({contentWindow: w, contentDocument: d}) => ({
    width: w.innerWidth, overflow: d.documentElement.scrollWidth - w.innerWidth,
    requests: w.performance.getEntriesByType('resource').map(entry => entry.name),
    images: [...d.images].filter(image => !image.naturalWidth).length,
    flat: [...d.querySelectorAll('main > section > .scroll svg, main > section figure svg')]
      .filter(svg => svg.checkVisibility() && svg.getBoundingClientRect().height < 50).length,
    figures: d.querySelectorAll('figure svg').length, scripts: d.scripts.length,
  }));
  document.title = JSON.stringify(found);
});
"""


def find() -> str | None:
    """Path of the first of NAMES that is installed."""
    return next((path for path in map(shutil.which, NAMES) if path), None)


def look_at(browser: str, page: str, folder: Path) -> list[dict]:
    """What the browser finds when it shows `page` (HTML) at each of WIDTHS, offline.

    width, overflow (CSS pixels by which the page is wider than its window), requests (addresses it asked for), images
    (that are missing), flat (visible figures without height), figures, scripts.
    """
    frames = "".join(
        f'<iframe width="{w}" height="900" style="border:0" srcdoc="{html.escape(page)}"></iframe>' for w in WIDTHS
    )
    wrapper = folder / "frames.html"
    wrapper.write_text(f"<!DOCTYPE html><meta charset=utf-8><title></title><script>{MEASURE}</script>{frames}", "utf-8")
    flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--disable-dev-shm-usage",
             "--no-first-run", "--disable-background-networking", "--host-resolver-rules=MAP * ~NOTFOUND",
             f"--user-data-dir={folder / 'profile'}", "--window-size=1400,1000"]  # fmt: skip
    command = [browser, *flags, "--dump-dom", wrapper.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    title = re.search(r"<title>(.*?)</title>", done.stdout, re.S)
    assert title and title[1], done.stderr[-2000:]
    return json.loads(html.unescape(title[1]))
