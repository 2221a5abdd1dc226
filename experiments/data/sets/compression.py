"""Compression: store random symbols, then give them back by their positions.

Michael Poli et al. Mechanistic Design and Scaling of Hybrid Architectures (MAD). 2024.
arXiv:2403.17844, section 3.1; https://github.com/athms/mad-lab at 0f49a452.

MAD's model is an autoencoder: T - 1 random symbols of V - 1 and the compression symbol
V - 1 are read; the last token's state alone, with a sinusoid of position i added, goes
through an MLP of two layers, which tells symbol i. For a language model the decoder
becomes tokens: after n random symbols and the compression symbol come n queries, of
which query i is a symbol of its own, V + i, for position i, and has symbol i as its
label. So there are V + n symbols and 2n + 1 tokens, T = n + 1 is MAD's length, and as
in MAD no query depends on the answers before it.

A recurrent mechanism has to answer from its state, as in MAD. A mechanism that keeps
its keys and values answers from them, so that the task separates the sizes of states,
and tells about softmax attention only whether it finds a position. MAD asks for the
compression symbol too, which is always the same.

MAD: V 16, T 32, 12,800 examples of training, 1,280 of test; harder with V 32, 64, 128,
with T 64, 128, 256, or with 6,400 to 800 examples. Not here: MAD's symbols of noise,
which its settings do not use.
"""

import functools

import numpy as np

from experiments.data import generated
from experiments.data.generated import Example
from experiments.data.task import Task, check_least


def task(
  *,
  vocab: int = 16,  # V, without the queries
  length: int = 63,  # 2n + 1
  examples: int = 12_800,  # of the split train
  held_out: int = 1_280,  # of each other split
  seed: int = 0,
) -> Task:
  """Returns the task; ValueError if vocab < 2, or the length is even or below 3."""
  check_least(vocab=(vocab, 2), length=(length, 3))
  if length % 2 == 0:
    raise ValueError(
      f"length = {length}; n symbols, one between and n queries need an odd length"
    )
  return generated.task(
    "compression",
    functools.partial(example, vocab=vocab, length=length),
    vocab=vocab + length // 2,
    length=length,
    examples=examples,
    held_out=held_out,
    seed=seed,
  )


def example(rng: np.random.Generator, *, vocab: int, length: int) -> Example:
  """Draws tokens and labels, int32, (length,)."""
  stored = rng.integers(vocab - 1, size=length // 2)
  queries = vocab + np.arange(stored.size)
  tokens = np.concatenate([stored, [vocab - 1], queries]).astype(np.int32)
  labels = np.full(length, -1, np.int32)
  labels[-stored.size :] = stored
  return {"tokens": tokens, "labels": labels}
