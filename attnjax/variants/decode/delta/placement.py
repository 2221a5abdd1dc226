"""Placement of the layers of full attention, by a calibration run or their number."""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

_PAPER, _OF = (0, 1, 2, 14, 22), 28


def changes(weights: Sequence[Float[Array, "B N T S"]]) -> Float[Array, "L"]:
  """Measures how far attention changes from each layer to the next.

  d[l] = 1 - cos(a[l - 1], a[l]), the mean over examples; d[0] = 0. arXiv:2510.09883,
  section 3.

  Args:
    weights: of all layers in a run with full attention, `model.weights(tokens)`.
  """
  maps = [jnp.asarray(w, jnp.float32).mean(axis=1).reshape(len(w), -1) for w in weights]
  found = [jnp.zeros(())]
  for before, after in zip(maps, maps[1:]):
    product = (before * after).sum(axis=1)
    norms = jnp.linalg.norm(before, axis=1) * jnp.linalg.norm(after, axis=1)
    found.append(1 - (product / norms).mean())
  return jnp.stack(found)


def full_layers(
  weights: Sequence[Float[Array, "B N T S"]],
  *,
  selections: int = 3,
  dense: int = 2,
  distance: int = 0,
) -> tuple[int, ...]:
  """Returns the layers of full attention by a calibration run, in ascending order.

  The first `dense` layers, and `selections` layers at the largest changes, at least
  `distance` apart; fewer if there is no more room.

  Args:
    weights: as in `changes`.
    selections: number of layers that choose pages.
    dense: first layers, which no choice precedes.
    distance: between selections; layers / (2 selections), rounded down, if 0, which is
      ours.

  Raises:
    ValueError: if no layer is dense or none chooses.
  """
  if dense < 1 or selections < 1:
    raise ValueError(f"dense = {dense}, selections = {selections}: at least 1 each")
  layers = len(weights)
  distance = max(distance or layers // (2 * selections), 1)
  found: list[int] = []
  for layer in np.argsort(-np.asarray(changes(weights)), kind="stable").tolist():
    near = any(abs(layer - other) < distance for other in found)
    if layer >= dense and not near and len(found) < selections:
      found.append(layer)
  return tuple(sorted({*range(min(dense, layers)), *found}))


def spread_layers(layers: int) -> tuple[int, ...]:
  """Returns layers of full attention for a model without a calibration run.

  In proportion to {0, 1, 2, 14, 22} of 28 layers, those of the authors' 1.5B model; for
  less than 8 layers 0 and, of 4 layers or more, the middle one, which is ours.
  """
  if layers < 8:
    return (0, layers // 2) if layers > 3 else (0,)
  late = {layer * layers // _OF for layer in _PAPER[3:]}
  return tuple(sorted({*_PAPER[:3], *late}))


def overlaps(chosen: Sequence[Bool[Array, "B P"]]) -> list[float]:
  """Measures which share of a layer's pages the layer before it chose, too.

  The premise of the method is that adjacent layers attend to equal tokens.

  Args:
    chosen: pages that each layer would choose, as many in every layer.
  """
  pairs = zip(chosen, chosen[1:])
  return [float((a & b).sum() / jnp.maximum(b.sum(), 1)) for a, b in pairs]
