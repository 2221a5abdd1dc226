"""Noisy recall: in-context recall among pairs of symbols that mean nothing.

Michael Poli et al. Mechanistic Design and Scaling of Hybrid Architectures (MAD). 2024.
arXiv:2403.17844, section 3.1; https://github.com/athms/mad-lab at 0f49a452.

As `in_context_recall`, but of the V symbols the last `noise_vocab` (but one, without
`multi_query`) are noise, and each of the T/2 - 1 first pairs is with probability
`noise` two symbols of noise, drawn independently; one pair, at a random place, never
is. The last pair repeats a key. MAD's code may draw the last pair as the one that is
never noise, and fails if then all others are; here it is one of the first.

MAD: V 32, of which 16 noise, T 128, noise 0.2, 12,800 examples; harder with V 48, 80,
144, with T 256, 512, 1,024, with 6,400 to 800 examples, or with noise 0.4, 0.6, 0.8.
"""

from experiments.data import recall
from experiments.data.task import Task


def task(
  *,
  vocab: int = 32,
  length: int = 128,
  noise_vocab: int = 16,
  noise: float = 0.2,  # share of the pairs
  multi_query: bool = True,
  every_token: bool = True,  # of the split train
  examples: int = 12_800,  # of the split train
  held_out: int = 1_280,  # of each other split
  seed: int = 0,
) -> Task:
  """Returns the task; ValueError if the length is odd or symbols are too few."""
  return recall.task(
    "noisy_recall",
    vocab=vocab,
    length=length,
    noise_vocab=noise_vocab,
    noise=noise,
    multi_query=multi_query,
    every_token=every_token,
    examples=examples,
    held_out=held_out,
    seed=seed,
  )
