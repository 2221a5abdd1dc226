"""DELTA: a few layers attend to everything and choose the pages of those after them.

Hossein Entezari Zarch, Lei Gao, Chaoyi Jiang, Murali Annavaram. DELTA: Dynamic
Layer-Aware Token Attention for Efficient Long-Context Reasoning. 2025.
arXiv:2510.09883. Official code: github.com/hoenza/DELTA, commit c354073. Training-free.

At each step of decoding, for the new token's query, with F the layers of full attention
(0 among them) and pages of P tokens:

  l in F                  full attention
  l in F, l + 1 not in F  also chooses pages:
    p[n, t] = softmax_t(H^-0.5 q[n] . k[t, n K / N])             float32
    m[t]    = max over all heads n of p[n, t]
    score   = sum of m over the page's tokens
    the last R pages, the current one included, then the pages of the largest score, M
    in all; of equal scores the earlier page; all, if there are no more than M
  l not in F              exact attention to the tokens of the pages that the last
                          choosing layer before it chose at this step

One list of pages serves a sequence, all its heads and all following layers. The prompt
is dense, and no key is dropped. Pages begin at a document's first token.

Layers of full attention (`placement`): 0 and 1, and the largest changes of attention
between adjacent layers in a calibration run, d[l] = 1 - cos(a[l - 1], a[l]), a the
maps averaged over heads. Their distance, at least layers / (2 selections), is ours,
and so is the default without a calibration: in proportion {0, 1, 2, 14, 22} of 28
layers, which are the authors', and {0, layers / 2} below 8 layers. `reselect_every` > 1
is ours: between choices the scores stay, the last pages are always the current ones.
The scores are of the layer's projected queries and keys, scaled by H^-0.5, whatever the
layer does to its own scores.

Cost: |F| S + (layers - |F|) M P keys read at a step, against layers S; memory as
without it, and the choosing layers read their keys a second time for the scores.

Axes: B batch, S cached tokens, N query heads, K key/value heads, H head size.

Not here: a fused kernel of a decoding step, page lists of each shard of heads, and
placement by the mass of attention that later layers recall.
"""

from attnjax.variants.decode.delta.pages import (
  CASES,
  HEADS,
  IMPLEMENTATIONS,
  TOKENS,
  attend,
  page_scores,
  reference,
  reference_page_scores,
  select_pages,
)
from attnjax.variants.decode.delta.placement import (
  changes,
  full_layers,
  overlaps,
  spread_layers,
)
from attnjax.variants.decode.delta.policy import Policy

FORMS = ("policy",)
POLICY = {"full_layers": (0,), "pages": 3, "page": 3, "recent_pages": 1}
COVERING = {"full_layers": (0,), "pages": 8, "page": 3}

__all__ = [
  "CASES",
  "COVERING",
  "FORMS",
  "HEADS",
  "IMPLEMENTATIONS",
  "POLICY",
  "TOKENS",
  "Policy",
  "attend",
  "changes",
  "full_layers",
  "overlaps",
  "page_scores",
  "reference",
  "reference_page_scores",
  "select_pages",
  "spread_layers",
]
