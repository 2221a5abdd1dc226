"""Grids cut into windows, dilated grids and overlapping blocks, and orders of tokens.

Grids are x (B, *S, ...) with one to three axes S. Places, masks and orders, which
depend on the shape alone, are NumPy arrays. Grids are cut by pads, reshapes and
transposes, and so are their gradients: nothing is gathered or scattered.

Windows with cyclic shifts: Ze Liu et al. Swin Transformer. arXiv:2103.14030. Dilated
grids: Zhengzhong Tu et al. MaxViT. arXiv:2204.01697. Wenxiao Wang et al. CrossFormer.
arXiv:2108.00154. Blocks with halos: Ashish Vaswani et al. arXiv:2103.12731.

Axes: B batch, S axes of the grid (T = prod S), W windows, P tokens of a window.
"""

from attnjax.core.grids.partition.halos import Halos
from attnjax.core.grids.partition.orders import (
  hilbert_order,
  inverse,
  offsets,
  relative,
  window_order,
)
from attnjax.core.grids.partition.windows import Partition, grid

__all__ = [
  "Halos",
  "Partition",
  "grid",
  "hilbert_order",
  "inverse",
  "offsets",
  "relative",
  "window_order",
]
