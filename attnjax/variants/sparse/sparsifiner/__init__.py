"""Sparsifiner: a cheap predictor chooses the keys of each query, image by image.

Cong Wei, Brendan Duke, Ruowei Jiang, Parham Aarabi, Graham W. Taylor, Florian Shkurti.
Sparsifiner: Learning Sparse Instance-Dependent Attention for Efficient Vision
Transformers. CVPR 2023. arXiv:2303.13755. Official code:
github.com/lim142857/Sparsifiner (commit 9a11e26).

  C = softmax_m( (q W_a + a) (down^T (k W_b + b))^T N^-0.5 )     m = T / 6 columns
  A~ = top(C) threshold(|up|)                                    sparse, in use
  A~ = C up                                                      dense, to learn
  kept[t] = the ceil(keep T) keys of the greatest A~[t]
  out[t] = softmax_(s in kept[t]) (H^-0.5 q[t] . k[s]) v[s]
  loss = sum (A~ - A)^2,  A = softmax attention of a teacher, or of the layer

The class token, if there is one, sees all tokens and is not predicted. The choice has
no gradient; the predictor learns by the loss alone. As in the authors' code, the sparse
form takes |up| although the dense form learns up.

Cost: O(T m (h + T) N) time for the prediction, h = H / 2 the reduced channels, and
attention to ceil(keep T) keys a query. Here the kept keys are a mask on dense tiles,
which is faster on processors with matrix units than to gather single keys: the
attention itself takes O(T^2 H N) time. `attend_predicted`, which the layer uses, makes
the prediction, the mask and the loss for 128 queries at a time: O(T N) memory, beside
the tables' T m; `attend` takes predicted weights, O(T^2 N).

Axes: B batch, T tokens, R queries with predicted keys, N heads, H head size, V value
size, m reduced tokens, D model width.
"""

from attnjax.variants.sparse.sparsifiner import attention, predicted
from attnjax.variants.sparse.sparsifiner.attention import (
  IMPLEMENTATIONS,
  attend,
  most_attended,
  reference,
)
from attnjax.variants.sparse.sparsifiner.backbone import PARAMETERS, SIZES, Model
from attnjax.variants.sparse.sparsifiner.connectivity import (
  also_minimise,
  chosen,
  dense_weights,
  reconstruction,
)
from attnjax.variants.sparse.sparsifiner.layer import MODES, Layer
from attnjax.variants.sparse.sparsifiner.predicted import (
  attend_predicted,
  reference_attend_predicted,
)
from attnjax.variants.sparse.sparsifiner.predictor import ConnectivityPredictor

__all__ = [
  "CASES",
  "FORMS",
  "GROWTH",
  "IMPLEMENTATIONS",
  "LAYER",
  "MODES",
  "PARAMETERS",
  "SIZES",
  "ConnectivityPredictor",
  "Layer",
  "Model",
  "also_minimise",
  "attend",
  "attend_predicted",
  "chosen",
  "dense_weights",
  "most_attended",
  "reconstruction",
  "reference",
  "reference_attend_predicted",
  "scaled",
]
CASES = attention.CASES + predicted.CASES
FORMS = ("sequence", "image", "backbone")
LAYER = {"dim": 32, "heads": 4, "grid": (4, 6), "reduce_n": 3}
GROWTH = 2.0


def scaled(shape: tuple[int, ...]) -> dict[str, float]:
  """Returns options under which GROWTH holds: no loss of the predictor.

  The loss needs dense weights.
  """
  del shape
  return {"distill": 0.0}
