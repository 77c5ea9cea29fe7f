import importlib
import math
import sys

import pytest
import torch

from bnn import metrics, plotting


@pytest.fixture
def figures(monkeypatch):
    """The figures that were written, in order."""
    from matplotlib.figure import Figure

    written = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, path, **kw: (written.append(figure), path.write_text("png")))
    return written


def sample(classes=20):
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(classes).repeat_interleave(10)
    logits = 2 * torch.randn(len(labels), classes, generator=generator)
    logits[torch.arange(len(labels)), labels] += 3
    return logits, labels, (200 * 0.01 ** (torch.arange(classes) / (classes - 1))).long()


def rows(steps=40):
    for step in range(steps):
        yield {"step": step, "epoch": 0, "split": "train", "loss": math.exp(-step / 20), "lr": 1e-3, "note": "text"}
        if step % 10 == 0:
            yield {
                "step": step,
                "split": "val",
                "loss": 1.0,
                "mean": 50.0,
                "mean_low": 45.0,
                "mean_high": 55.0,
                "ece_few": 3.0,
            }


def legend(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


@pytest.mark.filterwarnings("error")
def test_files(tmp_path):
    logits, labels, counts = sample()
    plotting.reliability(tmp_path / "reliability.png", logits.softmax(1), labels, counts)
    plotting.per_class(str(tmp_path / "per_class.svg"), metrics.class_accuracy(logits, labels), counts)
    plotting.curves(tmp_path / "curves", rows())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["curves", "per_class.svg", "reliability.png"]
    for name in ("curves", "reliability.png"):
        content = (tmp_path / name).read_bytes()
        assert content.startswith(b"\x89PNG") and int.from_bytes(content[16:20], "big") == 1600
    assert b"<svg" in (tmp_path / "per_class.svg").read_bytes()


def test_reliability_writes_counts_and_ece_of_every_group(tmp_path, figures):
    logits, labels, counts = sample()
    p = logits.softmax(1)
    plotting.reliability(tmp_path / "r.png", p, labels, counts)
    few = counts[labels] < 20
    titles = [axes.get_title(loc="left") for axes in figures[0].axes]
    assert f"all: 200 images, ECE {metrics.ece(p, labels):.1f} %" in titles
    assert f"few: {int(few.sum())} images, ECE {metrics.ece(p[few], labels[few]):.1f} %" in titles
    written = [int(text.get_text()) for text in figures[0].axes[1].texts]
    assert written == [n for n in metrics.reliability_bins(p, labels)["count"].int().tolist() if n]


def test_reliability_leaves_out_a_group_without_images(tmp_path, figures):
    logits, labels, _ = sample()
    plotting.reliability(tmp_path / "r.png", logits.softmax(1), labels, [500] * 20)
    assert [axes.get_title(loc="left").split(":")[0] for axes in figures[0].axes[::2]] == ["all", "many"]


def test_per_class_orders_by_count_and_names_the_means(tmp_path, figures):
    plotting.per_class(tmp_path / "p.png", [10.0, 90.0, 50.0, 30.0, math.nan], [5, 500, 50, 40, 3])
    bars = [patch.get_height() for patch in figures[0].axes[0].patches[:5]]
    assert bars[:4] == [90, 50, 30, 10] and math.isnan(bars[4])
    assert legend(figures[0]) == [
        "many: 1 class\nmean 90.0 %",
        "medium: 2 classes\nmean 40.0 %",
        "few: 2 classes\nmean 10.0 %",
    ]
    plotting.per_class(tmp_path / "p.png", [10.0, math.nan], [50, 5])
    assert legend(figures[1])[1] == "few: 1 class\nno test images"


def test_curves_draws_numbers_by_split(tmp_path, figures):
    plotting.curves(tmp_path / "c.png", rows())
    panels = {axes.get_title(loc="left"): axes for axes in figures[0].axes}
    assert list(panels) == ["loss", "lr", "mean"] and legend(figures[0]) == ["train", "val"]
    assert len(panels["loss"].lines[0].get_xdata()) == 40 and len(panels["loss"].lines[1].get_xdata()) == 4
    assert len(panels["mean"].collections) == 1
    plotting.curves(tmp_path / "c.png", rows(), ["ece_few"])
    assert [axes.get_title(loc="left") for axes in figures[1].axes] == ["ece_few"]


def test_curves_keeps_phases_apart(tmp_path, figures):
    two = [{**row, "phase": phase} for phase in ("calibrate", "distil") for row in rows()]
    plotting.curves(tmp_path / "c.png", two, ["loss"])
    assert legend(figures[0]) == ["calibrate: train", "calibrate: val", "distil: train", "distil: val"]


def test_curves_smooths_long_series(tmp_path, figures):
    plotting.curves(tmp_path / "c.png", [{"step": i, "split": "train", "loss": i % 2} for i in range(200)])
    raw, smooth = figures[0].axes[0].lines[:2]
    assert set(raw.get_ydata()) == {0, 1} and all(0.4 < y < 0.6 for y in smooth.get_ydata()[6:-6])


def test_entries_stand_side_by_side_with_their_intervals(tmp_path, figures):
    values = {"_a$b$": {"many": (50.0, 40.0, 70.0), "few": (9.0, 8.0, 11.0)}, "c": {"few": (5.0, 5.0, 5.0)}}
    plotting.compare(tmp_path / "c.png", values, "accuracy (%)")
    (axes,) = figures[0].axes
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["many", "few"]
    assert legend(figures[0]) == [r" _a\$b\$", "c"]  # neither hidden nor a formula
    points, bars = axes.containers[0][0], axes.containers[0][2][0].get_segments()
    assert points.get_ydata().tolist() == [50, 9]
    assert [segment[:, 1].tolist() for segment in bars] == [[40, 70], [8, 11]]


def test_by_frequency_draws_each_class_at_its_count(tmp_path, figures):
    accuracies = torch.tensor([90.0, 10.0, math.nan, 50.0, 40.0])
    plotting.by_frequency(tmp_path / "f.png", {"a": accuracies}, [500, 5, 3, 50, 0])
    points, line = figures[0].axes[0].lines
    assert points.get_xdata().tolist() == [0.5, 5, 50, 500] and points.get_ydata().tolist() == [40, 10, 50, 90]
    assert line.get_ydata().tolist() == pytest.approx([25, 100 / 3, 50, 70])


def test_a_failed_write_keeps_the_old_file_and_leaves_nothing(tmp_path, monkeypatch):
    from matplotlib.figure import Figure

    def fail(figure, path, **kwargs):
        path.write_text("half a pict")
        raise OSError("disk full")

    monkeypatch.setattr(Figure, "savefig", fail)
    (tmp_path / "p.png").write_text("old")
    with pytest.raises(OSError, match="disk full"):
        plotting.per_class(tmp_path / "p.png", [1.0, 2.0], [3, 4])
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("p.png", "old")]


def test_without_matplotlib_the_error_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    importlib.reload(plotting)
    with pytest.raises(ImportError, match=r"pip install 'bnn-torch\[run\]'"):
        plotting.per_class(tmp_path / "p.png", [1.0, 2.0], [3, 4])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda path: plotting.reliability(path, sample()[0], sample()[1], sample()[2]), "looks like logits"),
        (lambda path: plotting.per_class(path, [1.0], [3, 4]), r"accuracies: expected shape \[2\].* got \[1\]"),
        (lambda path: plotting.compare(path, {"a": {}}, "%"), "values: nothing to draw"),
        (lambda path: plotting.by_frequency(path, {"a": torch.ones(2)}, [1]), r"expected shape \[1\], got \[2\] of a"),
        (lambda path: plotting.curves(path, []), "rows: no metric to draw"),
        (lambda path: plotting.curves(path, rows(), ["acuracy"]), "names: no values of .*acuracy.*there are .*loss"),
    ],
)
def test_bad_input(call, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        call(tmp_path / "x.png")
