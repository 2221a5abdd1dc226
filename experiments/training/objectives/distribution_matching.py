"""Similarity distribution matching of the features of three views.

Ding Jiang, Mang Ye. Cross-Modal Implicit Relation Reasoning and Aligning for
Text-to-Image Person Retrieval (IRRA). arXiv:2303.12501, section 3.3, between three
streams as in ITCFN. Examples are compared with those of their batch, or of their part
of a batch where gradients are accumulated.
"""

import jax

from attnjax.variants.cross.triple_modal import focal_loss, itcfn_loss
from experiments.training.objectives import cross_entropy


def totals(outputs: dict[str, jax.Array], batch: dict) -> dict[str, jax.Array]:
  """Returns the sums of the divergences, of hits, and of the labels that count.

  Args:
    outputs: with "logits" (B, classes), "features" (B, 3, F) and "present" (B, 3).
    batch: with "label" (B,), -1 where nothing is asked.
  """
  labels, logits = batch["label"], outputs["logits"]
  found = cross_entropy.totals(logits, {"label": labels})
  a, b, c = (outputs["features"][:, m] for m in range(3))
  given = {"present": outputs["present"], "matching_weight": 1.0}
  loss = itcfn_loss(a, b, c, logits, labels, **given) - focal_loss(logits, labels)
  return found | {"loss": loss * found["count"]}
