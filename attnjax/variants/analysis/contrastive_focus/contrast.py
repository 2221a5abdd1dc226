"""Contrast of two attention maps, and its fusion over layers and steps."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from attnjax.contract import check_known
from attnjax.variants.analysis.contrastive_focus import resize

STEPS = ("all", "first", "last")


def contrast(a_q: Any, a_g: Any, lam: float = 1e-8) -> Any:
  """Computes a_q / (a_g + lam), the contrast of two attention maps.

  It minimises the sum of (x a_g - a_q)^2 + lam x^2 a_g over x (equation 8). The map
  `a_g` of a general instruction holds the noise of the picture; where it is near 0
  lam = 1e-8 protects nothing: take some 0.01 / P.

  Args:
    a_q: attention under the question, not negative, not renormalised.
    a_g: attention under the general instruction, of the same shape.
    lam: lambda.
  """
  return a_q / (a_g + lam)


def fuse(
  maps_q: Float[np.ndarray, "S L P"],
  maps_g: Float[np.ndarray, "R L P"],
  grid: tuple[int, int],
  out_hw: tuple[int, int],
  *,
  layers: Sequence[int] = (20, 21, 22, 23, 24, 25),
  step_mode: str = "all",
  lam: float = 1e-8,
) -> Float[np.ndarray, "H W"]:
  """Adds contrasts of all layers and steps of generation, on the pixels of a picture.

  Step t of both maps is paired, and has the weight t = 1, 2, ...; what one of them has
  more is left out. Layers that the model does not have are left out, as in the code.

  Args:
    maps_q: attention under the question, of each step and layer.
    maps_g: attention under the general instruction.
    grid: (rows, columns) of the picture's tokens, P of them, row by row.
    out_hw: height and width of the picture.
    layers: from 0.
    step_mode: "all"; "first", or "last" of the common steps, with weight 1.
    lam: lambda of `contrast`.

  Raises:
    ValueError: for an unknown mode, maps that do not fit, no step, and no layer.
  """
  check_known("step_mode", step_mode, STEPS)
  steps = min(len(maps_q), len(maps_g))
  own = [layer for layer in layers if layer < maps_q.shape[1]]
  if maps_q.shape[1:] != maps_g.shape[1:] or maps_q.shape[2] != grid[0] * grid[1]:
    raise ValueError(f"maps {maps_q.shape}, {maps_g.shape} on a grid {tuple(grid)}")
  if not steps or not own:
    raise ValueError(f"{steps} steps and layers {tuple(layers)} of {maps_q.shape[1]}")
  chosen = {"all": range(steps), "first": [0], "last": [steps - 1]}[step_mode]
  total = np.zeros(grid, np.float64)
  for step in chosen:
    q, g = (np.asarray(x[step][own], np.float64) for x in (maps_q, maps_g))
    weight = step + 1 if step_mode == "all" else 1
    total += weight * contrast(q, g, lam).sum(axis=0).reshape(grid)
  return resize.resized(total, out_hw, "bilinear")
