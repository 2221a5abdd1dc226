"""The symmetric InfoNCE loss of the pairs of a batch.

Aaron van den Oord, Yazhe Li, Oriol Vinyals. Representation Learning with Contrastive
Predictive Coding. 2018. arXiv:1807.03748; both ways as in CLIP, arXiv:2103.00020. The
wrong items of a pair are those of the other pairs of its batch, or of its part of a
batch where gradients are accumulated.
"""

import jax
import jax.numpy as jnp


def totals(outputs: jax.Array, batch: dict) -> dict[str, jax.Array]:
  """Returns the sum of the pairs' losses in nats, and the number of pairs.

  Args:
    outputs: logits (B, B) of queries and items; pair n is right.
    batch: with "label" (B,), -1 at pairs that only pad the batch.
  """
  real = batch["label"] >= 0
  logits = outputs.astype(jnp.float32)
  own = jnp.diagonal(logits)
  rows, columns = (
    jax.nn.logsumexp(jnp.where(other, logits, -jnp.inf), axis=axis)
    for axis, other in ((1, real[None, :]), (0, real[:, None]))
  )
  loss = jnp.where(real, (rows + columns) / 2 - own, 0)
  return {"loss": jnp.sum(loss), "count": jnp.sum(real, dtype=jnp.float32)}
