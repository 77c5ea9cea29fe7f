"""`bnn train RECIPE`: parse the recipe's Config, run it, print its table; `bnn train chain` runs several."""

import json
import sys

from bnn import recipes
from bnn.commands import chain
from bnn.commands._parse import as_json, continuation, parse
from bnn.recipes._report import markdown


def main(argv: list[str]) -> int:
    """Train; see `bnn train RECIPE --help`."""
    if not argv or argv[0] in ("-h", "--help"):
        print("usage: bnn train RECIPE [flags], bnn train chain CONFIG.toml; recipes: " + ", ".join(recipes.NAMES))
        return 0 if argv else 2
    try:
        return chain.main(argv[1:]) if argv[0] == "chain" else one(argv[0], argv[1:])
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"interrupted; continue with: {continuation(['train', *argv])}") from None


def one(recipe: str, argv: list[str]) -> int:
    """Run one recipe, print its table."""
    module = recipes.find(recipe)
    rest, wants_json = as_json(argv)
    result = module.run(parse(module.Config, rest, f"bnn train {recipe}"))
    if result.main:
        print(json.dumps(result.rows, indent=2) if wants_json else markdown(result.rows))
        print(f"run folder: {result.folder}", file=sys.stderr)
    return 0
