"""The training loop on Hugging Face Accelerate."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from bnn.training import seed as seeds
from bnn.training.device import Device
from bnn.training.distributed import mean_across, synchronize_batch_norm
from bnn.training.progress import Progress
from bnn.training.run import Run
from bnn.training.sampler import BatchSampler

ROWS_PER_EPOCH = 4  # rows of split "train" in metrics.jsonl

Batch = dict  # what the data set returns for a list of indices, plus "epoch" (int) and "progress" (0 to 1)
Step = Callable[[Batch], dict[str, Tensor]]


class _Step(nn.Module):
    """What DistributedDataParallel wraps: its forward is the recipe's step, its parameters are all that is trained."""

    def __init__(self, modules: nn.Module, step: Step, autocast: torch.autocast) -> None:
        super().__init__()
        self.trained, self.step, self.autocast = modules, step, autocast

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        with self.autocast:
            values = self.step(batch)
        return {name: value.to(torch.promote_types(value.dtype, torch.float32)) for name, value in values.items()}


def fit(
    run: Run,
    phase: str,
    modules: nn.Module,
    step: Step,
    dataset: torch.utils.data.Dataset,
    sampler: BatchSampler,
    optimizer: torch.optim.Optimizer,
    device: Device,
    *,
    epochs: int,
    evaluate: Callable[[], dict[str, float]] | None = None,
    float32: bool = False,
) -> None:
    """Train `modules` in place for `epochs`; continue from the last checkpoint of `phase` if there is one.

    The learning rate of every parameter group falls from its start to 0 along half a cosine, step by step. After every
    epoch the weights, the optimizer and the number of the epoch are saved; all else follows from (seed, epoch).

    Args:
        run: the folder that gets metrics and checkpoints.
        phase: name of the checkpoint and of the rows in metrics.jsonl.
        modules: everything that is trained (a ModuleDict if several); moved to the device, channels-last.
        step: batch -> dict with key "loss" (a scalar, mean over the images); the other scalars are logged. It computes
            with `modules` by closure.
        dataset: returns a batch (a dict of tensors) from `__getitems__`.
        sampler: the batches; its epoch is set here.
        optimizer: over the parameters of `modules`.
        evaluate: called after each epoch with `modules` in eval mode; its figures are logged as split "val".
        float32: no autocast whatever the run's precision.

    Raises:
        ValueError: the batch does not divide by the number of processes.
        FloatingPointError: the loss is not finite.
    """
    if sampler.batch_size % device.processes:
        raise ValueError(f"--batch-size {sampler.batch_size} does not divide by the {device.processes} processes")
    modules.to(device.torch_device).to(memory_format=torch.channels_last)
    first = _restore(run, phase, modules, optimizer)
    if first >= epochs:
        return
    run.track()
    accelerator = device.accelerator
    synchronize_batch_norm(modules, device.torch_device)
    wrapped = accelerator.prepare_model(_Step(modules, step, device.autocast(not float32)))
    stepper = accelerator.prepare_optimizer(optimizer)
    loader = accelerator.prepare_data_loader(
        torch.utils.data.DataLoader(dataset, batch_sampler=sampler, collate_fn=_whole)
    )
    total = epochs * len(sampler)
    progress = Progress(phase, epochs, len(sampler), first, device.main)
    for epoch in range(first, epochs):
        seeds.seed_torch(sampler.seed, phase, epoch, accelerator.process_index)
        sampler.epoch = epoch
        modules.train()
        window = _Window(run, phase, epoch, len(sampler))
        for number, batch in enumerate(loader, start=epoch * len(sampler)):
            set_learning_rate(optimizer, 0.5 * (1 + math.cos(math.pi * number / total)))
            values = wrapped({**batch, "epoch": epoch, "progress": number / total})
            accelerator.backward(values["loss"])
            stepper.step()
            stepper.zero_grad()
            window.add(number + 1, values)
            progress.step(window.latest)
        scores = _evaluate(evaluate, modules)
        if scores:
            run.log(scores, step=number + 1, epoch=epoch, split="val", phase=phase)
        progress.epoch(epoch, {**window.latest, **{f"val {k}": v for k, v in scores.items() if k in ("mean", "ece")}})
        run.save_state(phase, _state(modules, optimizer, epoch + 1, finished=epoch + 1 == epochs))
    progress.close()
    accelerator.free_memory()


def set_learning_rate(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Set every group's rate to `factor` times the rate it was made with."""
    for group in optimizer.param_groups:
        group["lr"] = factor * group.setdefault("initial_lr", group["lr"])


def _whole(batch: Any) -> Any:  # a DataLoader expects a list to collate; the data set returns the batch
    return batch


def _state(modules: nn.Module, optimizer: torch.optim.Optimizer, epoch: int, finished: bool) -> dict:
    return {
        "epoch": epoch,  # schedule, batches, augmentation and random numbers are functions of (seed, phase, epoch)
        "finished": finished,
        "modules": modules.state_dict(),
        "optimizer": optimizer.state_dict(),
    }


def _restore(run: Run, phase: str, modules: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    state = run.load_state(phase)
    if state is None:
        return 0
    modules.load_state_dict(state["modules"])
    optimizer.load_state_dict(state["optimizer"])
    return state["epoch"]


def _evaluate(evaluate: Callable[[], dict[str, float]] | None, modules: nn.Module) -> dict[str, float]:
    if evaluate is None:
        return {}
    modules.eval()
    return evaluate()


class _Window:
    """Means of what `step` returns, over a quarter of an epoch and all processes, as rows of metrics.jsonl."""

    def __init__(self, run: Run, phase: str, epoch: int, steps: int) -> None:
        self.run, self.phase, self.epoch, self.steps = run, phase, epoch, steps
        self.every = max(1, steps // ROWS_PER_EPOCH)
        self.names: list[str] = []
        self.sum: Tensor | None = None
        self.count = 0
        self.latest: dict[str, float] = {}

    def add(self, step: int, values: dict[str, Tensor]) -> None:
        row = torch.stack([value.detach() for value in values.values()])
        self.names = list(values)
        self.sum = row if self.sum is None else self.sum + row
        self.count += 1
        if self.count == self.every:
            self._write(step, self.sum / self.count)

    def _write(self, step: int, row: Tensor) -> None:
        means = mean_across(row).tolist()
        self.latest = dict(zip(self.names, means, strict=True))
        self.sum, self.count = None, 0
        if not math.isfinite(self.latest["loss"]):
            raise FloatingPointError(
                f"the loss of phase {self.phase} is {self.latest['loss']} at step {step}: "
                "lower --lr or use --precision no"
            )
        self.run.log(self.latest, step=step, epoch=self.epoch, split="train", phase=self.phase)
