"""ITCFN's loss: focal, 0.01 times the matching of three views, and their generation.

Xiangyang Hu et al. ITCFN. 2025. arXiv:2501.11276. The error of the generated views is
that of the authors' generator, the mean absolute difference from the views that are
there; they train it before, here it is trained beside the classifier, whose gradients
do not reach it.
"""

import jax
import jax.numpy as jnp

from attnjax.variants.cross.triple_modal import itcfn_loss
from experiments.training.objectives import cross_entropy


def totals(outputs: dict[str, jax.Array], batch: dict) -> dict[str, jax.Array]:
  """Returns the sums of the losses, of hits, and of the labels that count.

  Args:
    outputs: with "logits" (B, classes), "features" (B, 3, F) and "present" (B, 3); with
      "generated" (B, 3, W) their error is added.
    batch: with "label" (B,), -1 where nothing is asked, "views" and "present".
  """
  labels, logits = batch["label"], outputs["logits"]
  found = cross_entropy.totals(logits, {"label": labels})
  a, b, c = (outputs["features"][:, m] for m in range(3))
  loss = itcfn_loss(a, b, c, logits, labels, present=outputs["present"])
  loss = loss * found["count"]
  if "generated" in outputs:
    there = batch["present"] & (labels >= 0)[:, None]
    error = jnp.abs(outputs["generated"] - batch["views"]).mean(axis=-1)
    share = jnp.where(there, error, 0).sum() / jnp.maximum(there.sum(), 1)
    loss += share * found["count"]
  return found | {"loss": loss}
