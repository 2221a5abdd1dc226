"""Pointer networks: attention over the inputs is itself the distribution of answers.

Oriol Vinyals, Meire Fortunato, Navdeep Jaitly. Pointer Networks. 2015. NIPS.
arXiv:1506.03134. No official code was released; held to a third party's,
github.com/ast0414/pointer-networks-pytorch (commit 27aec4e). Glimpses and clipped
logits: Irwan Bello et al. arXiv:1611.09940.

An encoder LSTM reads the inputs P_1 .. P_S, states e_j; a decoder LSTM, which starts
from the encoder's last cell and state, has states d_t before each answer C_t.

  u[t, j] = v . tanh(W1 e_j + W2 d_t)            j = 1 .. S, and 0: the end symbol
  p(C_t = j | C_1 .. C_t-1, P) = softmax_j(u[t])
  d_t+1 reads P_C_t, the input itself (or its embedding); d_1 a learned vector
  loss = - sum_t ln p(C_t)                       with the true answers before t

e_0, the key of the end symbol, is learned. "dot" has u = (W1 e_j) . (W2 d_t) / sqrt(H).
A glimpse replaces d by sum_j softmax(u'[t])_j W1' e_j before it points, with weights
of its own. `clip` C gives C tanh(u). The paper's baselines are kinds of the Model, with
a fixed dictionary: "sequence" has the logits Wo d_t + b, "attention" Wo [d_t; c_t] + b
with c_t = sum_j softmax(u[t])_j e_j. That these, too, are fed points is ours.

Cost: O(T S H) time, T S tanh of H numbers, and O((S + T) H^2) of the LSTMs; memory
O(S H + T H + T S): backward recomputes tanh, and queries go in tiles.

Axes: B batch, S inputs (keys), T answers (queries), H hidden size, V answers to choose
from, I numbers of an input as the decoder reads it.

Not here: a fused kernel that keeps tiles of tanh in registers; several heads; TSP of
more than 13 points, by the heuristics A1 to A3 of the paper; sequences of several
lengths in batches of their own: all are padded to the longest. SGD of rate 1 as in the
paper is a setting of the optimizer.
"""

from attnjax.variants.cross.pointer_network.cases import CASES
from attnjax.variants.cross.pointer_network.definition import (
  reference_glimpse,
  reference_pointer_logits,
  reference_pointer_loss,
)
from attnjax.variants.cross.pointer_network.network import KINDS, Encoded, Model
from attnjax.variants.cross.pointer_network.scores import (
  IMPLEMENTATIONS,
  SCORES,
  glimpse,
  pointer_logits,
  pointer_loss,
)
from attnjax.variants.cross.pointer_network.search import CONSTRAINTS

FORMS = ("pointer",)
SIZES = {
  "mini": {"hidden": 64},
  "units_256": {"hidden": 256},
  "units_512": {"hidden": 512},
}
PARAMETERS: dict[str, int] = {}

__all__ = [
  "CASES",
  "CONSTRAINTS",
  "FORMS",
  "IMPLEMENTATIONS",
  "KINDS",
  "PARAMETERS",
  "SCORES",
  "SIZES",
  "Encoded",
  "Model",
  "glimpse",
  "pointer_logits",
  "pointer_loss",
  "reference_glimpse",
  "reference_pointer_logits",
  "reference_pointer_loss",
]
