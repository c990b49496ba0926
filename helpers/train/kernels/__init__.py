"""The arithmetic of a training step with less work and less memory (docs/kernels.md)."""
