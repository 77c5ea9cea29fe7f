"""Train a network on noise in float64, as one of the processes that torchrun starts. Usage: worker.py FOLDER [kill]."""

import os
import signal
import sys
from pathlib import Path

import torch
from torch.nn import functional as F

from bnn import models
from bnn.data import TensorImages
from bnn.training import device as devices
from bnn.training.loop import fit
from bnn.training.run import Run
from bnn.training.sampler import BatchSampler

torch.manual_seed(0)
folder, kill = Path(sys.argv[1]), sys.argv[2:] == ["kill"]
device = devices.start("cpu", "no")
random = torch.Generator().manual_seed(1)
pixels = torch.randint(0, 256, (128, 1, 16, 16), generator=random, dtype=torch.uint8)
images = TensorImages(pixels, torch.randint(0, 10, (128,), generator=random))
model = models.build("resnet_tiny", 10, 1, 16).double()
seen = 0


def step(batch):
    global seen
    seen += 1
    if kill and seen == 7:  # in the middle of the second epoch
        os.kill(os.getpid(), signal.SIGKILL)
    return {"loss": F.cross_entropy(model(batch["image"].double() / 255 - 0.5), batch["label"])}


run = Run(folder, {"recipe": "worker"}, resume=True, main=device.main)
device.accelerator.wait_for_everyone()
optimizer = torch.optim.Adam(model.parameters(), lr=2.5e-3)
fit(run, "phase", model, step, images, BatchSampler(images.labels, 32, seed=0), optimizer, device, epochs=3)
run.save_model(model)
