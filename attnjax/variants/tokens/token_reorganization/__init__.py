"""EViT: tokens to which the class token attends stay, the others become one token.

Youwei Liang, Chongjian Ge, Zhan Tong, Yibing Song, Jue Wang, Pengtao Xie. Not All
Patches are What You Need: Expediting Vision Transformers via Token Reorganizations.
2022. arXiv:2202.07800. Official code: github.com/youweiliang/evit (commit 5ca95a7).

In some blocks, between attention and MLP, for P patches behind the class token:

  a    = mean_n softmax_s(H^-0.5 q[0, n] . k[s, n])       of the patches, (P,)
  kept = the M = ceil(keep_ratio P) patches of the greatest a, by falling a
  f    = sum_{j not kept} a_j x_j                          after the residual
  x    = [x_0, x_kept, f]                                  M + 2 tokens; if M = P, x

f is a token like any other afterwards. The weights are not renormalised: those of kept
and of fused patches and a of the class token itself add up to 1. Gradients go through
x and through a in f, not through the choice. There are no parameters. During training
`keep_ratio` falls from 1 by a cosine, `keep_schedule`: with a program for each of a few
values, which `--config.phases` of a run takes, or in one program with masks in place of
gathers, `masked_logits`.

`Reducer` is the same between the blocks of other hosts, in the order of the row.

Cost: attention and MLPs of the tokens that are left; O(P N H) for a, O(P log P) for the
choice, O(P D) for f. `masked_logits` costs what all tokens cost.

Axes: B batch, T tokens, P patches, M patches that stay, R tokens that are left, N
heads, H head size, D model width.

Not here: attention dropout, which the ranking would include; numbers of tokens in place
of keep rates (`tokens` of the authors' forward pass); bicubic interpolation of
positions for more patches (it is linear here); distillation tokens; the oracle
as initial weights; kernels of its own.
"""

from attnjax.variants.tokens.token_reorganization.backbone import (
  PARAMETERS,
  SIZES,
  Block,
  Model,
)
from attnjax.variants.tokens.token_reorganization.cases import CASES
from attnjax.variants.tokens.token_reorganization.definition import (
  reference_class_attention,
  reference_reduce_tokens,
  reference_reorganize,
  reference_reorganize_masked,
)
from attnjax.variants.tokens.token_reorganization.masked import (
  masked_logits,
  reorganize_masked,
)
from attnjax.variants.tokens.token_reorganization.reducer import SCORES, Reducer
from attnjax.variants.tokens.token_reorganization.reorganize import (
  IMPLEMENTATIONS,
  class_attention,
  count_kept,
  reduce_tokens,
  reorganize,
)
from attnjax.variants.tokens.token_reorganization.schedule import (
  keep_schedule,
  token_counts,
)

__all__ = [
  "CASES",
  "FORMS",
  "IMPLEMENTATIONS",
  "PARAMETERS",
  "REDUCER",
  "SCORES",
  "SIZES",
  "WHOLE",
  "Block",
  "Model",
  "Reducer",
  "class_attention",
  "count_kept",
  "keep_schedule",
  "masked_logits",
  "reduce_tokens",
  "reference_class_attention",
  "reference_reduce_tokens",
  "reference_reorganize",
  "reference_reorganize_masked",
  "reorganize",
  "reorganize_masked",
  "token_counts",
]
FORMS = ("tokens", "backbone")
REDUCER = {"keep_ratio": 0.6, "prefix": 1}
WHOLE = {"keep_ratio": 1.0}
