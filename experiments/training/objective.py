"""What is minimised and what is reported, for tokens and for images."""

from typing import Any

import jax
import jax.numpy as jnp

from attnjax.nn import running


def predict(
  kind: str,
  model: Any,
  stats: Any,
  batch: dict,
  key: jax.Array | None = None,
  *,
  train: bool = False,
):
  """(logits, labels, new statistics); labels are -1 where nothing is asked."""
  how = {"key": key, "stats": stats, "train": train}
  if kind == "images":
    logits, stats = running.apply(model, batch["image"], **how)
    return logits, batch["label"], stats
  packing = {n: batch[n] for n in ("segment_ids", "positions") if n in batch}
  logits, stats = running.apply(model, batch["tokens"], **how, **packing)
  return logits, batch["labels"], stats


def sums(
  kind: str,
  model: Any,
  stats: Any,
  batch: dict,
  key: jax.Array | None = None,
  *,
  train: bool = False,
) -> tuple[dict, Any]:
  """(sums over the labelled places, new statistics).

  The sums are of cross entropy in nats, of hits, and of ones.
  """
  logits, labels, stats = predict(kind, model, stats, batch, key, train=train)
  asked = labels >= 0
  logits = logits.astype(jnp.float32)
  log = jax.nn.log_softmax(logits)
  picked = jnp.take_along_axis(log, jnp.maximum(labels, 0)[..., None], axis=-1)[..., 0]
  hit = asked & (logits.argmax(axis=-1) == labels)
  found = {
    "loss": -jnp.sum(jnp.where(asked, picked, 0.0)),
    "hits": jnp.sum(hit, dtype=jnp.float32),
    "count": jnp.sum(asked, dtype=jnp.float32),
  }
  return found, stats


def summarize(metric: str, totals: dict) -> dict[str, float]:
  """Means from sums: the loss in nats, and the task's metric."""
  count = max(float(totals["count"]), 1.0)
  loss, accuracy = float(totals["loss"]) / count, float(totals["hits"]) / count
  if metric == "bits_per_byte":
    return {"loss": loss, "bits_per_byte": loss / float(jnp.log(2.0))}
  return {"loss": loss, "accuracy": accuracy}
