"""Deconstructed attention: softmax attention with one principle taken out at a time.

Huiyin Xue, Nafise Sadat Moosavi, Nikolaos Aletras. Deconstructing Attention:
Investigating Design Principles for Effective Language Modeling. 2025. arXiv:2510.11602.
The code that the paper names, github.com/HUIYINXUE/DeconAttn, could not be had; this is
written from the paper, and compared with definitions of its own.

Token t, h = a block's normalised input, v = h Wv, a head's size H, x = H^-0.5 q . k:

  standard     q, k = rotated h Wq, h Wk;     out[t] = sum_{s<=t} softmax(x[t])[s] v[s]
  mlp          y = Wd (SiLU(h Wg) * (h Wu));  no token is mixed, 4 N H / 3 inner
  approximate  w = 1 + x + x^2 / 2;           out[t] = sum_{s<=t} w v / sum_{s<=t} w
  nonapprox    a[s] = H^-0.5 SiLU(q[s]) . k[s];  out[t] = mean of v by exp(a[s]), s <= t
  rndemb       standard, but q and k are of X, a fixed sequence's hidden states here
  fixedseq     the same: X begins with noise in rndemb, with tokens in fixedseq
  staticemb    standard, but q and k are of the embeddings of the tokens, normalised

X is an ordinary pass of one sequence through the same blocks, with its own values; its
gradient is kept (`stop_gradient`). The language host gives it, and the embeddings, to
the layers that ask (`attnjax.nn.streams`). A token reads the fixed map at its place in
its document. All kinds have 4 D N H weights, "mlp" up to the rounding of its width.

`pattern` writes the paper's hybrids as a config's pattern of layers, `skip` takes the
simple layers out of a trained model, `indicators` has the measures of maps.

The paper's appendix prints the three terms of w with a denominator each ("per_order");
the definition it refers to, Based, has one ("common", the default). Drawn here, since
the paper's are not known: the noise's deviation, that of embeddings; and the sequence
of "fixedseq", which takes the authors' tokens, the first 2048 of FineWeb, as an option.

Cost: standard, fixed and static O(T^2 H N) time; fixed maps are computed once for all
rows of a batch, and a pass of one row more. approximate O(T^2 H N), or O(T H^2 H N) in
chunks, which are taken where T > 2 H^2; nonapprox O(T H N). Decoding keeps 2 N H
elements a token, and the fixed q and k; N (1 + H + H^2)(H + 1) in all in approximate,
N (H + 2) in nonapprox.

Axes: B batch, T query tokens, S key tokens, L tokens of the fixed sequence, N heads, H
head size, V value size, F rows of a state, E its columns, D model width.

Not here: a kernel for the chunks, chunks that see later tokens, and the authors' sizes
and training data.
"""

from attnjax.variants.softmax.deconstructed import indicators
from attnjax.variants.softmax.deconstructed.attention import (
  IMPLEMENTATIONS,
  NORMALISE,
  fixed_qk_attention,
  gated_mean_attention,
  reference,
  reference_fixed_qk_attention,
  reference_gated_mean_attention,
  taylor_attention,
)
from attnjax.variants.softmax.deconstructed.cases import CASES, REFUSED
from attnjax.variants.softmax.deconstructed.layer import FORMS, KINDS, Layer
from attnjax.variants.softmax.deconstructed.plans import (
  PLANS,
  pattern,
  skip,
  standard_layers,
)

__all__ = [
  "CASES",
  "FORMS",
  "GROWTH",
  "IMPLEMENTATIONS",
  "KINDS",
  "LAYER",
  "NORMALISE",
  "PLANS",
  "REFUSED",
  "Layer",
  "fixed_qk_attention",
  "gated_mean_attention",
  "indicators",
  "pattern",
  "reference",
  "reference_fixed_qk_attention",
  "reference_gated_mean_attention",
  "scaled",
  "skip",
  "standard_layers",
  "taylor_attention",
]
LAYER = {"dim": 16, "heads": 2, "head_dim": 4}
GROWTH = 1.0


def scaled(shape: tuple[int, ...]) -> dict[str, int]:
  """Returns options of a layer in linear time, whatever the number of tokens."""
  del shape
  return {"chunk": 64}
