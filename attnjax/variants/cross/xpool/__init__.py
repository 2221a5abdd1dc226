"""X-Pool: a text pools the frames of a video, so that each pair has its own vector.

Satya Krishna Gorti, Noel Vouitsis, Junwei Ma, Keyvan Golestan, Maksims Volkovs, Animesh
Garg, Guangwei Yu. X-Pool: Cross-Modal Language-Video Attention for Text-Video
Retrieval. CVPR 2022. arXiv:2203.15086. Official code: github.com/layer6ai-labs/xpool at
bc88718.

With text vectors t[q] and frame vectors f[i, s] of one width D, neither normalised,

  q[q] = LN1(t[q]) Wq + bq,   k[i, s] = LN1(f[i, s]) Wk + bk,   v likewise
  share[i, n, q, s] = softmax_s( H^-0.5 q[q, n] . k[i, s, n] )
  o[i, q]      = LN2( (sum_s share[i, n, q, s] v[i, s, n], over all heads n) Wo + bo )
  pooled[i, q] = LN3( o[i, q] + dropout(o[i, q] Wl + bl) )
  similarity[q, i] = cosine of t[q] and pooled[i, q]
  loss = (cross entropy of rows + cross entropy of columns) / 2
         of logits exp(log_scale) similarity, text n being of video n

LN1 is shared by texts and frames. There is no residual from t: the text only weighs
frames. Linear maps begin as the identity. `log_scale` begins at ln(1 / 0.07) and stays
below ln 100 in the authors' training: `attnjax.nn.temperature`.

Pooling without parameters, which the paper compares with: `mean_pool`; `top_k_pool`,
the sum of the frames with the largest products; `attention_pool`, a softmax of them.

Invented here: `valid`, for videos of different lengths; a video without frames has
o = LN2(bo). Wo is folded into the values of the frames, which saves a product of D x D
for each pair; the authors' form is `reference_pool`. `similarity` computes tiles of
pairs, and again in the backward pass, so that no (I, Q, D) is stored; `encode` and
`search` keep the side of the videos. A zero has the cosine 0.

Cost: O((Q + I F) D^2 + I F N D^2) once, and O(Q I (F N D + D^2)) for pairs, time;
memory O(Q I + I F N D + tile^2 (D + F N)), in "reference" O(Q I D).

Axes: Q texts, I videos, F frames of a video, N heads, H head size, D width.

Not here: the two encoders of CLIP and their weights; the fused kernel of tiles; pooling
by self-attention over frames; dropout in "reference"; the data sets MSR-VTT, MSVD and
LSMDC; a layer of the form "cross".
"""

from attnjax.variants.cross.xpool.baselines import (
  attention_pool,
  mean_pool,
  top_k_pool,
)
from attnjax.variants.cross.xpool.cases import CASES
from attnjax.variants.cross.xpool.definition import (
  reference_attention_pool,
  reference_clip_loss,
  reference_mean_pool,
  reference_pool,
  reference_similarity,
  reference_top_k_pool,
  reference_weigh,
)
from attnjax.variants.cross.xpool.loss import clip_loss
from attnjax.variants.cross.xpool.pooling import (
  IMPLEMENTATIONS,
  pool,
  search,
  similarity,
  weigh,
)
from attnjax.variants.cross.xpool.scorer import Scorer
from attnjax.variants.cross.xpool.vectors import Videos, encode
from attnjax.variants.cross.xpool.weights import Weights

FORMS = ("pairs",)
QUERY, ITEM = ("D",), ("F", "D")
SCORER = {"dims": {"queries": 6, "items": 6}, "heads": 2}

__all__ = [
  "CASES",
  "FORMS",
  "IMPLEMENTATIONS",
  "ITEM",
  "QUERY",
  "SCORER",
  "Scorer",
  "Videos",
  "Weights",
  "attention_pool",
  "clip_loss",
  "encode",
  "mean_pool",
  "pool",
  "reference_attention_pool",
  "reference_clip_loss",
  "reference_mean_pool",
  "reference_pool",
  "reference_similarity",
  "reference_top_k_pool",
  "reference_weigh",
  "search",
  "similarity",
  "top_k_pool",
  "weigh",
]
