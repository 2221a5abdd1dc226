"""Activator: gated linear units in place of attention, each patch by itself.

Abdullah Nazhat Abdullah, Tarkan Aydin. Activator: GLU Activations as the Core Functions
of a Vision Transformer. 2024. arXiv:2405.15953. Official code:
github.com/Abdullah-88/Activator (commit 631c38a).

  u = W1 x + b1,  v = W2 x + b2               from D to F channels
  unit(x) = W3 (LN(gelu(u)) * LN(v)) + b3     one LN, its scale and bias, for both

  y = x + unit(LN'(x))                        block: one LN' for both sums, and
  z = y + W5 gelu(W4 LN'(y) + b4) + b5        without this MLP where mlp_ratio = 0

Later versions of the paper compare the GELU of u with SiLU and ReLU: `activation`.

No token reads another one: only the mean before the classifier combines them, and there
are no positions. The network is a bag of patches, whose logits no order of the patches
changes; "replaces attention" means that attention is left out. In a language model it
needs other layers beside it. Decoding keeps nothing.

Cost: O(T D F) time, O(T F) memory; backward keeps u and v alone.

Axes: B batch, T tokens, F channels of the unit, D model width.

Not here: the catalogue's extension, the unit over the axis of tokens; fused kernels,
the matrix products around two norms over F being XLA's, with no softmax among them.
"""

from attnjax.variants.mixers.activator.backbone import PARAMETERS, SIZES, Model
from attnjax.variants.mixers.activator.gating import (
  ACTIVATIONS,
  CASES,
  EPSILON,
  IMPLEMENTATIONS,
  gate,
  reference,
)
from attnjax.variants.mixers.activator.layer import Layer

__all__ = [
  "ACTIVATIONS",
  "CASES",
  "EPSILON",
  "FORMS",
  "GROWTH",
  "IMPLEMENTATIONS",
  "LAYER",
  "PARAMETERS",
  "SIZES",
  "WEIGHTLESS",
  "Layer",
  "Model",
  "gate",
  "reference",
]
FORMS = ("causal", "sequence", "image", "backbone")
LAYER = {"dim": 12, "expand": 1.5}
GROWTH = 1.0
WEIGHTLESS = True
