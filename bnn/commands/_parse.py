"""A dataclass as a command line, through tyro; every mistake is one line."""

import contextlib
import dataclasses
import difflib
import io
import re
import shlex
from typing import Any, TypeVar, get_args, get_type_hints

import tyro

T = TypeVar("T")


def parse(config: type[T], argv: list[str], prog: str) -> T:
    """An instance of the dataclass from its flags.

    Raises:
        ValueError: an unknown flag (those that exist are listed), or a value that does not fit.
        SystemExit: after --help.
    """
    known = flags(config)
    for token in argv:
        if is_flag(token) and token not in ("-h", "--help"):
            _check_flag(token.split("=")[0], known, prog)
    messages = io.StringIO()
    try:
        with contextlib.redirect_stderr(messages):
            about = f"{config.__doc__} With --json the result is JSON."
            return tyro.cli(config, args=argv, prog=prog, description=about)
    except SystemExit as leaving:
        if leaving.code in (0, None):
            raise
    raise ValueError(_one_line(messages.getvalue(), prog))


def flags(config: type) -> list[str]:
    """The flags of a dataclass, as tyro names them."""
    names = []
    hints = get_type_hints(config, include_extras=True)
    for field in dataclasses.fields(config):
        markers = get_args(hints[field.name])[1:]
        if any("Positional" in str(marker) for marker in markers):
            continue
        settings = [marker for marker in markers if hasattr(marker, "aliases")]
        name = next((s.name for s in settings if s.name), field.name)
        names.append("--" + name.replace("_", "-"))
        if bool in (hints[field.name], *get_args(hints[field.name])[:1]):
            names.append("--no-" + name.replace("_", "-"))
        names += [alias for s in settings for alias in s.aliases or ()]
    return names


def _check_flag(flag: str, known: list[str], prog: str) -> None:
    name = flag.replace("_", "-")
    if name in known:
        return
    close = difflib.get_close_matches(name, known, n=1)
    hint = f" (did you mean {close[0]}?)" if close else ""
    raise ValueError(f"{prog} has no flag {flag}{hint}; it has {' '.join(known)}")


def is_flag(token: str) -> bool:
    """Whether a token of a command line is a flag, not a value: -1 is none."""
    return token.startswith("-") and not _is_number(token)


def _is_number(token: str) -> bool:
    try:
        float(token)
    except ValueError:
        return False
    return True


def _one_line(box: str, prog: str) -> str:
    """The first paragraph of tyro's framed message."""
    body: list[str] = []
    for line in re.sub(r"\x1b\[[0-9;]*m", "", box).splitlines():
        text = line.strip("│╭╮╰╯ \t")
        if text.startswith("─") and body:
            break
        if text and not text.startswith("─"):
            body.append(text)
    return f"{prog}: {' '.join(body) or 'wrong arguments'} (see {prog} --help)"


def as_json(argv: list[str]) -> tuple[list[str], bool]:
    """The arguments without --json, and whether it was among them."""
    return [token for token in argv if token != "--json"], "--json" in argv


def given(config: Any) -> dict[str, Any]:
    """The fields of a config that are not None."""
    fields = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    return {name: value for name, value in fields.items() if value is not None}


def continuation(argv: list[str], resume: bool = True) -> str:
    """The command that continues an interrupted `bnn ARGV`; resume=False: the command itself."""
    kept = [token for token in argv if token not in ("--overwrite", "--resume")]
    return shlex.join(["bnn", *kept, *(["--resume"] if resume else [])])
