"""`bnn train RECIPE`: parse the recipe's Config, run it, print its table."""

import json
import shlex
import sys

from bnn import recipes
from bnn.commands._parse import as_json, parse
from bnn.recipes._report import markdown


def main(argv: list[str]) -> int:
    """Train; see `bnn train RECIPE --help`."""
    if not argv or argv[0] in ("-h", "--help"):
        print("usage: bnn train RECIPE [flags]; recipes: " + ", ".join(recipes.NAMES))
        return 0 if argv else 2
    recipe = recipes.find(argv[0])
    rest, wants_json = as_json(argv[1:])
    config = parse(recipe.Config, rest, f"bnn train {argv[0]}")
    try:
        result = recipe.run(config)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"interrupted; continue with: {continuation(argv)}") from None
    if result.main:
        print(json.dumps(result.rows, indent=2) if wants_json else markdown(result.rows))
        print(f"run folder: {result.folder}", file=sys.stderr)
    return 0


def continuation(argv: list[str]) -> str:
    """The command that continues an interrupted `bnn train`."""
    kept = [token for token in argv if token not in ("--overwrite", "--resume")]
    return shlex.join(["bnn", "train", *kept, "--resume"])
