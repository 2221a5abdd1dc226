"""In-context recall: tell the value of a key that came before with its value.

Michael Poli et al. Mechanistic Design and Scaling of Hybrid Architectures (MAD). 2024.
arXiv:2403.17844, section 3.1; https://github.com/athms/mad-lab at 0f49a452.

With V symbols and T tokens: the keys are 0..V/2-1, the values V/2..V-1. T/2 - 1 times a
key is drawn, and the value that it has in this example (drawn when the key is drawn for
the first time). A last pair repeats one of the keys drawn, each equally likely. The
label at a key that came before is its value; nothing else has a label. Without
`multi_query` V - 1 is a symbol before the last key, and only that key has a label.

With `every_token`, as in MAD, the split train labels every position with the next
token, whether it can be known or not; the other splits are as above. MAD cuts off the
last token, which has no label here.

MAD: V 16, T 128, 12,800 examples of training, 1,280 of test, batches of 128, 200
epochs; harder with V 32, 64, 128, with T 256, 512, 1,024, or with 6,400 to 800
examples.
"""

from experiments.data import recall
from experiments.data.task import Task


def task(
  *,
  vocab: int = 16,
  length: int = 128,
  multi_query: bool = True,
  every_token: bool = True,  # of the split train
  examples: int = 12_800,  # of the split train
  held_out: int = 1_280,  # of each other split
  seed: int = 0,
) -> Task:
  """Returns the task; ValueError if the length is odd or the vocabulary too small."""
  return recall.task(
    "in_context_recall",
    vocab=vocab,
    length=length,
    noise_vocab=0,
    noise=0.0,
    multi_query=multi_query,
    every_token=every_token,
    examples=examples,
    held_out=held_out,
    seed=seed,
  )
