"""DaViT: attention in windows of tokens, then between channels of all tokens.

Mingyu Ding, Bin Xiao, Noel Codella, Ping Luo, Jingdong Wang, Lu Yuan. DaViT: Dual
Attention Vision Transformers. 2022. arXiv:2204.03645. Official code:
github.com/dingmyu/davit (commit fc79470).

Channel attention, for each group of channels (a head):

  A = softmax_c(scale sum_t k[t, a] v[t, c])        (H, V), rows sum to 1
  out[t, a] = sum_c A[a, c] q[t, c]

A token of it is a whole map, so it is global at a cost linear in T. The roles are those
of the code: with other names it is softmax(q^T k) v^T. The scale is H^-0.5, and the
logits grow with T; "tokens" is T^-0.5, as in later models.

Window attention is softmax attention inside windows. A map that they do not tile is
padded with zeros before the projections, and the padding is seen, as in the code. The
kernels, "pallas" and "triton", are for windows; channels are matrix products.

Cost: channels O(T H V N) time, O(H V N) memory beside the inputs; windows O(T w^2 H N).

Axes: B batch, T tokens, N heads or groups, H key size, V query and value size, D width.
"""

from attnjax.variants.local.davit import attention, windows
from attnjax.variants.local.davit.attention import (
  IMPLEMENTATIONS,
  REFUSED,
  attend,
  reference,
)
from attnjax.variants.local.davit.backbone import PARAMETERS, SIZES, Block, Model
from attnjax.variants.local.davit.layer import Layer
from attnjax.variants.local.davit.windows import (
  attend_windows,
  reference_attend_windows,
)

__all__ = [
  "CASES",
  "FORMS",
  "GROWTH",
  "IMPLEMENTATIONS",
  "LAYER",
  "PARAMETERS",
  "REFUSED",
  "SIZES",
  "Block",
  "Layer",
  "Model",
  "attend",
  "attend_windows",
  "reference",
  "reference_attend_windows",
]
CASES = windows.CASES + attention.CASES
FORMS = ("sequence", "image", "backbone")
LAYER = {"dim": 32, "heads": 4, "window": 3}
GROWTH = 1.0
