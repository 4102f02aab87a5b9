"""Training: recipe -> Lightning run, exact resume, checkpoints, progress."""
