"""InfoNCE in pure JAX: cross entropies of a similarity matrix that is never stored.

  score[i, j] = scale sum_d q[i, d] items[j, d]        of counted pairs, or -inf
  row[i]      = log sum_j exp(score[i, j])             column[j] = log sum_i exp(...)
  positive[i] = score[i, labels[i]]

  loss = mean_i (row[i] - positive[i])                                 one direction
  loss = mean_i (row[i] + column[labels[i]] - 2 positive[i]) / 2       both

Aaron van den Oord, Yazhe Li, Oriol Vinyals. Representation Learning with Contrastive
Predictive Coding. arXiv:1807.03748; both directions as in Alec Radford et al. CLIP.
arXiv:2103.00020. The online sums over tiles are those of Maxim Milakov, Natalia
Gimelshein. Online normalizer calculation for softmax. arXiv:1805.02867; for this loss,
Zesen Cheng et al. Breaking the Memory Barrier. arXiv:2410.17243.

Passes compute rows of one side against all of the other; columns are rows of the other
side. So no pass adds to what another one wrote, and devices that share out the rows
send each other vectors, never scores or sums (`gradients`).

A pair of a query and an item is not counted where `mask` is False or where both have
one id that is not negative; the positive pair of a query always is. A query whose label
is no item has no loss, and is counted among the columns' queries.
"""

from attnjax.core.contrastive.axes import Axes
from attnjax.core.contrastive.definition import reference
from attnjax.core.contrastive.gradients import (
  BACKWARD,
  FORWARD,
  SAVED,
  Data,
  Passes,
  Sums,
  composed,
  differentiable,
)
from attnjax.core.contrastive.loss import mean_loss
from attnjax.core.contrastive.marks import Marks, Slopes, spans
from attnjax.core.contrastive.xla import passes, plain

__all__ = [
  "BACKWARD",
  "FORWARD",
  "SAVED",
  "Axes",
  "Data",
  "Marks",
  "Passes",
  "Slopes",
  "Sums",
  "composed",
  "differentiable",
  "mean_loss",
  "passes",
  "plain",
  "reference",
  "spans",
]
