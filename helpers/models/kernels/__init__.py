"""The shortcuts of the processor, measured: docs/kernels.md explains them with shapes."""
