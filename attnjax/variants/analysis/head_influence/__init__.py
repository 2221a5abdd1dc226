"""AttentionInfluence: what a document loses without the heads that retrieve.

Kai Hua, Steven Wu, Ge Zhang, Ke Shen. AttentionInfluence: Adopting Attention Head
Influence for Weak-to-Strong Pretraining Data Selection. 2025. arXiv:2505.07293. No
official code; the score of heads is that of Wenhao Wu et al. Retrieval Head
Mechanistically Explains Long-Context Factuality. arXiv:2404.15574, official code:
github.com/nightdessert/Retrieval_Head (3ac171a6), held to runs of it.

  step t writes w[t], and j = argmax_s a[t, n, s] is a head's strongest token:
  retrieval[n] += 1 / (end - start)   if j is in the needle and prompt[j] = w[t]
  masked       = the 5 % of heads with the greatest mean over samples
  score(x)     = (L_ref(x) - L_base(x)) / L_base(x)     L_ref with masked heads

  mask, _ = head_influence.detect_heads(model, head_influence.samples(seed=0))
  scores = head_influence.influence_score(model, tokens, head_mask=mask)
  chosen = head_influence.select(scores, domains, share=0.2)

A masked head weighs all that it sees alike: its queries are 0, after norms and
positions, in any kernel ("uniform"); or its result is 0 ("zero"). The detector's eager
code masks logits after the causal mask was added, and so shows the future to a masked
head; here it does not. Scores of the proxy task are taken with the true answer given,
in one forward pass, and averaged over the samples of which more than half is right
(the code: ROUGE-1 recall above 50). The floor of the divisor, the cutting of long
documents and the report of a trace are invented here.

Cost: two forward passes a document; detection one a sample, with O(T) memory, since a
row's argmax is all that is read of it.

Axes: B documents, T queries, S keys, N heads, K key heads, H head size, V value size, L
layers.

Not here: the paper's appendix C, which was not read.
"""

import jax
import jax.numpy as jnp

from attnjax.contract import Case
from attnjax.variants.analysis.head_influence.influence import (
  IMPLEMENTATIONS,
  attend,
  influence_score,
  losses,
  mask_heads,
  reference,
  select,
)
from attnjax.variants.analysis.head_influence.proxy import Sample, sample, samples
from attnjax.variants.analysis.head_influence.report import (
  AXES,
  HOSTS,
  MEANINGS,
  analyse,
)
from attnjax.variants.analysis.head_influence.retrieval import (
  accumulate,
  detect_heads,
  greatest,
  retrieval_score,
  scores,
  strongest,
)

__all__ = [
  "AXES",
  "CASES",
  "FORMS",
  "HOSTS",
  "IMPLEMENTATIONS",
  "MEANINGS",
  "Sample",
  "accumulate",
  "analyse",
  "attend",
  "detect_heads",
  "greatest",
  "influence_score",
  "losses",
  "mask_heads",
  "reference",
  "retrieval_score",
  "sample",
  "samples",
  "scores",
  "select",
  "strongest",
]

FORMS = ("analysis",)


def _shapes(B, T, S, N, K, H):
  return {"q": (B, T, N, H), "k": (B, S, K, H), "v": (B, S, K, H)}


def _some(N):
  draw = {"head_mask": lambda key: jax.random.bernoulli(key, 0.5, (N,))}
  return draw | {"causal": True}


def _none(key):
  del key
  return jnp.zeros(2, bool)


def _documents(key):
  del key
  return jnp.array([[0] * 5 + [3] * 4 + [-1] * 3])


CASES = (
  Case("some", _shapes(2, 7, 33, 4, 2, 8), _some(4)),
  Case("one_token", _shapes(1, 1, 1, 2, 1, 4), {"head_mask": _none, "causal": True}),
  Case(
    "zero", _shapes(1, 65, 65, 2, 2, 4), _some(2) | {"kind": "zero", "causal": False}
  ),
  Case(
    "documents",
    _shapes(1, 12, 12, 4, 1, 4),
    _some(4) | {"segment_ids": _documents, "scale": 0.7},
  ),
)
