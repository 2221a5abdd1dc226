"""Attention of a prompt to selected blocks, and its small problems."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from attnjax import attention
from attnjax.contract import Case, check_known
from attnjax.core import masks, softmax
from attnjax.core.masks import Blocks
from attnjax.core.scores import Scores
from attnjax.variants.sparse.sale import definition, selection
from attnjax.variants.sparse.sale.regions import Sizes

IMPLEMENTATIONS = selection.IMPLEMENTATIONS


def attend(
  q: Float[Array, "B T N H"],
  k: Float[Array, "B T K H"],
  v: Float[Array, "B T K V"],
  *,
  tau: Any = 0.004,
  lengths: Int[Array, "B"] | None = None,
  block_q: int = 64,
  block_k: int = 32,
  local: int = 128,
  segment: int = 128,
  bits: int = 4,
  granularity: str = "token",
  impl: str = "auto",
) -> Float[Array, "B T N V"]:
  """Computes causal attention of a prompt to the blocks of keys that `select` takes.

  The selection has no gradient.

  Args:
    q: queries of a prompt.
    k: its keys; K divides N.
    v: values.
    tau: as in `select`, and so are all that follow.
    lengths: tokens of each row; padding gives 0.
    block_q: queries of a block.
    block_k: keys of a block.
    local: last keys that are seen anyway.
    segment: multiple of the candidates.
    bits: of the codes.
    granularity: of the codes' scales.
    impl: one of IMPLEMENTATIONS, or "auto".

  Raises:
    ValueError: if shapes or sizes do not fit each other, and for unknown names.
  """
  check_known("impl", impl, ("auto", *IMPLEMENTATIONS))
  softmax.check(q, k, v)
  _check_prompt(q, k)
  given = {"block_q": block_q, "block_k": block_k, "local": local, "segment": segment}
  sizes, how = Sizes(**given), {"bits": bits, "granularity": granularity}
  if impl == "reference":
    given |= {"tau": tau, "lengths": lengths} | how
    return definition.reference(q, k, v, **given)
  out, lse = selection.near(q, k, v, sizes, lengths, impl)
  fixed, T = jax.lax.stop_gradient((q, k, lse)), q.shape[1]
  large = selection.kept(*fixed, tau, sizes, lengths, how, impl)
  far = _real(listed(large, sizes, T), lengths, T)
  rest = attention.attend(q, k, v, Scores(far), impl=impl)
  return attention.combine(*zip((out, lse), rest))[0].astype(v.dtype)


def _check_prompt(q, k) -> None:
  if q.shape[1] != k.shape[1]:
    raise ValueError(f"q {q.shape} and k {k.shape}: a prompt has one key a query")


def _real(mask: Any, lengths: Any, T: int) -> Any:
  """Returns a mask without padding, in which a last block of queries may end."""
  if lengths is None:
    return mask
  ids = jnp.where(jnp.arange(T) < lengths[:, None], 0, -1)
  return mask & masks.Segments(ids, ids)


def listed(chosen: Bool[Array, "B N Q S"], sizes: Sizes, T: int) -> Blocks:
  """Returns the mask of blocks that a map names."""
  order = jnp.argsort(~chosen, axis=-1, stable=True).astype(jnp.int32)
  count = chosen.sum(axis=-1, dtype=jnp.int32)
  return Blocks(order, count, sizes.block_q, sizes.block_k, T, T)


def _shapes(B, T, N, K, H, V):
  return {"q": (B, T, N, H), "k": (B, T, K, H), "v": (B, T, K, V)}


def _numbers(*numbers):
  return lambda key: jnp.array(numbers)


_TINY = {"block_q": 8, "block_k": 4, "local": 8, "segment": 8}


def _case(name, shapes, **options):
  return Case(name, _shapes(*shapes), _TINY | options)


CASES = (
  _case(
    "grouped",
    (2, 65, 4, 2, 8, 8),
    tau=lambda key: jnp.array([0.0, 0.3, 0.6, 9.0]),
  ),
  _case("one_token", (1, 1, 1, 1, 4, 4)),
  _case(
    "padded",
    (3, 63, 1, 1, 8, 5),
    lengths=_numbers(63, 45, 0),
    tau=0.3,
    bits=8,
    granularity="group",
    block_k=8,
  ),
)
