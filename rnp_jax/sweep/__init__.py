"""Many checkpoints: which, in what order, read apart, run once each and never lost."""
