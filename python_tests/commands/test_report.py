"""`bnn report`: real runs on a folder whose classes have hostile names; the page by a parser and in a browser."""

import json
import re
import shutil
import sys
from html.parser import HTMLParser
from pathlib import Path

import browser
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from bnn import plotting
from bnn.cli import main

CLASSES = {"<script>": 110, "<img src=x onerror=alert(1)>": 30, "A & B": 6}
TINY = (
    "--image-size 16 --batch-size 32 --epochs 1 --device cpu --precision no --calibration-steps 4 --calibration-views 0"
).split()


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with pictures, two runs, and page.html of both."""
    root = tmp_path_factory.mktemp("report")
    random = np.random.default_rng(0)
    for k, (name, count) in enumerate(CLASSES.items()):
        for split, images in (("train", count), ("val", 2), ("test", 8)):
            folder = root / "pictures" / split / name
            folder.mkdir(parents=True)
            for i in range(images):
                Image.fromarray(random.integers(40 * k, 90 + 80 * k, (16, 16), dtype=np.uint8)).save(
                    folder / f"{i}.png"
                )
    with pytest.MonkeyPatch.context() as patch:
        for name in ("reliability", "per_class"):
            patch.setattr(plotting, name, lambda *_: None)
        arguments = ["train", "candle", "--data", f"folder:{root / 'pictures'}", *TINY, "--out", str(root / "_$0")]
        patch.setattr(sys, "argv", ["bnn", *arguments])
        assert main(arguments) == 0
    other = shutil.copytree(root / "_$0", root / "_$1")  # as if of another seed, with other weights than its table's
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "seed": 1}))
    weights = load_file(other / "model.safetensors")
    save_file(weights | {"classifier.bias": torch.tensor([0.0, 0.0, 9.0])}, other / "model.safetensors")
    rows = {"ood": [{"set": "<b>noise</b>", "auroc": 71.25}], "own": [{"n": 3, "ok": True}]}
    (root / "_$1" / "evaluation.json").write_text(json.dumps(rows))
    assert (
        main(
            [
                "report",
                str(root / "_$0"),
                str(root / "_$1"),
                "-o",
                str(root / "page.html"),
                "--title",
                "Runs & <i>more</i>",
            ]
        )
        == 0
    )
    return root


@pytest.fixture(scope="module")
def page(place):
    return (place / "page.html").read_text("utf-8")


class Reader(HTMLParser):
    """Tags with attributes, and the cells of every table row."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.rows, self.cell = [], [], False
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.cell = tag in ("td", "th")
        if tag == "tr":
            self.rows.append([])
        elif self.cell:
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        self.cell = False

    def handle_data(self, text):
        if self.cell:
            self.rows[-1][-1] += text.strip()


def test_seeds_are_a_mean_beside_their_runs(place, page, capsys):
    rows = {row[0]: row[1:] for row in reversed(Reader(page).rows) if row}  # the first table wins
    recorded = json.loads((place / "_$0" / "table.json").read_text())[0]
    assert main(["eval", str(place / "_$1"), "--json"]) == 0
    figures = [recorded, json.loads(capsys.readouterr().out)]
    for name, found in zip(("_$0", "_$1"), figures, strict=True):
        shown = [f"{found[figure]:.1f}" for figure in ("mean", "many", "medium", "few", "ece")]
        assert rows[name] == [*shown, f"{found['nll']:.2f}"]
    assert f"<small>{recorded['ece_low']:.1f} to {recorded['ece_high']:.1f}</small>" in page
    one, two = (found["ece"] for found in figures)
    assert rows["_$"][4] == f"{(one + two) / 2:.1f} ± {abs(one - two) / 2**0.5:.1f}" and one != two
    assert re.findall(r"([\w$]+): the accuracy computed here is", page) == ["_$1"]


def test_it_has_every_part(place, page):
    titles = re.findall(r"<h2>(.*?)</h2>", page)
    assert titles == [
        "Accuracy", "Calibration", "Prior shift", "Balance of the distillation", "Images of other classes", "own",
        "Size and time", "Runs", "Definitions",
    ]  # fmt: skip
    labels = [attrs["aria-label"] for tag, attrs in Reader(page).tags if attrs.get("role") == "img"]
    assert len(labels) == 4 + 2 * 2 and page.count("<svg") == len(labels)
    assert f"bnn train candle --data folder:{place / 'pictures'}" in page
    assert ["_$1", "<b>noise</b>", "71.25"] in Reader(page).rows and ["_$1", "3", "True"] in Reader(page).rows
    sizes = [row for row in Reader(page).rows if row[:1] == ["_$"]][-1]
    training, packed, _, ms, twin, _ = (float(text.split()[0]) for text in sizes[1:])
    assert training > 10 * packed > 1 and ms > 0 < twin


def test_what_runs_say_is_text(page):
    tags = Reader(page).tags
    assert not [tag for tag, _ in tags if tag in ("script", "img", "link", "iframe", "object")]
    assert not [name for _, attrs in tags for name in attrs if name.startswith("on")]
    for name in CLASSES:
        assert name in [row[0] for row in Reader(page).rows if row]
    assert "<title>Runs &amp; &lt;i&gt;more&lt;/i&gt;</title>" in page


def test_nothing_is_loaded_from_elsewhere(page):
    for tag, attrs in Reader(page).tags:
        for name in ("src", "href", "xlink:href", "action", "data", "srcset"):
            assert attrs.get(name, "#").startswith("#"), (tag, attrs)
    assert not re.findall(r"url\((?!#)|@import", page)
    ids = [attrs["id"] for _, attrs in Reader(page).tags if "id" in attrs]
    used = [attrs["xlink:href"][1:] for _, attrs in Reader(page).tags if "xlink:href" in attrs]
    used += re.findall(r"url\(#(.*?)\)", page)
    assert len(set(ids)) == len(ids) and set(used) <= set(ids)


def test_a_browser_shows_it_offline_at_both_widths(page, tmp_path):
    found = browser.find()
    if found is None:
        pytest.skip(f"no browser: {', '.join(browser.NAMES)}")
    policy = re.compile(r'<meta http-equiv="Content-Security-Policy".*?>')
    assert policy.search(page)
    for seen in browser.look_at(found, policy.sub("", page), tmp_path):  # nothing is asked for even without it
        assert (
            seen["overflow"] <= 0 and seen["requests"] == [] and seen["images"] == seen["flat"] == seen["scripts"] == 0
        )
        assert seen["figures"] == 8 and seen["width"] in browser.WIDTHS
    bad = "<main style='width: 600px'><section><figure><svg height=9></svg></figure></section><img src='http://x.test/i.png'>"
    wide, narrow = browser.look_at(found, bad, tmp_path)
    assert wide["overflow"] <= 0 < narrow["overflow"] and wide["images"] == wide["flat"] == 1
    assert wide["requests"] == ["http://x.test/i.png"]


def fails(capsys, *arguments):
    capsys.readouterr()
    assert main(["report", *map(str, arguments)]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1, captured.err
    return captured.err.strip()


def copy(run: Path, to: Path, **changes) -> Path:
    """A run folder with other fields in its config, without its weights."""
    to.mkdir()
    config = json.loads((run / "config.json").read_text())
    (to / "config.json").write_text(json.dumps({**config, **changes}))
    (to / "table.json").write_text((run / "table.json").read_text())
    return to


def test_what_can_not_be_compared_is_named(place, tmp_path, capsys):
    run, new = place / "_$0", tmp_path / "new.html"
    assert fails(capsys, run, "-o", place / "page.html") == (
        f"bnn: {place / 'page.html'} exists: choose another -o, or add --overwrite"
    )
    assert "no run given" in fails(capsys, "-o", new)
    assert f"{run} is given twice" in fails(capsys, run, run, "-o", new)
    assert f"{tmp_path} is not a run folder: it has no config.json" in fails(capsys, run, tmp_path, "-o", new)
    unfinished = copy(run, tmp_path / "unfinished", command="bnn train plain --overwrite --seed 4")
    (unfinished / "table.json").unlink()
    line = fails(capsys, run, unfinished, "-o", new)
    assert line.endswith("did not finish; continue it: bnn train plain --seed 4 --resume") and str(unfinished) in line
    other = copy(run, tmp_path / "other", data="digits")
    assert "_$0 and other differ in data ('folder:" in fails(capsys, run, other, "-o", new)
    longer = copy(run, tmp_path / "longer", class_counts=[110, 30, 7])
    assert "_$0 and longer differ in class_counts: compare" in fails(capsys, run, longer, "-o", new)
    assert not new.exists()
