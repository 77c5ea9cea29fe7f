import pytest
import torch

from bnn import metrics
from bnn.report.runs import ASIDE, Evaluated, check_same_data, describe, group
from bnn.robustness import evaluate_under
from bnn.training.run import NOT_COMPARED

CONFIG = {
    "recipe": "plain", "data": "glyphs", "seed": 0, "loss": "ce", "epochs": 2, "command": "bnn train", "out": None,
    "network": {"name": "reactnet_tiny"}, "classes": ["a", "b", "c"], "class_counts": [120, 40, 4],
}  # fmt: skip


def sample(images=(8, 8, 8)):
    labels = torch.arange(3).repeat_interleave(torch.tensor(images))
    logits = torch.randn(len(labels), 3)
    logits[torch.arange(len(labels)), labels] += 1
    return logits, labels


def run(name, table=(), origins=(), **changes):
    return Evaluated(name, CONFIG | changes, list(table), *sample(), origins=list(origins))


def test_a_class_without_test_images_has_no_share():
    logits, labels = sample((4, 4, 0))
    found = Evaluated("a", CONFIG, [], logits, labels).priors
    assert list(found) == ["balanced", "as in training", "reversed"]
    p = logits.double().softmax(1)
    assert found["balanced"]["ece"] == pytest.approx(metrics.ece(p, labels))
    shares = torch.tensor([0.75, 0.25, 0])
    assert found["as in training"] == pytest.approx(evaluate_under(shares, logits, labels, CONFIG["class_counts"]))


def test_what_a_resume_does_not_compare_groups_do_not_either():
    assert set(NOT_COMPARED) < set(ASIDE)


def test_runs_that_differ_in_the_seed_only_are_one_entry():
    members = [run("ce-s0"), run("ce-s1", seed=1), run("bs-s0", loss="balanced_softmax"), run("x", epochs=3)]
    assert {label: [r.name for r in runs] for label, runs in group(members).items()} == {
        "ce": ["ce-s0", "ce-s1"], "bs-s0": ["bs-s0"], "x": ["x"],
    }  # fmt: skip
    assert list(group([run("seed-0"), run("seed-1", seed=1)])) == ["plain"]
    assert list(group([run("0"), run("1", seed=1), run("8", loss="x"), run("9", loss="x", seed=1)])) == [
        "plain",
        "plain'",
    ]


def test_a_run_is_alike_if_those_it_came_from_are():
    seeds = [run(f"p2p-{s}", recipe="p2p", **{"from": f"runs/{s}"}, origins=[CONFIG | {"seed": s}]) for s in (0, 1)]
    other = run("p2p-2", recipe="p2p", **{"from": "runs/2"}, origins=[CONFIG | {"loss": "balanced_softmax"}])
    assert [[r.name for r in runs] for runs in group([*seeds, other]).values()] == [["p2p-0", "p2p-1"], ["p2p-2"]]


def test_other_data_is_refused_by_name():
    check_same_data({"a": CONFIG, "b": CONFIG | {"split": "train", "seed": 3}})
    with pytest.raises(ValueError, match=r"a and c differ in draw \(1 and 2\): compare runs on one data set"):
        check_same_data({"a": CONFIG | {"draw": 1}, "b": CONFIG | {"draw": 1}, "c": CONFIG | {"draw": 2}})
    with pytest.raises(ValueError, match="a and b differ in classes: compare"):
        check_same_data({"a": CONFIG, "b": CONFIG | {"classes": ["a", "b", "d"]}})


def test_a_table_that_does_not_agree_is_noticed():
    right = run("a")
    rows = [{"name": "teacher", "accuracy": 99.0}, {"name": "student", "accuracy": right.figures["accuracy"]}]
    assert Evaluated("a", CONFIG, rows, right.logits, right.labels).disagreement == 0
    assert Evaluated("a", CONFIG, rows[:1], right.logits, right.labels).disagreement > 1
    assert describe(right) == "plain · reactnet_tiny · 2 epochs · seed 0"
