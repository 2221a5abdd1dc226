"""The mean of the symmetric InfoNCE losses of several kinds of queries.

Chuong Huynh et al. CoLLM. arXiv:2503.19910, section 3.3: the kinds have equal weights.
"""

import jax
import jax.numpy as jnp

from experiments.training.objectives import info_nce


def totals(outputs: jax.Array, batch: dict) -> dict[str, jax.Array]:
  """Returns the sum of the pairs' mean losses in nats, and the number of pairs.

  Args:
    outputs: logits (kinds, B, B) of queries and items; pair n is right.
    batch: with "label" (B,), -1 at pairs that only pad the batch.
  """
  sums = jax.vmap(lambda logits: info_nce.totals(logits, batch))(outputs)
  return jax.tree.map(jnp.mean, sums)
