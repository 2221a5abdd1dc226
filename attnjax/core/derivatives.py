"""Functions whose derivative has its own forward and its own transposed form.

`jax.custom_vjp` forbids `jax.jvp`, and the transpose that JAX derives of a
`jax.custom_jvp` rule may be slow. `differentiable` takes both: the tangent map, linear
and in plain JAX, serves `jax.jvp` and derivatives of any order; the transposed map,
written by hand, serves `jax.grad`.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.custom_derivatives import SymbolicZero
from jax.extend import core as jex
from jax.interpreters import ad, batching, mlir

from attnjax.core import devices


def differentiable(
  function: Callable[[Any, Any], tuple],
  tangent: Callable[..., tuple],
  transpose: Callable[..., Any],
  *,
  saved: Sequence[str] = (),
  keeps_output: bool = True,
) -> Callable[[Any, Any], tuple]:
  """Returns function(x, data) with derivatives of any order by the floats of x.

  `jax.grad` takes `transpose`; `jax.jvp` and all derivatives of derivatives take
  `tangent`, in whose place stands a function that raises where there is none. Both are
  told which leaves of x change, so that no gradient is computed that nobody asks for.

  Args:
    function: computes y, a tuple of arrays, of pytrees x and data; by data there is no
      derivative. It closes over no array.
    tangent: computes dy of (x, data, y, dx), linear in dx, which is x's tree with None
      in the place of the leaves that do not change.
    transpose: computes the gradient, in the tree of x, of (x, data, y, dy, wanted);
      `wanted` is that tree with booleans, the other leaves of the result may be None.
    saved: names of the arrays of y, by which `jax.checkpoint` may save them.
    keeps_output: False gives None for y: it need not be kept for the backward pass.
  """
  call = jax.custom_jvp(function)

  def rule(primals, tangents):
    y = call(*primals)
    y = tuple(map(checkpoint_name, y, saved)) if saved else y
    tree, changes = jax.tree.structure(primals[0]), jax.tree.leaves(tangents[0])
    which = [i for i, x in enumerate(changes) if not isinstance(x, SymbolicZero)]
    maps = _maps(tangent, transpose, tree, which)
    known = *primals, y if keeps_output else None
    return y, linear(*maps, known, [changes[i] for i in which], like=y)

  call.defjvp(rule, symbolic_zeros=True)
  return call


def _maps(tangent, transpose, tree, which):
  """Returns (tangent, transpose) of the changing leaves of x, for `linear`."""
  wanted = tree.unflatten([i in which for i in range(tree.num_leaves)])

  def moved(known, dx):
    dx = dict(zip(which, dx))
    dx = tree.unflatten([dx.get(i) for i in range(tree.num_leaves)])
    with jax.numpy_rank_promotion("allow"):
      return tangent(*known, dx)

  @jax.custom_jvp
  def pulled(known, dy):
    with jax.numpy_rank_promotion("allow"):
      found = tree.flatten_up_to(transpose(*known, dy, wanted))
    x = jax.tree.leaves(known[0])
    return [found[i].astype(x[i].dtype) for i in which]

  @pulled.defjvp
  def _(primals, tangents):
    def slowly(known, dy):
      x = jax.tree.leaves(known[0])
      one = jax.linear_transpose(lambda dx: moved(known, dx), [x[i] for i in which])
      return one(dy)[0]

    return jax.jvp(slowly, primals, tangents)

  return moved, pulled


def tangent_of(function: Callable[[Any, Any], tuple]) -> Callable[..., tuple]:
  """Returns the tangent map, as `differentiable` takes it, of plain JAX."""

  def tangent(x, data, y, dx):
    del y
    flat, tree = jax.tree.flatten(x)
    changes = tree.flatten_up_to(dx)
    which = [i for i, change in enumerate(changes) if change is not None]

    def of_changing(some):
      own = dict(zip(which, some))
      return function(tree.unflatten([own.get(i, v) for i, v in enumerate(flat)]), data)

    primals, tangents = ([x[i] for i in which] for x in (flat, changes))
    return jax.jvp(of_changing, (primals,), (tangents,))[1]

  return tangent


def transpose_of(function: Callable[[Any, Any], tuple]) -> Callable[..., Any]:
  """Returns the transposed map, as `differentiable` takes it, of plain JAX."""

  def transpose(x, data, y, dy, wanted):
    del y
    flat, tree = jax.tree.flatten(x)
    which = [i for i, want in enumerate(tree.flatten_up_to(wanted)) if want]

    def of_changing(some):
      own = dict(zip(which, some))
      return function(tree.unflatten([own.get(i, v) for i, v in enumerate(flat)]), data)

    found = dict(zip(which, jax.vjp(of_changing, [flat[i] for i in which])[1](dy)[0]))
    return tree.unflatten([found.get(i) for i in range(len(flat))])

  return transpose


def filled(x: Any, dx: Any) -> Any:
  """Returns the tangents dx of x with zeros in the place of None."""
  return jax.tree.map(
    lambda leaf, change: devices.zeros(jax.typeof(leaf)) if change is None else change,
    x,
    dx,
  )


def linear(tangent, transpose, known, x, *, like):
  """Computes tangent(known, x), linear in x, with the transpose transpose(known, y).

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
