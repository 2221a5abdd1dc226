"""An algebra of masks, which say who may see whom, and their lists of blocks.

  masks.Causal() & masks.Segments(ids, ids) & ~masks.Window(0, 0)

Boolean masks are True where a query may attend. A token whose segment id is negative
sees nothing and is seen by nothing: padding is written in this way.
"""

from attnjax.core.masks.algebra import (
  And,
  Mask,
  Not,
  Or,
  PerHead,
  per_head,
)
from attnjax.core.masks.arrays import (
  Dense,
  Global,
  Intervals,
  Segments,
  packed_bits,
  tree,
)
from attnjax.core.masks.blocks import Blocks, select
from attnjax.core.masks.grids import Neighborhood
from attnjax.core.masks.order import Permuted, permute
from attnjax.core.masks.plot import draw, text
from attnjax.core.masks.positional import (
  BlockDiffusion,
  Causal,
  Chunked,
  Dilated,
  Full,
  Lengths,
  Where,
  Window,
  prefix_lm,
  sinks,
)
from attnjax.core.masks.schedule import (
  EMPTY,
  FULL,
  PARTIAL,
  Schedule,
  kinds,
  schedule,
  scheduled,
  seen_test,
)
from attnjax.core.masks.segments import conjunction, documents, segments

__all__ = [
  "EMPTY",
  "FULL",
  "PARTIAL",
  "And",
  "BlockDiffusion",
  "Blocks",
  "Causal",
  "Chunked",
  "Dense",
  "Dilated",
  "Full",
  "Global",
  "Intervals",
  "Lengths",
  "Mask",
  "Neighborhood",
  "Not",
  "Or",
  "PerHead",
  "Permuted",
  "Schedule",
  "Segments",
  "Where",
  "Window",
  "conjunction",
  "documents",
  "draw",
  "kinds",
  "packed_bits",
  "per_head",
  "permute",
  "prefix_lm",
  "schedule",
  "scheduled",
  "seen_test",
  "segments",
  "select",
  "sinks",
  "text",
  "tree",
]
