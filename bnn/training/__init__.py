"""Mechanisms every recipe shares: the loop, the run folder, checkpoints, seeds, batches. They know no recipe."""
