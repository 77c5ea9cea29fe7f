"""`bnn curate` on picture files, with the shipped glyph teacher as a packed file and a language model on localhost."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from PIL import Image

import bnn
from bnn.cli import main
from bnn.commands import _lookalikes, _propose
from bnn.data import Preprocess, fonts, glyphs, lookalikes
from bnn.models.pretrained import pretrained

PREPROCESS = Preprocess((32, 32), (glyphs.MEAN,), (glyphs.STD,), "L")
TARGETS = {"a grave": "à", "zhe": "ж"}
CANDIDATES = {"a circumflex": "â", "a macron": "ā", "squares": "▦", "zhe breve": "ӂ"}


def draw(root: Path, chars: dict[str, str], count: int) -> Path:
    faces = [fonts.shipped(font) for font in fonts.TRAIN]
    images = glyphs.split_images("source", 7, list(chars.values()), [count] * len(chars), faces, 32)
    for i, (pixels, label) in enumerate(zip(images.tensor, images.labels.tolist(), strict=True)):
        path = root / list(chars)[label] / "deeper" / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels[0].numpy()).save(path)
    return root


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """data and more: folders of glyphs as PNG; teacher.safetensors; names.json."""
    root = tmp_path_factory.mktemp("curate")
    draw(root / "data", TARGETS, 12)
    draw(root / "more", CANDIDATES, 8)
    bnn.save(bnn.pack(pretrained("glyph_teacher")), root / "teacher.safetensors", preprocess=PREPROCESS.to_dict())
    names = {"a grave": ["a circumflex", "a macron"], "zhe": ["a macron", "zhe breve"]}
    (root / "names.json").write_text(json.dumps(names))
    return root


def arguments(place: Path, out: Path, *more: str, names: str = "names.json") -> list[str]:
    flags = ["--data", f"folder:{place / 'data'}", "--images", str(place / "more"), "--out", str(out)]
    names_flags = ["--names", str(place / names)] if names else []
    return ["curate", str(place / "teacher.safetensors"), *flags, *names_flags, *more]


def fails(capsys, words: list[str]) -> str:
    assert main(words) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1, captured.err
    return captured.err


def cosine(place: Path, name: str, targets: list[str]) -> dict[str, float]:
    """File -> largest cosine with the prototypes of `targets`, one picture at a time through the unpacked network."""
    teacher, data = pretrained("glyph_teacher"), bnn.data.load(f"folder:{place / 'data'}").splits["train"]

    def feature(path: str) -> torch.Tensor:
        x = PREPROCESS.normalize(PREPROCESS.read(path)[None])
        return torch.nn.functional.normalize(teacher.features(x)[0], dim=0)

    found = {}
    for path in sorted((place / "more" / name).rglob("*.png")):
        prototypes = [torch.stack([feature(p) for p in data.paths if target in str(p)]).mean(0) for target in targets]
        found[path.name] = max(torch.cosine_similarity(feature(path), p, 0).item() for p in prototypes)
    return found


def test_pictures_at_the_right_distance_are_copied_and_train_a_network(place, tmp_path, capsys):
    assert main(arguments(place, tmp_path / "out", "--low", "0.82", "--high", "0.905", "--json")) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)["classes"]}
    parents = {"a circumflex": ["a grave"], "a macron": ["a grave", "zhe"], "zhe breve": ["zhe"]}
    assert rows.keys() == parents.keys()
    for name, targets in parents.items():
        cos = cosine(place, name, targets)
        kept = {file for file, c in cos.items() if 0.82 < c < 0.905}
        counts = {"too far": sum(c <= 0.82 for c in cos.values()), "too near": sum(c >= 0.905 for c in cos.values())}
        assert rows[name] == {"name": name, "images": 8, "kept": len(kept), **counts}
        copies = sorted((tmp_path / "out" / "images" / name / "deeper").iterdir())
        assert {path.name for path in copies} == kept
        assert all(p.read_bytes() == (place / "more" / name / "deeper" / p.name).read_bytes() for p in copies)
    assert sum(row["too near"] for row in rows.values()) > 0 < sum(row["too far"] for row in rows.values())
    assert (tmp_path / "out" / "table.md").read_text().startswith("|              | images | too far | kept |")
    words = f"--data folder:{place / 'data'} --auxiliary {tmp_path / 'out' / 'images'} --batch-size 8 --epochs 1"
    where = f"--neighbors {tmp_path / 'out' / 'neighbors.json'} --out {tmp_path / 'run'} --device cpu --image-size 16"
    assert main(["train", "granularity", *words.split(), *where.split()]) == 0
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["neighbor_map"] == json.loads((place / "names.json").read_text())


def test_a_run_knows_its_data_and_text_names_do(place, tmp_path, capsys):
    run = tmp_path / "run"
    words = f"--data folder:{place / 'data'} --image-size 16 --batch-size 8 --epochs 1 --device cpu --out {run}"
    assert main(["train", "plain", *words.split()]) == 0
    (tmp_path / "names.txt").write_text("a grave: a circumflex, a macron\n\nzhe: squares\n")
    flags = ["--names", str(tmp_path / "names.txt"), "--images", str(place / "more"), "--low", "-1", "--high", "1"]
    assert main(["curate", str(run), *flags, "--out", str(tmp_path / "out")]) == 0
    assert "| squares " in capsys.readouterr().out
    assert len(list((tmp_path / "out" / "images").rglob("*.png"))) == 24
    found = json.loads((tmp_path / "out" / "neighbors.json").read_text())
    assert found == {"a grave": ["a circumflex", "a macron"], "zhe": ["squares"]}


@pytest.mark.parametrize(
    ("more", "names", "message"),
    [
        ([], '{"cow": ["squares"]}', "neighbors: the map names 'cow', the data has no such class"),
        ([], '{"zhe": ["a grave"]}', "neighbors: 'a grave' can't be a neighbor"),
        ([], '{"zhe": ["cow"]}', "has no images of cow; add a directory of them or edit the map"),
        ([], '{"zhe": ["squares"]}', "--low 0.7 --high 0.98: no picture of 'squares' lies between (its cosines are 0."),
        (["--low", "0.99"], None, "--low: expected -1 <= low < high <= 1; got (0.99, 0.98)"),
        (["--endpoint", "http://localhost:1"], None, "bnn curate: give --names FILE or --endpoint URL, one of them"),
        (["--names-per-class", "0", "0", "0"], None, "--names-per-class: expected 0 or more, not all 0"),
        (["--images", "nowhere"], None, "--images: no such folder: nowhere"),
    ],
)
def test_wrong_use_is_one_line_and_writes_nothing(place, tmp_path, capsys, more, names, message):
    path = tmp_path / "names.json"
    path.write_text(names or (place / "names.json").read_text())
    assert message in fails(capsys, arguments(place, tmp_path / "out", *more, names=str(path)))
    assert not (tmp_path / "out").exists()


def test_what_is_there_stays(place, tmp_path, capsys):
    (tmp_path / "mine.txt").write_text("mine")
    assert fails(capsys, arguments(place, tmp_path)) == f"bnn: {tmp_path} exists: choose another --out\n"
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


@pytest.fixture
def model():
    """A language model on localhost: its URL, what it was asked, and how it answers."""
    asked, answers = [], {}

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked.append((self.path, self.headers.get("Authorization"), body))
            name = next(name for name in answers if repr(name) in body["messages"][0]["content"])
            status, content = answers[name]
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps({"choices": [{"message": {"content": content}}]}).encode())

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/v1", asked, answers
    server.shutdown()
    server.server_close()


def test_names_from_an_endpoint(place, tmp_path, capsys, model, monkeypatch):
    url, asked, answers = model
    answers["a grave"] = 200, 'Sure:\n["a circumflex", "A Circumflex", "zhe", "../more", "a ring", 3]'
    answers["zhe"] = 200, "1. zhe breve\n- Zhe\n* squares\n"
    monkeypatch.setenv("MY_KEY", "secret")
    more = ["--endpoint", url + "/", "--llm", "small", "--key-variable", "MY_KEY", "--names-per-class", "9", "9", "9"]
    assert main(arguments(place, tmp_path / "out", *more, "--low", "-1", names="")) == 0
    found = json.loads((tmp_path / "out" / "neighbors.json").read_text())
    assert found == {"a grave": ["a circumflex"], "zhe": ["zhe breve", "squares"]}  # those there is a folder for
    assert sorted(path.name for path in (tmp_path / "out" / "images").iterdir()) == sorted(sum(found.values(), []))
    assert [path for path, _, _ in asked] == ["/v1/chat/completions"] * 2
    assert all(key == "Bearer secret" and body["model"] == "small" for _, key, body in asked)
    assert "Name 9 " in asked[0][2]["messages"][0]["content"]

    network = ["curate", str(place / "teacher.safetensors"), "--data", f"folder:{place / 'data'}"]
    assert main([*network, "--endpoint", url, "--llm", "small", "--out", str(tmp_path / "names")]) == 0
    assert [path.name for path in (tmp_path / "names").iterdir()] == ["neighbors.json"]  # no --images: names only
    assert asked[-1][1] is None  # no key, no header
    found = json.loads((tmp_path / "names" / "neighbors.json").read_text())
    assert found["a grave"] == ["a circumflex", "../more", "a ring"]


def test_an_endpoint_that_does_not_answer_is_named(model):
    url, _, answers = model
    answers["zhe"] = 401, "no"
    with pytest.raises(ValueError, match=f"--endpoint {url}: HTTP Error 401"):
        _propose.propose(url, "small", "NO_SUCH_KEY", ["zhe"], [3])
    answers["zhe"] = 200, None
    with pytest.raises(ValueError, match="expected an answer with choices"):
        _propose.propose(url, "small", "NO_SUCH_KEY", ["zhe"], [3])
    with pytest.raises(ValueError, match="--endpoint http://127.0.0.1:9: .*refused"):
        _propose.propose("http://127.0.0.1:9", "small", "NO_SUCH_KEY", ["zhe"], [3])
    with pytest.raises(ValueError, match="--endpoint: expected http:// or https://; got 'file:///etc'"):
        _propose.propose("file:///etc", "small", "NO_SUCH_KEY", ["zhe"], [3])


def test_the_shipped_table_is_what_the_teacher_says():
    """For a few characters: the nearest candidates, of those that are neither too far nor too near."""
    table = lookalikes._table()
    chars = glyphs.pool("target")[:2] + "".join(table["lookalikes"][char] for char in glyphs.pool("target")[:2])
    codes = list(dict.fromkeys(map(ord, chars)))
    found = _lookalikes.glyph_prototypes(codes)
    for k, char in enumerate(glyphs.pool("target")[:2]):
        cos = [found[k] @ found[codes.index(ord(other))] for other in table["lookalikes"][char]]
        assert 0.7 < cos[-1] and cos[0] < 0.98
        assert all(a >= b - 1e-5 for a, b in zip(cos, cos[1:], strict=False))
