"""SALE: 4-bit scores say which blocks of keys a prompt's queries attend to.

Xiaodong Ji, Hailin Zhang, Fangcheng Fu, Bin Cui. SALE: Low-bit Estimation for Efficient
Sparse Attention in Long-context LLM Prefilling. 2025. arXiv:2505.24179. Official code:
github.com/BirdChristopher/SALE, commit 39d380c. Training-free.

For each head, c = H^-0.5, blocks I of 64 queries and J of 32 keys:

  q' = q - mean(q),  k' = k - mean(k),  m[j] = mean(q) . k'[j]    means over the prompt
  code = round(x' / s),  s = max |x'| / 7                         of each token
  near(I)   the first block of keys, the last 128 keys up to the end of I, and as many
            before them as leave a multiple of 128 keys
  M, L      max of score[i, j] = q[i] . k'[j] over near(I), sum of exp(c (score - M))
  rough[i, j] = s[i] s[j] (code[i] . code[j]) + m[j]
  seen(I)   = near(I) and the blocks J, before I, in which for some i, j
              exp(c (rough[i, j] - M[i])) / L[i] > tau
  out       = exact causal attention to seen(I)

L of what is near is at most the whole sum: too much is kept rather than too little. A
head of tau < 1e-5 is dense, and so are prompts of up to 1024 tokens. `calibrate` finds
tau for each head. With "group", the authors' default for their tensor cores, tokens
share scales and m is rounded to a multiple of s[i] s[j].

Means are over the whole prompt: what an early query selects depends on later tokens,
its exact scores do not. Documents, padding and later steps are those of the form
"policy". The authors' thresholds and scales are rounded to 16 bits, ours are not.

Cost: T^2 H / 2 products of codes for the rough scores, in 8 bits in the kernels of
`pallas_kernels.low_bit_selection`, and exact attention to what is seen; memory a number
for each 2,048 scores of a head. "xla" holds the scores of 128 queries at a time.

Axes: B batch, T tokens, N query heads, K key/value heads, H head size, Q and S blocks
of queries and of keys.

Not here: one kernel for both passes, products in 4 bits, exact scores in 8 bits, the
variant in which M and L run on as blocks are added, and tiles of the exact pass as
small as blocks: where its tiles do not divide them it tests elements, T^2 bytes a head.
"""

from attnjax.variants.sparse.sale.attention import (
  CASES,
  IMPLEMENTATIONS,
  attend,
  listed,
)
from attnjax.variants.sparse.sale.calibration import calibrate, density, table
from attnjax.variants.sparse.sale.definition import reference, reference_select
from attnjax.variants.sparse.sale.policy import Policy
from attnjax.variants.sparse.sale.quantizer import (
  BITS,
  GRANULARITIES,
  Codes,
  pack,
  quantize,
  unpack,
)
from attnjax.variants.sparse.sale.regions import Sizes
from attnjax.variants.sparse.sale.selection import excesses, near, select, thresholds

FORMS = ("policy",)
POLICY = {
  "tau": 0.1,
  "block_q": 4,
  "block_k": 2,
  "local": 4,
  "segment": 2,
  "dense_length": 0,
}
COVERING = POLICY | {"tau": 0.0}

__all__ = [
  "BITS",
  "CASES",
  "COVERING",
  "FORMS",
  "GRANULARITIES",
  "IMPLEMENTATIONS",
  "POLICY",
  "Codes",
  "Policy",
  "Sizes",
  "attend",
  "calibrate",
  "density",
  "excesses",
  "listed",
  "near",
  "pack",
  "quantize",
  "reference",
  "reference_select",
  "select",
  "table",
  "thresholds",
  "unpack",
]
