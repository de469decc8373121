"""Plain PyTorch networks and a plain PyTorch RNP: what the differential tests and the benchmark compare against."""
