"""The Dynamical Systems Framework: attention, state spaces and RNNs as one recurrence.

Jerome Sieber, Carmen Amo Alonso, Alexandre Didier, Melanie N. Zeilinger, Antonio
Orvieto. Understanding the differences in Foundation Models: Attention, State Space
Models, and Recurrent Neural Networks. 2024. arXiv:2405.15731.
Code: github.com/jsie7/ssm-benchmark.

  h_t = Lambda_t h_{t-1} + B_t v_t,   y_t = C_t h_t + D_t v_t,   h_{-1} = 0
  y = Phi v,   Phi[t, s] = C_t Lambda_t ... Lambda_{s+1} B_s  (+ D_t if s = t)

with a diagonal Lambda. `attend` computes it and `System` holds its arrays; every class
of models is one choice of them (`to_dsf`):

  kind         Lambda_t               B_t                     C_t            state
  softmax      1                      phi(k)                  phi(q) / eta   infinite
  linear       1                      psi(k)                  psi(q) / eta   H E
  normalised   1                      k                       q / eta        H E
  s6           exp(delta_t A)         delta_t b               c              H E
  ssd          exp(delta_t a)         delta_t b               c              H E
  rglru        exp(-8 softplus(base)  sqrt(1 - Lambda^2)      1              E
                 sigmoid(W_f u))        sigmoid(W_b u)
  selru        as rglru               sqrt(1 - Lambda^2) b    c              H E
  qlstm        sigmoid(W_f u)         sigmoid(W_i u)          sigmoid(W_o u) E
    coupled    1 - sigmoid(W_i u)     sigmoid(W_i u)          sigmoid(W_o u) E

psi = elu + 1; phi are the monomials whose products make exp; eta is the sum of
exp(q . k), the sum of psi(q) . psi(k), or in normalised attention a function of the
token alone: exp(x), softplus(x) or sigmoid(x) with x = W_n u. Normalised attention
(the paper's proposal) has neither scale nor feature map. `Layer` is any of them, and
`Block` the benchmark's residual block, with one norm for both halves.

Cost for each head, in chunks of C tokens: O(T C (H + E) + T H E) time where the decay
is one number (linear, normalised, ssd), else O(T H E), with O(T H E) memory for s6 and
selru, whose Lambda has that many elements; softmax O(T^2 H). The kernels, "pallas" and
"triton", are for those three kinds and for softmax. Decoding keeps the state.

Axes: B batch, T tokens, N heads, H state elements for each value (the paper's n),
E value size (the paper's d), D model width.

Not here: the benchmark's dropout, its block around the state spaces (GELU, GLU, skip),
its embeddings and classifiers, and the softmax over tokens at the end of its models.
"""

from attnjax.variants.recurrent.dynamical_systems.block import Block
from attnjax.variants.recurrent.dynamical_systems.builders import (
  BUILDERS,
  ETAS,
  taylor,
  to_dsf,
)
from attnjax.variants.recurrent.dynamical_systems.cases import CASES, REFUSED
from attnjax.variants.recurrent.dynamical_systems.layer import (
  FORMS,
  KINDS,
  Layer,
  State,
)
from attnjax.variants.recurrent.dynamical_systems.system import (
  IMPLEMENTATIONS,
  System,
  attend,
  reference,
)

__all__ = [
  "BUILDERS",
  "CASES",
  "ETAS",
  "FORMS",
  "GROWTH",
  "IMPLEMENTATIONS",
  "KINDS",
  "LAYER",
  "REFUSED",
  "Block",
  "Layer",
  "State",
  "System",
  "attend",
  "reference",
  "taylor",
  "to_dsf",
]
LAYER = {"dim": 32, "heads": 4, "state_size": 32}
GROWTH = 1.0
