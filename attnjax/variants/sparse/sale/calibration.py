"""A threshold for each head, from prompts and their dense attention."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from attnjax.contract.context import Heads
from attnjax.variants.softmax import dot_product
from attnjax.variants.sparse.sale.attention import attend

FIRST, LEAST = 0.008, 1e-4


def calibrate(
  q: Float[Array, "B T N H"],
  k: Float[Array, "B T K H"],
  v: Float[Array, "B T K V"],
  *,
  first: Any = FIRST,
  theta: Any = 0.4,
  **options: Any,
) -> Float[Array, "N"]:
  """Finds each head's tau, halved until sum |sparse - dense| < theta T.

  The sum is over the tokens and the channels of a head's output. The B prompts come one
  after the other, each beginning with what the one before left. A tau of at most 1e-4
  becomes 0, a dense head.

  Args:
    q: queries of prompts without padding.
    k: keys.
    v: values.
    first: the tau to begin with, a number or (N,).
    theta: error of a token, 0.4 in the released runs.
    **options: of `attend`: sizes, bits, granularity, impl.

  Raises:
    ValueError: if theta is not positive.
  """
  if isinstance(theta, int | float) and not theta > 0:
    raise ValueError(f"theta = {theta}; no sparse attention errs by less than 0")
  T, N = q.shape[1:3]

  def prompt(tau, arrays):
    q, k, v = (x[None] for x in arrays)
    want = dot_product.attend(q, k, v, causal=True).astype(jnp.float32)

    def failing(tau):
      got = attend(q, k, v, tau=tau, **options).astype(jnp.float32)
      error = jnp.abs(got - want).sum(axis=(0, 1, 3))
      return (error >= theta * T) & (tau > 0)

    def halved(state):
      tau, fails = state
      half = jnp.where(fails, tau / 2, tau)
      half = jnp.where(half <= LEAST, 0.0, half)
      return half, failing(half)

    start = tau, failing(tau)
    return jax.lax.while_loop(lambda state: state[1].any(), halved, start)[0], None

  tau = jnp.broadcast_to(jnp.asarray(first, jnp.float32), (N,))
  return jax.lax.scan(prompt, tau, (q, k, v))[0]


def table(
  heads: Sequence[Heads], *, theta: float = 0.4, **options: Any
) -> tuple[tuple[float, ...], ...]:
  """Returns the tau of all layers and heads of a model, as a `Policy` takes it.

    policy = sale.Policy(tau=sale.table(model.trace(tokens).heads))

  Args:
    heads: of the layers, from a run with dense attention to prompts without padding.
    theta: as in `calibrate`, and so are the options.
    **options: of `calibrate`.
  """
  run = jax.jit(functools.partial(calibrate, theta=theta, **options))
  return tuple(tuple(run(h.q, h.k, h.v).tolist()) for h in heads)


def density(chosen: Array, sizes: Any) -> Float[Array, "B N"]:
  """Measures which share of the blocks that dense attention visits a map names.

  Args:
    chosen: of `select`, (B, N, Q, S).
    sizes: its `Sizes`.
  """
  Q, S = chosen.shape[2:]
  whole = jnp.arange(S) * sizes.block_k < (jnp.arange(Q)[:, None] + 1) * sizes.block_q
  return (chosen & whole).sum(axis=(2, 3)) / whole.sum()
