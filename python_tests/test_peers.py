"""bench/peers.py as far as it goes without other libraries."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from shapes import CONVS, Conv

import bnn

sys.path.append(str(Path(__file__).resolve().parents[1]))
from bench import _peaks, _peers, peers, threads  # noqa: E402

SMALL = (Conv(1, 64, 6, 5, 32, 3, 3, padding=(1, 1)), Conv(1, 64, 7, 7, 64, 3, 3, (2, 2), groups=64))
CHILD = """
from bench.peer_server import LAYERS, serve

def build(layer, threads):
    if layer.groups > 1:
        raise ValueError("no groups")
    print("not an answer")
    return lambda: sum(range(20_000))

serve("numpy", build)
"""


@pytest.fixture
def restored_isa() -> Iterator[None]:
    before = bnn.isa.current()
    yield
    bnn.isa.use(before)


@pytest.mark.parametrize("layer", SMALL, ids=("plain", "depthwise"))
def test_ours_and_int8_compute_the_convolution(layer, restored_isa):
    _peers.check(layer)


@pytest.mark.parametrize("unit", _peaks.UNITS)
def test_peaks(unit):
    found = _peaks.peak(unit, 1e-4)
    assert found is None or 1e8 < found < 1e14


def test_a_missing_environment_is_named(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(_peers, "ENVIRONMENTS", tmp_path)
    with _peers.servers(threads=1) as found:
        assert not found
    assert capsys.readouterr().out == "".join(f"{n} is left out: run make peers\n" for n in _peers.SERVERS)


def test_server_answers_lines(capsys):
    server = _peers.Server("child", [sys.executable, "-c", CHILD, "1"])
    try:
        assert server.version[0].isdigit()
        assert peers.willing([server], SMALL[1]) == []
        assert "child: no groups" in capsys.readouterr().out
        assert peers.willing([server], SMALL[0]) == [server]
        assert 1e-6 < server.seconds(3) < 1
        server._child.kill()
        with pytest.raises(RuntimeError, match="child: its process ended"):
            server.ask("run 1")
    finally:
        server.close()


@dataclass
class Steady:
    name: str
    time: float

    def seconds(self, repeats: int) -> float:
        return self.time


def test_rows_and_summary(monkeypatch):
    layer = CONVS["resnet18/64x56"]
    times = {"ours": 1e-4, "peak amx_l1": layer.macs / 2e12, "peak amx_registers": layer.macs / 2.5e12, "slow": 0.1}
    monkeypatch.setattr(peers, "quiet", lambda: True)
    rows = peers.rows_of("resnet18/64x56", layer, [Steady(*item) for item in times.items()], rounds=12)
    by_name = {row["rival"]: row for row in rows}
    assert by_name["slow"]["ratio"] == pytest.approx(1000)
    assert by_name["peak amx_l1"]["rival_gmac_per_s"] == pytest.approx(2000)
    assert {row["calm"] for row in rows} == {12}
    assert (
        peers.line(rows, ["slow", "absent"], "amx").split()[2:] == "12 100.0 1156 amx 46% 2500 2000 1000.00x -".split()
    )
    assert "slow         least of 1 at batch 1, stride 1 (of 4): 1000.00; median of 1: 1000.00" in peers.summary(rows)


def test_only_calm_rounds_count(monkeypatch):
    """Before and after each round: calm, calm; calm, busy; busy; and then calm all the time."""
    looks = iter([True, True, True, False, False, *[True] * 20])
    monkeypatch.setattr(peers, "quiet", lambda: next(looks))
    assert [calm for calm, _ in peers.measure([Steady("ours", 1e-3)], rounds=4)] == [True, False, False, True]


def test_patience_waits_for_calm_rounds(monkeypatch):
    looks = iter([False, False, True, False, *[True] * 20])
    monkeypatch.setattr(peers, "quiet", lambda: next(looks))
    monkeypatch.setattr(peers, "PAUSE", 1e-3)
    assert [calm for calm, _ in peers.measure([Steady("ours", 1e-3)], rounds=3, patience=60)] == [True] * 3


def test_one_thread_against_all(monkeypatch, capsys):
    before = torch.get_num_threads()
    monkeypatch.setattr(threads, "SECONDS", 1e-3)
    try:
        threads.main(["--batch", "1", "--rounds", "1"])
    finally:
        torch.set_num_threads(before)
    told = capsys.readouterr().out
    assert all(f"\n{name} " in told for name in CONVS if name.startswith("resnet18/"))
    assert all(f"{unit}: " in told for unit in _peaks.UNITS if _peaks.peak(unit))


def test_layers():
    chosen = peers.layers(["resnet18/", "digits/"], [1, 16])
    assert {layer.n for _, layer in chosen} == {1, 16}
    assert dict(chosen)["resnet18/512x7"].macs == 16 * CONVS["resnet18/512x7"].macs
    assert all(any(name.startswith(start) for name in CONVS) for start in peers.QUICK)
