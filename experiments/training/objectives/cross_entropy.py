"""Cross entropy of classes, of tokens, of whole examples or of pixels."""

import jax
import jax.numpy as jnp

_LABELS = ("labels", "label", "target")


def totals(outputs: jax.Array, batch: dict) -> dict[str, jax.Array]:
  """Returns the sums of cross entropy in nats, of hits, and of the labels that count.

  Args:
    outputs: logits (..., classes).
    batch: with the array "labels", "label" or "target", (...), -1 where nothing is
      asked.
  """
  labels = next(batch[name] for name in _LABELS if name in batch)
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
