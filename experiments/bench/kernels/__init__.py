"""Compiled kernels, read: a module each, with `tpu`, `gpu` and `lowering`.

Each of the three prints a table and gives (its rows, whether its bounds hold). The
folder's listing is the register: a module has the name of its pallas_kernels package,
or of one problem that packages are compared on.
"""
