"""Score functions that capture arrays, split by the axes that their terms depend on.

A function (score, b, n, q, k) of scalars is traced once. Terms that depend on batch,
head, query or key alone are computed once, outside the kernel; only the rest, which
depends on the score or, elementwise, on both q and k, runs on each tile.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core as jex

from attnjax.core import scalar_functions

AXES = ("b", "n", "q", "k")


class Function:
  """A traced score function; hashed and compared by its text."""

  def __init__(self, closed: Any, consts: int):
    self.closed, self.consts = closed, consts
    self._text = str(closed)

  def __eq__(self, other):
    return isinstance(other, Function) and self._text == other._text

  def __hash__(self):
    return hash(self._text)


def trace(function: Callable, dtype=jnp.float32, returns=None) -> tuple[Function, list]:
  """Traces a score function of a score and four indices.

  Returns (the `Function`, the arrays that it captures). Its result is cast to the type
  `returns`, that of the score if None.

  Raises:
    ValueError: if it does not return one scalar.
  """

  def typed(*scalars):
    result = function(*scalars)
    shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(result)]
    if shapes != [()]:
      raise ValueError(f"score returns the shapes {shapes}; it must return one scalar")
    return jnp.asarray(*jax.tree.leaves(result)).astype(returns or dtype)

  closed, consts = scalar_functions.trace(typed, [dtype, *[np.int32] * 4])
  return Function(closed, len(consts)), consts


def apply(function: Function, consts, score, b, n, q, k):
  """Evaluates a score function on a tile.

  Args:
    function: from `trace`.
    consts: the arrays that it captures.
    score: (b, n, t, s).
    b: int, (b,).
    n: int, (n,).
    q: int, (b|1, t).
    k: int, (b|1, s).
  """
  inner, values = hoisted(function, consts, (b, n), q, k, score.dtype)
  return inner(score, q[:, None, :, None], k[:, None, None, :], *values)


def hoisted(
  function: Function | None, consts, heads, q, k, dtype=jnp.float32
) -> tuple[Any, list]:
  """Splits a score function into a part for tiles and precomputed values.

  Returns (inner, values): inner(score, q, k, *values) runs on a tile, the values are
  (B|1, N|1, T|1, S|1).

  Raises:
    NotImplementedError: naming an operation on the score that is not elementwise.
  """
  if function is None:
    return None, []
  jaxpr = function.closed.jaxpr
  equations, _ = scalar_functions.live(jaxpr)
  depends, inside = _analysed(jaxpr, equations, function.consts)
  frontier: dict[int, Any] = {}
  for equation in equations:
    if id(equation.outvars[0]) in inside:
      frontier |= {id(v): v for v in equation.invars if _outside(v, inside)}
  result = jaxpr.outvars[0]
  if _outside(result, inside):
    frontier[id(result)] = result
  wanted = list(frontier.values())
  values = [
    _evaluated(jaxpr, v, depends[id(v)], function.consts, consts, heads, q, k)
    for v in wanted
  ]

  def inner(score, q, k, *values):
    known = {id(v): value for v, value in zip(wanted, values)}
    variables = jaxpr.invars[function.consts :]
    known |= {id(variables[i]): x for i, x in ((0, score), (3, q), (4, k))}
    own = [e for e in equations if id(e.outvars[0]) in inside]
    scalar_functions.run(own, known)
    out = scalar_functions.read(result, known)
    if isinstance(result, jex.Literal) or "score" not in depends[id(result)]:
      # This gives the score's shape, also on tiles; the compiler drops the select.
      out = jnp.where(score == score, out, out)
    return jnp.broadcast_to(out, jnp.broadcast_shapes(jnp.shape(out), score.shape))

  return inner, values


def _outside(atom, inside) -> bool:
  return not isinstance(atom, jex.Literal) and id(atom) not in inside


def _analysed(jaxpr, equations, consts):
  """Returns (the inputs each variable depends on, the variables computed on tiles)."""
  names = ("score", *AXES)
  scalars = jaxpr.invars[consts:]
  depends = {id(v): frozenset() for v in jaxpr.invars[:consts]}
  depends |= {id(v): frozenset([name]) for v, name in zip(scalars, names)}
  inside = {id(scalars[i]) for i in (0, 3, 4)}
  for equation in equations:
    atoms = [v for v in equation.invars if not isinstance(v, jex.Literal)]
    what = frozenset().union(*(depends[id(v)] for v in atoms))
    depends |= {id(v): what for v in equation.outvars}
    simple = scalar_functions.simple(equation)
    if "score" in what and not simple:
      raise NotImplementedError(
        f"the score function applies {equation.primitive.name!r} to the score;"
        " it must act on each score by itself"
      )
    needed = "score" in what or {"q", "k"} <= what
    if simple and (needed or all(id(v) in inside for v in atoms)):
      inside |= {id(v) for v in equation.outvars}
  return depends, inside


def _evaluated(jaxpr, variable, what, number, consts, heads, q, k):
  """Evaluates a variable without the score, over all axes that it depends on."""
  if "q" in what and q.shape[0] > 1 or "k" in what and k.shape[0] > 1:
    what = what | {"b"}

  def value(b, n, q, k):
    known = {id(v): c for v, c in zip(jaxpr.invars[:number], consts)}
    known |= {id(v): x for v, x in zip(jaxpr.invars[number + 1 :], (b, n, q, k))}
    return scalar_functions.inlined(jaxpr, variable, known)

  by_batch = tuple(0 if x.shape[0] > 1 else None for x in (q, k))
  full = {"k": (None, None, None, 0), "q": (None, None, 0, None)}
  full |= {"n": (None, 0, None, None), "b": (0, None, *by_batch)}
  run = value
  for axis in reversed(AXES):
    if axis in what:
      run = jax.vmap(run, in_axes=full[axis])
  b, n, q, k = (x.astype(np.int32) for x in (*heads, q, k))
  zero = np.int32(0)
  q, k = (
    (x if "b" in what and x.shape[0] > 1 else x[0]) if axis in what else zero
    for axis, x in (("q", q), ("k", k))
  )
  if "b" in what:  # an axis to map over even where nothing is read
    q, k = (
      jnp.zeros(b.shape, jnp.int32) if by is not None and axis not in what else x
      for axis, x, by in (("q", q, by_batch[0]), ("k", k, by_batch[1]))
    )
  given = b if "b" in what else zero, n if "n" in what else zero, q, k
  result = run(*given)
  lead = [i for i, axis in enumerate(AXES) if axis in what]
  return jnp.expand_dims(result, [i for i in range(4) if i not in lead])
