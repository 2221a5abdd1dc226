"""OverLoCK: kernels mixed from a coarse view of the context, applied to windows.

Meng Lou, Yizhou Yu. OverLoCK: An Overview-first-Look-Closely-next ConvNet with
Context-Mixing Dynamic Kernels. CVPR 2025. arXiv:2502.20087. Official code:
github.com/LMMMEng/OverLoCK (commit 2c8ab3b).

  a[p]   = (q[p] . r[l])_l                 l over L = 49 means of the context, q scaled
  z[p,t] = sum_l a[p, l] W[l, t] + b[t] + bias[j - i + k - 1]
  y[p]   = sum_t softmax_t(z[p]) v[j(p, t)]

Pixel p has the coordinate i on an axis of length n; its window of k taps holds the keys
j from clip(i - k div 2, 0, n - k) on. W and b serve all groups.

Cost: H W G L k^2 products for the weights and H W G k^2 c to apply them; memory O(H W G
(L + c)), and H W G k^2 c in "reference".

Axes: B batch, H W the map, G groups, d size of a query, L regions, P = k^2 taps, c size
of a value.

Not here: the layers and the network.
"""

from attnjax.variants.local.overlock.mixing import (
  CASES,
  IMPLEMENTATIONS,
  mix,
  reference,
)

__all__ = ["CASES", "FORMS", "IMPLEMENTATIONS", "mix", "reference"]
FORMS = ()
