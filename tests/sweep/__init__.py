"""A random sweep over features, shapes and magnitudes, against float64 NumPy.

  python -m tests.sweep                        1,000 problems of each kernel
  python -m tests.sweep --seed 17              problem 17 in each kernel, described
  python -m tests.sweep --kernel flash_triton --count 50

A problem is a pure function of its seed. `make sweep` runs all; the suite runs a few.
"""
