"""Softmax attention in tiles, in plain JAX: memory linear in T and S, on any device."""

import functools
from typing import Any

import jax
from jaxtyping import Array, Float

from attnjax.core.scores import Scores
from attnjax.core.softmax import backward as backward_pass
from attnjax.core.softmax import forward as forward_pass
from attnjax.core.softmax import planned, tiling
from attnjax.core.softmax import tangent as tangent_map
from attnjax.core.softmax.definition import check, reference
from attnjax.core.softmax.fused import Form
from attnjax.core.softmax.tiling import Tiles

# Up to so many queries the whole matrix of scores is as small as the keys, and faster.
FEW = 8


def chunked(
  q: Float[Array, "B T N H"],
  k: Float[Array, "B S K H"],
  v: Float[Array, "B S K V"],
  scores: Scores | None = None,
  *,
  sinks: Float[Array, "N"] | None = None,
  scale: float | None = None,
  precision: Any = None,
  tiles: tuple[Tiles, Tiles] | None = None,
) -> tuple[Float[Array, "B T N V"], Float[Array, "B T N"]]:
  """(out, lse) over the listed tiles only; see the package's docstring.

  Args:
    q: queries.
    k: keys.
    v: values.
    scores: what is done to scores.
    sinks: logits in the denominator only.
    scale: H^-0.5 if None.
    precision: of the products.
    tiles: of the forward and of the backward pass.
  """
  scores = Scores() if scores is None else scores
  check(q, k, v, scores, sinks)
  scale = q.shape[-1] ** -0.5 if scale is None else scale
  if tiles is None and q.shape[1] <= FEW:
    with jax.default_matmul_precision(precision):
      return reference(q, k, v, scores, sinks=sinks, scale=scale)
  tiles = tiling.defaults(q, k, scores.mask) if tiles is None else tiles
  form = Form(
    functools.partial(_exact, forward_pass.forward, precision, tiles[0]),
    functools.partial(_exact, backward_pass.backward, precision, tiles[1]),
    functools.partial(_exact, tangent_map.tangent, precision, None),
  )
  blocks = tuple((t.rows, t.columns) for t in tiles)
  return planned.attend(form, q, k, v, scores, sinks=sinks, scale=scale, blocks=blocks)


def _exact(function, precision, tiles, *arguments, **options):
  """The pass with products of that precision, wherever JAX traces it."""
  if tiles is not None:
    q, k, schedule = arguments[0], arguments[1], arguments[-1]
    apart = schedule.index.shape[1] > 1
    options["tiles"] = tiles.fitted(q.shape[2], k.shape[2], apart)
  with jax.default_matmul_precision(precision):
    return function(*arguments, **options)
