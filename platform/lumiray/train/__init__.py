"""Training: launch, worker, loop, engines, checkpoints."""
