"""Cross entropy of classes, of tokens, of whole examples or of pixels.

A network that has a second classifier in training gives (logits, auxiliary logits); the
loss is then that of the logits plus AUXILIARY times that of the others, as in OverLoCK,
arXiv:2502.20087. Hits are those of the logits alone.
"""

import jax
import jax.numpy as jnp

AUXILIARY = 0.4

_LABELS = ("labels", "label", "target")


def totals(
  outputs: jax.Array | tuple[jax.Array, jax.Array], batch: dict
) -> dict[str, jax.Array]:
  """Returns the sums of cross entropy in nats, of hits, and of the labels that count.

  Args:
    outputs: logits (..., classes), or two of that shape.
    batch: with the array "labels", "label" or "target", (...), -1 where nothing is
      asked.
  """
  if isinstance(outputs, tuple):
    found, other = (totals(logits, batch) for logits in outputs)
    return found | {"loss": found["loss"] + AUXILIARY * other["loss"]}
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
