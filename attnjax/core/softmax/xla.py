"""Softmax attention in plain JAX, on any device: memory linear in T and S.

Small matrices of scores are computed whole, larger ones in tiles.
"""

import functools
import math
from typing import Any

import jax
from jaxtyping import Array, Float

from attnjax.core import devices, programs
from attnjax.core.dtypes import accumulator_dtype
from attnjax.core.scores import Scores
from attnjax.core.softmax import gradients, tiling, xla_dense
from attnjax.core.softmax import jvp as tangent_map
from attnjax.core.softmax import xla_backward as backward_pass
from attnjax.core.softmax import xla_forward as forward_pass
from attnjax.core.softmax.reference import check, reference
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
  if isinstance(scale, jax.Array):
    scores, scale = scores.times(scale), 1.0
  q, k, v, sinks, scores = devices.vary((q, k, v, sinks, scores))
  shape, dtype = (q.shape[0], q.shape[2], q.shape[1], k.shape[1]), accumulator_dtype(q)
  if tiles is None and shape[2] * shape[3] > xla_dense.MATRIX:
    tiles = tiling.defaults(q, k, scores.mask)
  sides = (None, None) if tiles is None else tiles
  blocks = [one and (one.rows, one.columns) for one in sides]
  program = programs.program(scores, shape, dtype)
  program = programs.listed(program, scores, [*filter(None, blocks)], dtype)
  schedules = programs.schedules(scores, shape, blocks)
  # XLA divides products of whole matrices by itself, loops it does not.
  local = tiles is not None or math.prod(shape) > xla_dense.STEP
  run = gradients.differentiable(_passes(tiles, scale, precision, local))
  out, *sums = run(*gradients.arguments(q, k, v, sinks, program, schedules))
  return out, gradients.logarithm(*sums)


def _passes(tiles, scale, precision, local: bool) -> gradients.Passes:
  """Returns the passes, each on its device's batches and heads if `local`."""
  functions: Any = (xla_dense.forward, None), (xla_dense.backward, None)
  if tiles is not None:
    functions = (forward_pass.forward, tiles[0]), (backward_pass.backward, tiles[1])
  forward, backward = (
    devices.per_device(
      functools.partial(_exact, *function, scale, precision), *labels, local=local
    )
    for function, labels in zip(functions, (gradients.FORWARD, gradients.BACKWARD))
  )
  tangent = functools.partial(_exact, tangent_map.tangent, None, scale, precision)
  return gradients.Passes(forward, backward, tangent)


def _exact(function, tiles, scale, precision, *arguments):
  """Runs a pass with products of that precision, wherever JAX traces it."""
  options = {"scale": scale}
  if tiles is not None:
    q, k, schedule = arguments[0], arguments[1], arguments[-1]
    apart = schedule.index.shape[1] > 1
    options["tiles"] = tiles.fitted(q.shape[2], k.shape[2], apart)
  with jax.default_matmul_precision(precision):
    return function(*arguments, **options)
