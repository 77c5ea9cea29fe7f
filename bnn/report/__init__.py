"""One HTML file that compares finished runs: tables, figures, commands. It opens offline and holds no script."""

from bnn.report.page import render
from bnn.report.runs import Evaluated, check_same_data

__all__ = ["Evaluated", "check_same_data", "render"]
