"""Reads compiled kernels: a module each, with `tpu`, `gpu` and `jobs`.

`tpu` and `gpu` print a table and return (its rows, whether its bounds hold); `jobs`
lists what `lowering` compiles. The folder's listing is the register: a module has the
name of its pallas_kernels package, or of one problem that packages are compared on.
"""
