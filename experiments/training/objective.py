"""What is minimised and what is reported, for tokens and for images."""

from typing import Any

import jax
import jax.numpy as jnp


def predict(kind: str, model: Any, batch: dict, key: jax.Array | None = None):
  """(logits, labels) of a batch; labels are -1 where nothing is asked."""
  if kind == "images":
    return model(batch["image"], key=key), batch["label"]
  packing = {n: batch[n] for n in ("segment_ids", "positions") if n in batch}
  return model(batch["tokens"], key=key, **packing), batch["labels"]


def sums(kind: str, model: Any, batch: dict, key: jax.Array | None = None) -> dict:
  """Sums over the labelled places: cross entropy in nats, hits, and their number."""
  logits, labels = predict(kind, model, batch, key)
  asked = labels >= 0
  logits = logits.astype(jnp.float32)
  log = jax.nn.log_softmax(logits)
  picked = jnp.take_along_axis(log, jnp.maximum(labels, 0)[..., None], axis=-1)[..., 0]
  hit = asked & (logits.argmax(axis=-1) == labels)
  return {
    "loss": -jnp.sum(jnp.where(asked, picked, 0.0)),
    "hits": jnp.sum(hit, dtype=jnp.float32),
    "count": jnp.sum(asked, dtype=jnp.float32),
  }


def summarize(metric: str, totals: dict) -> dict[str, float]:
  """Means from sums: the loss in nats, and the task's metric."""
  count = max(float(totals["count"]), 1.0)
  loss, accuracy = float(totals["loss"]) / count, float(totals["hits"]) / count
  if metric == "bits_per_byte":
    return {"loss": loss, "bits_per_byte": loss / float(jnp.log(2.0))}
  return {"loss": loss, "accuracy": accuracy}
