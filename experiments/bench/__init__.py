"""Benchmarks: wall-clock times on the CPU, compiled code for TPUs and GPUs."""
