"""A process of the `bnn` command that a test can interrupt."""

import signal
import subprocess
import sys


def start(*arguments: str, cwd, environment) -> subprocess.Popen:
    """Ctrl-C reaches it also where the tests run in the background of a shell, whose children ignore SIGINT."""
    return subprocess.Popen(
        [sys.executable, "-m", "bnn", *arguments],
        cwd=cwd,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
