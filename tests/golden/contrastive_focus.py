"""The authors' fusion of contrasts, their regions and the box of the crop."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from attnjax.variants.analysis import contrastive_focus


def compare(
  arrays: Mapping[str, np.ndarray], meta: dict
) -> Iterator[tuple[str, Any, np.ndarray]]:
  """(key of the file, attnjax's result, the file's) for each result of the file."""
  width, height = meta["image_size_wh"]
  fused = contrastive_focus.fuse(
    arrays["in.query_maps"],
    arrays["in.general_maps"],
    tuple(meta["grid"]),
    (height, width),
    layers=meta["layers"],
    step_mode=meta["step_mode"],
    lam=meta["lam"],
  )
  yield "out.fused", fused, arrays["out.fused"]
  mask = contrastive_focus.select_regions(
    fused, meta["top_percent"], meta["min_keep_regions"], meta["strategy"]
  )
  yield "out.mask", mask, arrays["out.mask"]
  yield "out.bbox", np.array(contrastive_focus.box(mask)), arrays["out.bbox"]
