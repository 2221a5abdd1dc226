"""Graph-aware isomorphic attention: attention weights as the edges of a graph.

Markus J. Buehler. Graph-Aware Isomorphic Attention for Adaptive Dynamics in
Transformers. 2025. arXiv:2501.02393. Official code:
github.com/lamm-mit/Graph-Aware-Transformers (commit fb2c6ef).

  A    = softmax(alpha H^-0.5 q[t] . k[s])           s <= t; alpha learned or 1
  A    = A_1 - lambda A_2                            differential, of "gin"
  e    = f(A) where s <= t, else 0                   f: silu, sigmoid, top k, ...
  d[t] = sum_s e[t, s],   or 1 if that is 0
  gin      z[n] = epsilon[n] x[n] + e[n] x[n]        x: the input, cut into heads
           y[n] = W_2 silu(RMSNorm(W_1 z[n] + b_1)) + b_2           for each head
  pna      g = [e v, e v / d, max of v over e > 0, max(e v^2 / d - (e v / d)^2, 0)]
           y[n] = W_2 silu(W_1 g[n]),    then W_o
  pna_lm   g = [mean, v of the greatest norm over e > threshold, variance, v of the
           least norm]; else as "pna"
  sparse_gin: h = x + attention(x);  c = min(sum_n A[n], 1)
           e = sigmoid(10 (c - 0.1)) where that is above 0.6, else 0
           u = W_i h;  o = epsilon u + e u;  u = act(o + W_2 act(W_1 o))
           y = attention(x) + scale RMSNorm(W_u u),  scale from 0 to 0.5 over layers

The scales of a model's layers and lambda = 0.8 - 0.6 exp(-0.3 (layer - 1)) are starts,
to which a learned number is added. "sparse_gin" is an adapter: its attention has the
parameters of `dot_product`, so that `--config.init` takes a trained one, and
`--config.train.only=adapter` trains the rest. In a host x is the block's normalised
input; the paper's h has the residual itself, as `DecoderBlock` does.

Three things are as the paper means them, and by `as_released` as the code has them: the
maximum of "pna" is over the neighbours, not the own value; edges of "sparse_gin" lead
from earlier tokens, of which the code keeps none but the token itself; where no edge of
"pna_lm" is above the threshold the token stands for itself, not the row's first one.
Two transforms count other than the code: "top_k" keeps a number of keys, not a share of
the row's length, which neither decodes nor packs, and "scaled_top_k" does not fill up
with pairs below the threshold. Padding and documents are taken out after f as well.

Cost: O(T S H N) time, O(T S H N) more for each of the maxima; memory O(T + S) beside a
block of queries with its pairs, at most 2^24 or 128 queries. An edge of "sparse_gin" is
above 0.14, and a token's weights sum to N: it has at most N / 0.14 edges, which are
listed where they are fewer than a quarter of the keys. Decoding keeps 2 D elements a
token ("gin" with differential weights 3 D), "sparse_gin" E more a GIN layer.

Axes: B batch, T query tokens, S key tokens, N heads, H head size, V value size, W
features gathered, D model width, E nodes of the graph network, C edges of a list.

Not here: the group norm of differential weights, whose statistics are over all pairs,
later ones too; graph networks for each head; the code's GCN, PNA and recombination
networks, coarse-grained and MLP variants, and pairs scored by a perceptron; dropout
inside the perceptrons, and biases in those of "pna"; a kernel for sharpened edges,
which are functions of normalised weights or of all heads, where a kernel's score is of
one pair and head.
"""

from attnjax.variants.softmax.isomorphic_graph.attention import (
  CASES,
  IMPLEMENTATIONS,
  REFUSED,
  adjacency,
  attend,
)
from attnjax.variants.softmax.isomorphic_graph.decoder import DecoderBlock
from attnjax.variants.softmax.isomorphic_graph.definition import (
  reference,
  reference_messages,
)
from attnjax.variants.softmax.isomorphic_graph.edges import EDGES, WEIGHTINGS
from attnjax.variants.softmax.isomorphic_graph.graph import Adapter, GraphNetwork
from attnjax.variants.softmax.isomorphic_graph.layer import Layer
from attnjax.variants.softmax.isomorphic_graph.parts import FORMS, KINDS, Cache
from attnjax.variants.softmax.isomorphic_graph.sparse import COMBINES, messages

__all__ = [
  "CASES",
  "COMBINES",
  "EDGES",
  "FORMS",
  "GROWTH",
  "IMPLEMENTATIONS",
  "KINDS",
  "LAYER",
  "REFUSED",
  "WEIGHTINGS",
  "Adapter",
  "Cache",
  "DecoderBlock",
  "GraphNetwork",
  "Layer",
  "adjacency",
  "attend",
  "messages",
  "reference",
  "reference_messages",
]
LAYER = {"dim": 16, "heads": 2, "sharpen": True, "project_out": True}
GROWTH = 2.0
