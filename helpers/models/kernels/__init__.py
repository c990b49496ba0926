"""The measured shortcuts of the processor, kept apart: docs/kernels.md explains them with shapes."""
