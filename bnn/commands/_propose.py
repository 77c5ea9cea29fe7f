"""Names of neighbors from a language model behind an OpenAI-compatible endpoint (POST URL/chat/completions)."""

import json
import os
import re
from collections.abc import Sequence
from typing import Any
from urllib.error import URLError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from bnn.data.neighbors import NeighborMap

SECONDS = 60  # to wait for an answer
PROMPT = """Name {count} fine-grained categories that look like the category {name!r} in a photograph and are not it:
the same kind of thing, told apart only by a close look. For 'tabby cat' these are ["Egyptian mau", "ocicat", "Bengal cat"].
Answer with a JSON array of {count} short names and nothing else."""  # noqa: E501


def propose(url: str, llm: str, key_variable: str, classes: Sequence[str], wanted: Sequence[int]) -> NeighborMap:
    """wanted[k] names for class k, fewer if the answer has no more that are no target class; one request a class.

    key_variable: environment variable with the key; none is sent if it is not set. Raises ValueError if the endpoint
    can't be reached, refuses, or answers in another form.
    """
    if urlsplit(url).scheme not in ("http", "https"):
        raise ValueError(f"--endpoint: expected http:// or https://; got {url!r}")
    taken = {name.casefold() for name in classes}
    found = {}
    for name, count in zip(classes, wanted, strict=True):
        if count:
            answer = _ask(url, llm, os.environ.get(key_variable), PROMPT.format(count=count, name=name))
            new = {other.casefold(): other for other in reversed(_names(answer)) if other.casefold() not in taken}
            found[name] = list(reversed(new.values()))[:count]
    return found


def _ask(url: str, llm: str, key: str | None, prompt: str) -> str:
    body = {"model": llm, "messages": [{"role": "user", "content": prompt}], "temperature": 0}
    headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {key}"} if key else {})}
    request = Request(url.rstrip("/") + "/chat/completions", json.dumps(body).encode(), headers)
    try:
        with urlopen(request, timeout=SECONDS) as response:
            content = json.load(response)["choices"][0]["message"]["content"]
    except (URLError, TimeoutError, ConnectionError) as problem:
        raise ValueError(f"--endpoint {url}: {problem}") from None
    except (ValueError, LookupError, TypeError):
        content = None
    if not isinstance(content, str):
        raise ValueError(f"--endpoint {url}: expected an answer with choices[0].message.content; got another form")
    return content


def _names(answer: str) -> list[str]:
    """The strings of the JSON array in an answer; without one, its lines less bullets and numbers."""
    array = re.search(r"\[.*\]", answer, re.DOTALL)
    try:
        found: Any = json.loads(array[0]) if array else None
    except json.JSONDecodeError:
        found = None
    if not isinstance(found, list):
        found = [re.sub(r"^\s*(?:[-*•]|\d+[.)])\s*", "", line) for line in answer.splitlines()]
    return [name.strip() for name in found if isinstance(name, str) and name.strip()]
