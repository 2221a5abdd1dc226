"""The shared suite: every token mechanism on the same small tasks, by one protocol.

  python -m experiments.suite --mechanisms dot_product lightning2 --tasks mqar parity

`problems` lists the tasks and their sizes, `training` has the protocol, `rows` keeps
what is measured (a row is a mechanism on a task), and `page` writes results/suite.json
and docs/suite.md: accuracy, state, parameters and seconds of all mechanisms.
"""
