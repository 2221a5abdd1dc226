"""Functions whose derivative has its own forward and its own transposed form.

`jax.custom_vjp` forbids `jax.jvp`, and the transpose that JAX derives of a
`jax.custom_jvp` rule may be slow. `differentiable` takes both: the tangent map, linear
and in plain JAX, serves `jax.jvp` and derivatives of any order; the transposed map,
written by hand, serves `jax.grad`.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core as jex
from jax.interpreters import ad, batching, mlir

from attnjax.core import devices, modes


def differentiable(
  function: Callable[[Any, Any], Any],
  tangent: Callable[[Any, Any], Any],
  transpose: Callable[[Any, Any], Any],
  named: Callable[[Any], Any] = lambda y: y,
) -> Callable[[Any, Any], Any]:
  """function(x, data) with derivatives by x.

  Args:
    function: of pytrees x, of floats, and data, which has no derivative.
    tangent: ((x, data, y), dx) to dy, where y = function(x, data); linear in dx.
    transpose: ((x, data, y), dy) to dx, the transposed map.
    named: y with the names by which `jax.checkpoint` may save it.
  """
  tangent, transpose = (modes.broadcasting(f) for f in (tangent, transpose))

  @jax.custom_jvp
  def call(x, data):
    return function(x, data)

  @call.defjvp
  def _(primals, tangents):
    x, data = primals
    y = named(call(x, data))
    return y, linear(tangent, transpose, (x, data, y), tangents[0], like=y)

  return call


def linear(tangent, transpose, known, x, *, like):
  """tangent(known, x), linear in x, whose transpose is transpose(known, y).

  Args:
    tangent: (known, x) to y.
    transpose: (known, y) to x.
    known: a pytree, not linear.
    x: a pytree.
    like: a pytree of the shapes and types of y.
  """
  flat_known, known_tree = jax.tree.flatten(known)
  flat_x, x_tree = jax.tree.flatten(x)
  flat_like, like_tree = jax.tree.flatten(like)

  def forward(known, x):
    y = tangent(jax.tree.unflatten(known_tree, known), jax.tree.unflatten(x_tree, x))
    return jax.tree.leaves(y)

  def backward(known, y):
    x = transpose(
      jax.tree.unflatten(known_tree, known), jax.tree.unflatten(like_tree, y)
    )
    return jax.tree.leaves(x)

  shapes = tuple(jax.typeof(y) for y in flat_like)
  y = _linear.bind(
    *flat_known,
    *flat_x,
    forward=forward,
    backward=backward,
    count=len(flat_known),
    shapes=shapes,
  )
  return jax.tree.unflatten(like_tree, y)


_linear = jex.Primitive("linear_with_its_transpose")
_linear.multiple_results = True


@_linear.def_impl
def _run(*arguments, forward, backward, count, shapes):
  del backward, shapes
  return forward(list(arguments[:count]), list(arguments[count:]))


@_linear.def_abstract_eval
def _shapes(*arguments, forward, backward, count, shapes):
  del arguments, forward, backward, count
  return list(shapes)


mlir.register_lowering(_linear, mlir.lower_fun(_run, multiple_results=True))


def _jvp(primals, tangents, *, forward, backward, count, shapes):
  known, x = primals[:count], primals[count:]
  tangents = [ad.instantiate_zeros(t) for t in tangents]
  options = {"backward": backward, "count": count, "shapes": shapes}
  y = _linear.bind(*primals, forward=forward, **options)
  by_x = _linear.bind(*known, *tangents[count:], forward=forward, **options)
  if all(t.dtype == jax.dtypes.float0 for t in tangents[:count]):
    return y, by_x
  _, by_known = jax.jvp(
    lambda *k: forward(list(k), list(x)), known, tuple(tangents[:count])
  )
  return y, [a + b for a, b in zip(by_x, by_known)]


def _transposed(cotangents, *arguments, forward, backward, count, shapes):
  del forward
  known, x = list(arguments[:count]), arguments[count:]
  y = [
    devices.zeros(s) if isinstance(c, ad.Zero) else c
    for c, s in zip(cotangents, shapes)
  ]
  result = backward(known, y)
  wanted = [r if ad.is_undefined_primal(a) else None for r, a in zip(result, x)]
  return [None] * count + wanted


def _batched(arguments, axes, *, forward, backward, count, shapes):
  size = next(a.shape[i] for a, i in zip(arguments, axes) if i is not None)
  known = [
    a if i is None else jnp.moveaxis(a, i, 0) for a, i in zip(arguments[:count], axes)
  ]
  where = [None if i is None else 0 for i in axes[:count]]
  x = [
    jnp.broadcast_to(a, (size, *a.shape)) if i is None else jnp.moveaxis(a, i, 0)
    for a, i in zip(arguments[count:], axes[count:])
  ]
  y = _linear.bind(
    *known,
    *x,
    forward=jax.vmap(forward, in_axes=(where, 0)),
    backward=jax.vmap(backward, in_axes=(where, 0)),
    count=count,
    shapes=tuple(s.update(shape=(size, *s.shape)) for s in shapes),
  )
  return y, [0] * len(y)


ad.primitive_jvps[_linear] = _jvp
ad.primitive_transposes[_linear] = _transposed
batching.primitive_batchers[_linear] = _batched
