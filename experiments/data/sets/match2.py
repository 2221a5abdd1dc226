"""Match2: tell at every position whether another number completes it.

Clayton Sanford, Daniel Hsu, Matus Telgarsky. Representational Strengths and Limitations
of Transformers. 2023. arXiv:2306.02896.

N numbers x_i, each of 1..M-1 with equal probability; the label at position i is 1 if
some j has x_i + x_j = 0 modulo M, else 0; j = i is allowed, and never happens with M
odd. With `causal` only j <= i count, so that a language model sees all it needs;
without, all positions do, as in the paper, and a causal model cannot tell.

One softmax layer of any width that holds M numbers can. Without `causal` the share of
ones is near 1 - exp(-N/M), 0.42 for N 20 and M 37, and one half at M = N / ln 2; with
`causal` it is 0.23. Compare accuracies above the more frequent label's share.
"""

import numpy as np

from experiments.data import matching
from experiments.data.task import Task


def task(
  *,
  vocab: int = 37,  # M
  length: int = 20,  # N
  causal: bool = True,
  examples: int = 100_000,  # of the split train
  held_out: int = 1_000,  # of each other split
  seed: int = 0,
) -> Task:
  """Returns the task; ValueError if vocab is even or below 3, or length < 1."""
  sizes = {"examples": examples, "held_out": held_out, "seed": seed}
  options = {"vocab": vocab, "length": length, "causal": causal}
  return matching.task("match2", _rule, **options, **sizes)


def _rule(x: np.ndarray, vocab: int) -> np.ndarray:
  """Returns (N, N): whether number j completes number i."""
  return (x[:, None] + x[None, :]) % vocab == 0
