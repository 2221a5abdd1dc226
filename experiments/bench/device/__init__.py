"""The GPU kernels, proved and timed on a machine without Triton.

On any host, in the project's folder:

  python -m experiments.bench device --export FOLDER

writes the kernels and what proves them, and the files that run them. On a machine
with an NVIDIA H100 or H200, numpy, jax of the same version with its CUDA plugin,
flatbuffers and the `ptxas` of CUDA 13.0 or newer (and PyTorch, for its times):

  python3 FOLDER/check.py --out OUT

which proves for a minute, then times, as far as --seconds go; each step is at once a
line of OUT/results.jsonl. With --dry it needs no GPU and only finds what is missing or
cannot be lowered. Back on the host

  python -m experiments.bench device --collect OUT

makes results/bench_device_<chip>.json of it and prints the fastest tiles.
"""
