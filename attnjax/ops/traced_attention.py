"""Causal softmax attention of the heads of a trace, checked against the layer's own."""

import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from attnjax import attention
from attnjax.contract.context import Heads
from attnjax.core import masks
from attnjax.nn import gate as gates

# What a layer's own result may differ by, of its largest element.
_NEAR = 1e-3


def lse(
  heads: Heads | None, mixed: Any, *, index: int, mask: masks.Mask | None = None
) -> Float[Array, "B T N"]:
  """Returns the lse of causal softmax attention of a layer's heads.

  Args:
    heads: of a trace.
    mixed: the layer's result in the trace.
    index: the layer's number, for the error.
    mask: who sees whom, besides; causality alone if None.

  Raises:
    NotImplementedError: for a layer whose result is another one, also with a gate of
      its output: the weights of its mechanism are not those of softmax attention of its
      q, k and v.
  """
  mask = masks.Causal() if mask is None else masks.Causal() & mask
  found, gate = None, None
  if heads is not None and heads.q is not None and np.ndim(heads.q) == 4:
    seen = {n: x for n, x in heads.seen.items() if x is not None}
    gate = heads.more.get("gate")
    if not set(seen) - {"segment_ids"}:
      found = _attended(heads.q, heads.k, heads.v, seen, mask)
  if found is None or not _is_result(found[0], mixed, gate):
    raise NotImplementedError(
      f"layer {index} is no causal softmax attention of its q, k and v: its weights"
      " must be given, see `attnjax.inspect`"
    )
  return found[1]


@functools.partial(jax.jit, static_argnums=4)
def _attended(q, k, v, seen, mask):
  given = {"mask": mask, "return_lse": True}
  return attention.dot_product_attention(q, k, v, **given, **seen)


def _is_result(got, mixed, gate) -> bool:
  """Returns whether a layer's result is that of attention, gated in one of the ways."""
  if gate is None:
    return _same(got, mixed)
  ways = itertools.product(gates.ACTIVATIONS, gates.COMBINATIONS)
  return any(
    _same(gates.apply(got, jnp.asarray(gate), act=act, combine=combine), mixed)
    for act, combine in ways
  )


def _same(got, mixed) -> bool:
  if got.shape != np.shape(mixed):
    return False
  most = max(float(jnp.abs(mixed).max(initial=0)), 1e-6)
  return bool(jnp.abs(got - mixed).max(initial=0) <= _NEAR * most)
