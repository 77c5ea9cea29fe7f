"""What a person sees while a phase trains."""

import sys


class Progress:
    """A bar on a terminal, else a line an epoch; on stderr, from the main process only."""

    def __init__(self, phase: str, epochs: int, steps: int, first: int, main: bool) -> None:
        from tqdm import tqdm

        self.phase, self.epochs, self.main = phase, epochs, main
        self.bar = None
        if main and sys.stderr.isatty():
            self.bar = tqdm(total=epochs * steps, initial=first * steps, desc=phase, unit="step", dynamic_ncols=True)

    def step(self, latest: dict[str, float]) -> None:
        if self.bar is not None:
            self.bar.update()
            if latest:
                self.bar.set_postfix({"loss": f"{latest['loss']:.3f}"}, refresh=False)

    def epoch(self, epoch: int, values: dict[str, float]) -> None:
        text = "  ".join(f"{name} {value:.4g}" for name, value in values.items())
        if self.bar is not None:
            self.bar.write(f"{self.phase} epoch {epoch + 1}/{self.epochs}  {text}", file=sys.stderr)
        elif self.main:
            print(f"{self.phase} epoch {epoch + 1}/{self.epochs}  {text}", file=sys.stderr, flush=True)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()
