"""The operation: exact attention to critical blocks, pooled attention to the others."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from attnjax import attention
from attnjax.contract import Case, check_options
from attnjax.core import masks
from attnjax.core.dtypes import accumulator_dtype
from attnjax.core.scores import Scores
from attnjax.core.softmax import check
from attnjax.variants.sparse.rectified_sparse import pooled
from attnjax.variants.sparse.rectified_sparse.definition import reference
from attnjax.variants.sparse.rectified_sparse.pooled import Plan, Rule

IMPLEMENTATIONS = attention.IMPLEMENTATIONS
# Whether each correction is applied: the factor of the critical part, the addition.
CORRECTIONS = {
  "both": (True, True),
  "factor": (True, False),
  "addition": (False, True),
  "none": (False, False),
}


def attend(
  q: Float[Array, "B T N H"],
  k: Float[Array, "B T K H"],
  v: Float[Array, "B T K V"],
  *,
  block: int = 128,
  mass: float = 0.3,
  min_blocks: int = 1,
  neighbours: Bool[Array | np.ndarray, "n n"] | None = None,
  text: int = 0,
  first_blocks: int = 0,
  valid: Bool[Array, "B T"] | None = None,
  correction: str = "both",
  gain_test: bool = True,
  zero_tail: bool = False,
  scale: float | None = None,
  return_plan: bool = False,
  impl: str = "auto",
) -> Any:
  """Computes rectified block-sparse attention, (B, T, N, V), without a causal mask.

  Args:
    q: queries; the tokens are in an order in which blocks are compact.
    k: keys; K divides N, query head n reads key head n K // N.
    v: values.
    block: visual tokens of a block, b. With multiples of 128 whole tiles are skipped.
    mass: the most probable blocks are critical until their sum passes this.
    min_blocks: the least number of critical blocks.
    neighbours: pairs of the n = ceil((T - text) / b) blocks, critical in any case.
    text: number of text tokens, the last ones: all tokens see them, and they see all.
    first_blocks: number of first blocks (a given frame) that are critical among
      themselves.
    valid: True at the real tokens; others are not seen, and give 0.
    correction: "both", "factor", "addition", or "none": plain block-sparse attention.
    gain_test: whether blocks that pool badly give their mass to the critical part.
    zero_tail: padding counts as zeros in the means of blocks, as in the authors' code.
    scale: H^-0.5 if None.
    return_plan: also return the `Plan`.
    impl: one of IMPLEMENTATIONS, or "auto", for the softmax.

  Raises:
    ValueError: if shapes do not fit, or a value or a name is not allowed.
  """
  rule = Rule(block, mass, min_blocks, text, first_blocks, gain_test, zero_tail)
  _check(q, k, v, rule, neighbours, correction, impl)
  if impl == "reference":
    options = block, mass, min_blocks, neighbours, text, first_blocks, valid, correction
    return reference(q, k, v, *options, gain_test, zero_tail, scale, return_plan)
  scale = q.shape[-1] ** -0.5 if scale is None else scale
  given: dict[str, Any] = {"valid": valid, "scale": scale}
  if valid is not None:
    q, k, v = (jnp.where(valid[..., None, None], x, 0) for x in (q, k, v))
  found = pooled.plan(q, k, v, rule, neighbours=neighbours, **given)
  out = _joined(q, k, v, found, rule, correction, impl=impl, **given)
  return (out, found) if return_plan else out


def _joined(q, k, v, found: Plan, rule, correction, *, valid, scale, impl):
  """Computes the outputs of the visual tokens and of the text tokens, concatenated."""
  given: dict[str, Any] = {"valid": valid, "scale": scale, "impl": impl}
  visual, text = _lists(q, k, v, found, rule, correction, **given), rule.text
  if not text:
    return visual
  ids = None if valid is None else jnp.where(valid, 0, -1)
  own = None if ids is None else ids[:, -text:]
  shape = (q.shape[0], q.shape[2], text, q.shape[1])
  seen = Scores(masks.conjunction(shape, segment_ids=own, kv_segment_ids=ids))
  out, _ = attention.attend(q[:, -text:], k, v, seen, scale=scale, impl=impl)
  return jnp.concatenate([visual, out], axis=1)


def _lists(q, k, v, found: Plan, rule, correction, *, valid, scale, impl):
  """Computes the visual tokens' outputs with the critical blocks as lists of a mask."""
  T, b = q.shape[1], rule.block
  end, n = T - rule.text, found.critical.shape[2]
  filled = ((0, 0), (0, n * b - end), (0, 0), (0, 0))
  query = jnp.pad(q[:, :end], filled)
  key, value = (
    jnp.concatenate([jnp.pad(x[:, :end], filled), x[:, end:]], axis=1) for x in (k, v)
  )
  S = key.shape[1]
  seen = jnp.pad(found.critical, ((0, 0),) * 3 + ((0, -(-S // b) - n),))
  seen = seen | (np.arange(seen.shape[3]) >= n)[None, None, None]
  mask: Any = masks.Blocks(
    jnp.argsort(~seen, axis=3, stable=True).astype(jnp.int32),
    seen.sum(axis=3, dtype=jnp.int32),
    b,
    b,
    n * b,
    S,
  )
  if valid is not None or n * b != end:
    real = np.ones((1, T), bool) if valid is None else valid
    xp: Any = np if valid is None else jnp
    tail = xp.pad(real[:, :end], ((0, 0), (0, n * b - end)))
    ids = xp.concatenate([tail, real[:, end:]], axis=1).astype(np.int32) - 1
    mask = mask & masks.Segments(ids[:, : n * b], ids)
  out, _ = attention.attend(query, key, value, Scores(mask), scale=scale, impl=impl)
  factor, addition = _applied(found, correction)

  def rows(x):  # (B, N, n, V) of blocks to (B, T, N, V) of tokens
    return jnp.repeat(x, b, axis=2).swapaxes(1, 2)[:, :end]

  out = out[:, :end].astype(accumulator_dtype(q)) * rows(factor[..., None]) + rows(
    addition
  )
  if valid is not None:
    out = jnp.where(valid[:, :end, None, None], out, 0)
  return out.astype(v.dtype)


def _applied(found: Plan, correction):
  """Returns (factor, addition), as 1 and 0 where `correction` leaves them out."""
  factor, addition = CORRECTIONS[correction]
  return (
    found.factor if factor else jnp.ones_like(found.factor),
    found.addition if addition else jnp.zeros_like(found.addition),
  )


def _check(q, k, v, rule, neighbours, correction, impl):
  check(q, k, v)
  check_options(
    impl=(impl, ("auto", *IMPLEMENTATIONS)), correction=(correction, CORRECTIONS)
  )
  T = q.shape[1]
  if k.shape[1] != T:
    raise ValueError(f"{T} queries and {k.shape[1]} keys; blocks are of both")
  if rule.block < 1 or rule.min_blocks < 0 or not 0 <= rule.mass <= 1:
    raise ValueError(
      f"block = {rule.block}, min_blocks = {rule.min_blocks}, mass = {rule.mass}; they"
      " must be at least 1, at least 0 and from 0 to 1"
    )
  if not 0 <= rule.text < T:
    raise ValueError(f"text = {rule.text} of {T} tokens; at least one is visual")
  n = -(-(T - rule.text) // rule.block)
  if neighbours is not None and neighbours.shape != (n, n):
    raise ValueError(f"neighbours {neighbours.shape} for {n} blocks")


def _shapes(B, T, N, K, H, V):
  return {"q": (B, T, N, H), "k": (B, T, K, H), "v": (B, T, K, V)}


def _ends(key: jax.Array) -> Any:
  del key
  place = jnp.arange(43)
  return jnp.stack([place >= 0, (place < 17) | (place > 34) & (place < 40)])


def _line(key: jax.Array) -> Any:
  del key
  return abs(jnp.arange(5)[:, None] - jnp.arange(5)) < 2


CASES = (
  Case("whole", _shapes(2, 32, 2, 2, 8, 8), {"block": 8}),
  Case("text", _shapes(1, 39, 4, 2, 8, 6), {"block": 8, "text": 7, "mass": 0.5}),
  Case("one_token", _shapes(1, 1, 1, 1, 4, 4), {"block": 4}),
  Case(
    "valid",
    _shapes(2, 43, 2, 1, 4, 4),
    {"block": 8, "text": 7, "valid": _ends, "neighbours": _line},
  ),
  Case(
    "zero_tail",
    _shapes(1, 65, 2, 2, 4, 4),
    {"block": 16, "zero_tail": True, "gain_test": False, "first_blocks": 2},
  ),
  Case("lists", _shapes(1, 300, 1, 1, 4, 4), {"block": 128, "gain_test": False}),
)
