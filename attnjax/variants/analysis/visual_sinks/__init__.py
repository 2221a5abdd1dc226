"""Visual attention sinks, and the redistribution of their attention (VAR).

Seil Kang, Jinyeong Kim, Junhyeok Kim, Seong Jae Hwang. See What You Are Told: Visual
Attention Sink in Large Multimodal Models. ICLR 2025. arXiv:2503.03321. Official code:
github.com/seilk/VisAttnSink (98e62d6), to a run of which this is held.

x is the residual stream that enters a layer, D a few dimensions of it, a the weights of
a query and a head, I the tokens of the image:

  sinks    S = {t : max_(d in D) |x_t[d]| / sqrt(mean(x_t^2) + 1e-6) > tau}
  chosen   if I has sinks, sum_I a >= summ  and
           sum_(I & S) a <= (1 - rho) sum_I (a + 1e-6): the head looks at the image
  a_j     <- (1 - p) a_j                                    for j in S, of the text too
  a_j     <- a_j + p (sum_S a) a_j / sum_(I - S) a          for j in I - S

for the words after the image, and for every new word in decoding, in the layers from 2
to the last but one. rho, the share that is not on sinks, and p, the share that moves,
are the paper's; the code names 1 - rho and 1 - p so. In decoding sinks stay those of
the prompt.

Only means over groups of keys are scaled, so that no weights are needed: attention is
taken to the image's rest, to its sinks, to those of the text and to all else, each by
the softmax engine with its own keys, and put together by their log-sum-exps. A head
without weight on I - S stays as it is, where the code divides by 0.

Cost: four times the scores of attention, O(T S H N), and memory O(T + S); an edit of
weights takes O(T S N) memory.

Axes: B batch, T query tokens, S key tokens, N query heads, K key/value heads, H head
size, V value size, L layers, D model width.

Not here: LLaVA and its benchmarks.
"""

from attnjax.variants.analysis.visual_sinks.attention import (
  IMPLEMENTATIONS,
  attend,
  group_shares,
)
from attnjax.variants.analysis.visual_sinks.cases import CASES
from attnjax.variants.analysis.visual_sinks.decoding import installed
from attnjax.variants.analysis.visual_sinks.definition import reference
from attnjax.variants.analysis.visual_sinks.hosts import (
  random_like,
  redirected,
  silenced,
)
from attnjax.variants.analysis.visual_sinks.report import (
  AXES,
  HOSTS,
  MEANINGS,
  analyse,
  overlap,
)
from attnjax.variants.analysis.visual_sinks.values import (
  DIMENSIONS,
  find_sink_dims,
  sink_values,
  sinks,
)
from attnjax.variants.analysis.visual_sinks.weights import (
  image_centric,
  image_head_mask,
  redistribute,
)

__all__ = [
  "ANALYSE",
  "AXES",
  "CASES",
  "DIMENSIONS",
  "FORMS",
  "HOSTS",
  "IMPLEMENTATIONS",
  "MEANINGS",
  "analyse",
  "attend",
  "find_sink_dims",
  "group_shares",
  "image_centric",
  "image_head_mask",
  "installed",
  "overlap",
  "random_like",
  "redirected",
  "redistribute",
  "reference",
  "silenced",
  "sink_values",
  "sinks",
]
FORMS = ("analysis",)
# Sinks of a model that is not trained: what a few dimensions happen to hold.
ANALYSE = {"dims": (1, 4), "tau": 1.2, "rho": 0.3, "summ": 0.1}
