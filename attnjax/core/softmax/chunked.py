"""Softmax attention in plain JAX, on any device: memory linear in T and S.

Small matrices of scores are computed whole, larger ones in tiles.
"""

import functools
from typing import Any

import jax
from jaxtyping import Array, Float

from attnjax.core.scores import Scores
from attnjax.core.softmax import backward as backward_pass
from attnjax.core.softmax import forward as forward_pass
from attnjax.core.softmax import planned, tiling, whole
from attnjax.core.softmax import tangent as tangent_map
from attnjax.core.softmax.definition import check, reference
from attnjax.core.softmax.fused import Form
from attnjax.core.softmax.tiling import Tiles


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
  """Returns (out, lse), over the listed tiles only; see the package's docstring.

  Args:
    q: queries.
    k: keys.
    v: values.
    scores: the mask and the modifications of scores; None for none.
    sinks: logits in the denominator only.
    scale: H^-0.5 if None.
    precision: of the products.
    tiles: of the forward and of the backward pass, whatever the size.
  """
  scores = Scores() if scores is None else scores
  check(q, k, v, scores, sinks)
  scale = q.shape[-1] ** -0.5 if scale is None else scale
  if any(not isinstance(size, int) for x in (q, k, v) for size in x.shape):
    # Sizes that `jax.export` leaves open have no tiles.
    with jax.default_matmul_precision(precision):
      return reference(q, k, v, scores, sinks=sinks, scale=scale)
  given = {"sinks": sinks, "scale": scale}
  if tiles is None and q.shape[1] * k.shape[1] > whole.MATRIX:
    tiles = tiling.defaults(q, k, scores.mask)
  passes: Any = (whole.forward, None), (whole.backward, None)
  if tiles is not None:
    passes = (forward_pass.forward, tiles[0]), (backward_pass.backward, tiles[1])
  forward, backward = (
    functools.partial(_exact, function, precision, sides) for function, sides in passes
  )
  tangent = functools.partial(_exact, tangent_map.tangent, precision, None)
  form = Form(forward, backward, tangent)
  blocks = tuple(t and (t.rows, t.columns) for _, t in passes)
  # XLA divides products of whole matrices by itself, loops it does not.
  one = (
    tiles is None and q.shape[0] * q.shape[2] * q.shape[1] * k.shape[1] <= whole.STEP
  )
  return planned.attend(form, q, k, v, scores, **given, blocks=blocks, local=not one)


def _exact(function, precision, tiles, *arguments, **options):
  """Runs a pass with products of that precision, wherever JAX traces it."""
  if tiles is not None:
    q, k, schedule = arguments[0], arguments[1], arguments[-1]
    apart = schedule.index.shape[1] > 1
    options["tiles"] = tiles.fitted(q.shape[2], k.shape[2], apart)
  with jax.default_matmul_precision(precision):
    return function(*arguments, **options)
