"""Weights of the layers of a vision model's trace."""

from typing import Any

import jax
import jax.numpy as jnp

from attnjax.contract.trace import Trace


def attention_of(trace: Trace, *, weights: Any = None) -> list[Any]:
  """Returns the weights (B, N, T, T) of every layer of a trace.

  Args:
    trace: of a vision model.
    weights: those weights, where the mechanism is not softmax attention.

  Raises:
    NotImplementedError: for a layer that is no softmax attention of its heads.
  """
  if weights is not None:
    return [jnp.asarray(x) for x in weights]
  found = []
  for index, (heads, mixed) in enumerate(zip(trace.heads, trace.mixed)):
    own = None
    if heads is not None and heads.q is not None and heads.q.ndim == 4:
      own = _softmax(heads.q, heads.k)
    group = 1 if own is None else heads.q.shape[2] // heads.v.shape[2]
    v = None if own is None else jnp.repeat(jnp.asarray(heads.v), group, axis=2)
    got = None if own is None else jnp.einsum("bnts,bsnv->btnv", own, v)
    most = 0 if got is None else 1e-3 * max(float(jnp.abs(mixed).max()), 1e-6)
    if got is None or got.shape != mixed.shape or jnp.abs(got - mixed).max() > most:
      raise NotImplementedError(
        f"layer {index} is no softmax attention of its q, k and v: pass weights"
      )
    found.append(own)
  return found


@jax.jit
def _softmax(q, k):
  k = jnp.repeat(k, q.shape[2] // k.shape[2], axis=2)
  score = jnp.einsum("btnh,bsnh->bnts", q, k, preferred_element_type=jnp.float32)
  return jax.nn.softmax(score * q.shape[-1] ** -0.5, axis=-1)
