import statistics

from bnn.report.runs import Evaluated
from bnn.report.tables import Cell, Column, band, plain_table, tabulate

VALUE = Column("value", lambda run: run.cost.get("x"), lambda run: run.cost.get("bounds"), better=1)


def run(name, x=None, bounds=None):
    config = {"recipe": "plain", "network": {"name": "net"}, "seed": 0}
    return Evaluated(name, config, [], None, None, cost={"x": x, "bounds": bounds})


def test_one_run_has_its_interval_several_their_spread():
    assert band([run("a", 5.0, (4.0, 7.0))], VALUE) == (5, 4, 7)
    assert band([run("a", 5.0)], VALUE) == (5, 5, 5)
    spread = statistics.stdev([2, 4, 9])
    assert band([run("a", x) for x in (2.0, 4.0, 9.0)], VALUE) == (5, 5 - spread, 5 + spread)
    assert band([run("a")], VALUE) is None


def test_the_best_entry_is_marked_and_seeds_stand_below_theirs():
    table = tabulate(
        {"a": [run("a", 5.0, (4.0, 7.0))], "b": [run("b0", 6.0), run("b1", 8.0)], "c": [run("c")]}, [VALUE]
    )
    assert table.columns == ["", "value"] and table.single == [False, False, True, True, False]
    assert [row[0].text for row in table.rows] == ["a", "b", "b0", "b1", "c"]
    assert [row[1] for row in table.rows] == [
        Cell("5.0", "4.0 to 7.0"), Cell("7.0 ± 1.4", "", True), Cell("6.0"), Cell("8.0"), Cell("–"),
    ]  # fmt: skip
    assert table.rows[1][0].note == "mean ± std, 2 seeds"


def test_where_all_are_equal_none_is_the_best():
    table = tabulate({"a": [run("a", 5.0)], "b": [run("b", 5.0)]}, [VALUE])
    assert not any(cell.best for row in table.rows for cell in row)


def test_rows_of_other_commands_are_shown_as_they_are():
    table = plain_table([{"set": "x", "auroc": 71.234}, {"set": "y", "n_seen": 3, "ok": None}])
    assert table.columns == ["set", "auroc", "n seen", "ok"]
    assert [[cell.text for cell in row] for row in table.rows] == [["x", "71.23", "–", "–"], ["y", "–", "3", "–"]]
