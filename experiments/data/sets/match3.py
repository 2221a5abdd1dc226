"""Match3: tell at every position whether two other numbers complete it.

Clayton Sanford, Daniel Hsu, Matus Telgarsky. Representational Strengths and Limitations
of Transformers. 2023. arXiv:2306.02896.

N numbers x_i, each of 1..M-1 with equal probability; the label at position i is 1 if
some j and k have x_i + x_j + x_k = 0 modulo M, else 0; i, j and k may be equal. With
`causal` only j, k <= i count, so that a language model sees all it needs; without, all
positions do, as in the paper, and a causal model cannot tell.

One layer of pairwise attention needs a width, heads or precision that grow with N;
attention over triples does not. Without `causal` the share of ones is 0.57 for N 10 and
M 67, and near one half at M = N (N + 1) / (2 ln 2); with `causal` it is 0.25. Compare
accuracies above the more frequent label's share.
"""

import numpy as np

from experiments.data import matching
from experiments.data.task import Task


def task(
  *,
  vocab: int = 67,  # M
  length: int = 10,  # N
  causal: bool = True,
  examples: int = 100_000,  # of the split train
  held_out: int = 1_000,  # of each other split
  seed: int = 0,
) -> Task:
  """Returns the task; ValueError if vocab is even or below 3, or length < 1."""
  sizes = {"examples": examples, "held_out": held_out, "seed": seed}
  options = {"vocab": vocab, "length": length, "causal": causal}
  return matching.task("match3", _rule, **options, **sizes)


def _rule(x: np.ndarray, vocab: int) -> np.ndarray:
  """Returns (N, N, N): whether numbers j and k complete number i."""
  return (x[:, None, None] + x[:, None] + x) % vocab == 0
