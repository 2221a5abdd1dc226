"""Connected regions of the highest pixels, and the picture that they leave."""

import numpy as np
from jaxtyping import Bool, Float, Int

from attnjax.contract import check_known
from attnjax.variants.analysis.contrastive_focus import resize

STRATEGIES = ("attention_sum", "size", "remove_small")
# The code's versions: (steps, strategy).
VERSIONS = {
  "v1": ("first", "remove_small"),
  "v2": ("first", "size"),
  "v3": ("first", "attention_sum"),
  "v4": ("all", "attention_sum"),
}
_SMALL = 0.1  # percent of the picture's pixels, of "remove_small"


def select_regions(
  S: Float[np.ndarray, "H W"],
  top_p: float = 0.2,
  keep: int = 3,
  strategy: str = "attention_sum",
  *,
  connectivity: int = 1,
) -> Bool[np.ndarray, "H W"]:
  """Returns the mask of the best connected regions among the highest pixels.

  Pixels from the (1 - top_p)-quantile of S on form regions. Of R regions the
  max(keep, int(R top_p)) first are kept, ranked by the sum of S within or by their
  number of pixels, and of equal ones those whose first pixel comes earlier; or, by
  "remove_small", all but those below a thousandth of the picture.

  Args:
    S: the fused map.
    top_p: the share of the pixels that is kept before the regions are chosen.
    keep: the least number of regions, where there are so many.
    strategy: one of STRATEGIES.
    connectivity: 1: pixels touch by their sides; 2: by corners, too.

  Raises:
    ValueError: for an unknown strategy, or a share that is none.
  """
  check_known("strategy", strategy, STRATEGIES)
  if not 0 <= top_p <= 1:
    raise ValueError(f"top_p = {top_p}; it must be from 0 to 1")
  labels = label(S >= np.quantile(S, 1 - top_p), connectivity)
  number = labels.max()
  sizes = np.bincount(labels.ravel(), minlength=number + 1)[1:]
  if strategy == "remove_small":
    chosen = np.flatnonzero(sizes >= int(S.size * _SMALL / 100))
  else:
    sums = np.bincount(labels.ravel(), S.ravel(), minlength=number + 1)[1:]
    rank = np.argsort(-(sums if strategy == "attention_sum" else sizes), kind="stable")
    chosen = rank[: max(keep, int(number * top_p))]
  return np.isin(labels, chosen + 1)


def label(
  mask: Bool[np.ndarray, "H W"], connectivity: int = 1
) -> Int[np.ndarray, "H W"]:
  """Returns a mask with its connected regions numbered in the order of first pixels.

  Runs of each row are joined to those that they touch in the row above (union-find).

  Args:
    mask: True within regions.
    connectivity: 1: pixels touch by their sides; 2: by corners, too.

  Raises:
    ValueError: for another connectivity.
  """
  if connectivity not in (1, 2):
    raise ValueError(f"connectivity = {connectivity}; it must be 1 or 2")
  edges = np.diff(np.pad(mask.astype(np.int8), ((0, 0), (1, 1))), axis=1)
  runs = [
    (row, int(a), int(b))
    for row in range(len(mask))
    for a, b in zip(np.flatnonzero(edges[row] == 1), np.flatnonzero(edges[row] == -1))
  ]
  parent = list(range(len(runs)))

  def root(i):
    while parent[i] != i:
      i = parent[i] = parent[parent[i]]
    return i

  above: list[int] = []
  reach, now = connectivity - 1, []
  for i, (row, a, b) in enumerate(runs):
    if now and runs[now[0]][0] != row:
      above, now = now, []
    for j in above:
      earlier, first, end = runs[j]
      if earlier == row - 1 and a < end + reach and first < b + reach:
        low, high = sorted((root(i), root(j)))
        parent[high] = low
    now.append(i)
  numbers = {r: n for n, r in enumerate(sorted({root(i) for i in parent}), start=1)}
  found = np.zeros(mask.shape, np.int64)
  for i, (row, a, b) in enumerate(runs):
    found[row, a:b] = numbers[root(i)]
  return found


def box(mask: Bool[np.ndarray, "H W"]) -> tuple[int, int, int, int]:
  """Returns (left, top, right, bottom) of a mask, exclusive; all of it if empty."""
  if not mask.any():
    return 0, 0, mask.shape[1], mask.shape[0]
  rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
  return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def focus_image(
  image: Float[np.ndarray, "H W C"], mask: Bool[np.ndarray, "H W"]
) -> tuple[Float[np.ndarray, "h w C"], tuple[int, int, int, int]]:
  """Returns (the masked, cropped and magnified picture, the crop's box).

  The crop is scaled by max(W / w, H / h) with its aspect kept, by Lanczos' filter, so
  that one side has the picture's length and the other may have more.

  Args:
    image: the picture.
    mask: what stays; all else is 0.
  """
  left, top, right, bottom = box(mask)
  height, width = bottom - top, right - left
  cut = (image * mask[..., None] if mask.any() else image)[top:bottom, left:right]
  scale = max(image.shape[1] / width, image.shape[0] / height)
  size = round(height * scale), round(width * scale)
  large = resize.resized(cut.astype(np.float64), size, "lanczos")
  return large.astype(image.dtype), (left, top, right, bottom)
