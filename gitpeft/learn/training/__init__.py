"""One training run: loop, optimisers, checkpoints, memory and cost."""
