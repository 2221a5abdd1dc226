"""The shared suite: every mechanism on the same small tasks, by one protocol.

  python -m experiments.suite --mechanisms dot_product lightning2 --tasks mqar_8 parity

`problems` lists the tasks and their sizes, of tokens, of long contexts and of images;
`tokens`, `long_tokens` and `images` have the models and examples of each part;
`training` has the protocol, and `rows` keeps what is measured (a row is a mechanism on
a task) and writes results/suite.json, from which docs/suite.md is made.
"""
