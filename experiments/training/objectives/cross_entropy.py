"""Cross entropy of classes, of tokens or of whole examples."""

import jax
import jax.numpy as jnp


def totals(outputs: jax.Array, batch: dict) -> dict[str, jax.Array]:
  """Returns the sums of cross entropy in nats, of hits, and of the labels that count.

  Args:
    outputs: logits (..., classes).
    batch: with the array "labels", or "label", (...), -1 where nothing is asked.
  """
  labels = batch["labels"] if "labels" in batch else batch["label"]
  asked = labels >= 0
  logits = outputs.astype(jnp.float32)
  log = jax.nn.log_softmax(logits)
  picked = jnp.take_along_axis(log, jnp.maximum(labels, 0)[..., None], axis=-1)[..., 0]
  hit = asked & (logits.argmax(axis=-1) == labels)
  return {
    "loss": -jnp.sum(jnp.where(asked, picked, 0.0)),
    "hits": jnp.sum(hit, dtype=jnp.float32),
    "count": jnp.sum(asked, dtype=jnp.float32),
  }
