"""Benchmarks: the CPU by the clock, TPUs and GPUs by what their compilers make."""
