"""Derivatives around kernels: reverse by kernels, all others by plain JAX."""

import dataclasses
from collections.abc import Callable, Sequence

import jax
from jax.ad_checkpoint import checkpoint_name
from jax.custom_derivatives import SymbolicZero

from attnjax.core import derivatives

# The names, for `jax.checkpoint_policies`, of what need not be made again.
SAVED = ("decayed_linear_out", "decayed_linear_state")


@dataclasses.dataclass(frozen=True)
class Form:
  """A backend, and what it stands for.

  Attributes:
    forward: (x, documents) to (out, state), x being (q, k, v, log_decay, state).
    backward: (x, documents, cotangents, decay) to the gradients by x; whether `decay`
      is wanted is known before it runs.
    plain: `forward` in plain JAX.
  """

  forward: Callable
  backward: Callable
  plain: Callable


def attend(form: Form, x, documents):
  """(out, state), with derivatives of any order by x.

  Args:
    form: how.
    x: (q, k, v, log_decay or None, initial state or None).
    documents: (B, T) int32, or None.
  """

  @jax.custom_jvp
  def call(x, documents):
    return form.forward(x, documents)

  def rule(primals, tangents):
    flat = jax.tree.leaves(tangents[0])
    wanted = [i for i, t in enumerate(flat) if not isinstance(t, SymbolicZero)]
    y = tuple(checkpoint_name(y, n) for y, n in zip(call(*primals), SAVED))
    return y, _tangent(form, primals, wanted, [flat[i] for i in wanted], y)

  call.defjvp(rule, symbolic_zeros=True)
  return call(x, documents)


def _tangent(form: Form, primals, wanted: Sequence[int], dx, y):
  """The tangent of y for tangents of those leaves of x that are `wanted`."""
  tree = jax.tree.structure(primals[0])
  # A gradient that nobody asks for is not computed.
  decay = primals[0][3] is not None and 3 in wanted

  def of_wanted(known, some):
    flat, documents = list(jax.tree.leaves(known[0])), known[1]
    for i, value in zip(wanted, some, strict=True):
      flat[i] = value
    return form.plain(jax.tree.unflatten(tree, flat), documents)

  def chosen(known):
    flat = jax.tree.leaves(known[0])
    return [flat[i] for i in wanted]

  def forward(known, dx):
    return jax.jvp(lambda some: of_wanted(known, some), (chosen(known),), (dx,))[1]

  @jax.custom_jvp
  def transposed(known, cotangents):
    gradients = form.backward(*known, cotangents, decay)
    flat = [
      None if d is None else d.astype(x.dtype)
      for d, x in zip(gradients, known[0])
      if x is not None
    ]
    return [flat[i] for i in wanted]

  @transposed.defjvp
  def _(primals, tangents):
    def slowly(known, cotangents):
      _, pull = jax.vjp(lambda some: of_wanted(known, some), chosen(known))
      return pull(cotangents)[0]

    return jax.jvp(slowly, primals, tangents)

  return derivatives.linear(forward, transposed, primals, dx, like=y)
