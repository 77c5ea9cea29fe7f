"""Lets `pytest bench` import `bench` and `python_tests`, as `python -m bench` does; an installed bnn goes first."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))
