"""The shared suite: every token mechanism on the same small tasks, by one protocol.

  python -m experiments.suite --mechanisms dot_product lightning2 --tasks mqar_8 parity

`problems` lists the tasks and their sizes, `training` has the protocol, and `rows`
keeps what is measured (a row is a mechanism on a task) and writes results/suite.json.

Not here: a page of the rows. None was measured yet: within 600 steps softmax attention
did not learn the smallest recall task, so that sizes have to be chosen first.
"""
