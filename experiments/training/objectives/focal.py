"""The focal loss of classes: right examples count less.

Tsung-Yi Lin et al. Focal Loss for Dense Object Detection. arXiv:1708.02002, equation 5,
with alpha = 0.25 for all classes and gamma = 2 as in ITCFN.
"""

import jax

from attnjax.variants.cross.triple_modal import focal_loss
from experiments.training.objectives import cross_entropy


def totals(outputs: dict[str, jax.Array], batch: dict) -> dict[str, jax.Array]:
  """Returns the sums of the losses, of hits, and of the labels that count.

  Args:
    outputs: with "logits" (B, classes).
    batch: with "label" (B,), -1 where nothing is asked.
  """
  logits, labels = outputs["logits"], batch["label"]
  found = cross_entropy.totals(logits, {"label": labels})
  return found | {"loss": focal_loss(logits, labels) * found["count"]}
