"""Scores of inputs as answers: logits, their loss, and glimpses, in tiles."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from attnjax.contract import check_known
from attnjax.variants.cross.pointer_network import definition

IMPLEMENTATIONS = ("reference", "xla")
SCORES = ("additive", "dot")
# Elements of a tile of (B, queries, S, H): what is live at once beside the results.
_TILE = 1 << 22


def pointer_logits(
  keys: Float[Array, "B S H"],
  queries: Float[Array, "B T H"],
  vector: Float[Array, "H"] | None = None,
  *,
  valid: Bool[Array, "B S"] | None = None,
  mask: Bool[Array, "B T S"] | None = None,
  clip: float = 0.0,
  impl: str = "auto",
) -> Float[Array, "B T S"]:
  """Computes the logits of every input as the answer of every step.

  Equation 3 of the paper; without `vector` the scaled dot product. The logits are
  float32, and -inf at inputs that a step may not point to.

  Args:
    keys: W1 e, a projection of the inputs' states.
    queries: W2 d, a projection of the steps' states.
    vector: v, of the additive score; None for the dot product over sqrt(H).
    valid: True at the real inputs; values elsewhere, also NaN, are not read.
    mask: True where a step may point to an input.
    clip: C of C tanh(score), with which logits stay within C; 0: no such bound.
    impl: one of IMPLEMENTATIONS, or "auto".

  Raises:
    ValueError: if shapes do not fit or `impl` is unknown.
  """
  given = {"valid": valid, "mask": mask, "clip": clip}
  _check(keys, queries, vector, impl, valid=valid, mask=mask)
  if impl == "reference":
    return definition.reference_pointer_logits(keys, queries, vector, **given)
  return _tiled(lambda logits, _: logits, keys, queries, vector, None, **given)


def pointer_loss(
  keys: Float[Array, "B S H"],
  queries: Float[Array, "B T H"],
  vector: Float[Array, "H"] | None = None,
  *,
  targets: Int[Array, "B T"],
  valid: Bool[Array, "B S"] | None = None,
  mask: Bool[Array, "B T S"] | None = None,
  clip: float = 0.0,
  impl: str = "auto",
) -> Float[Array, "B T"]:
  """Computes -ln p(target) of every step, in float32, without all logits at once.

  Args:
    keys: as in `pointer_logits`.
    queries: as in `pointer_logits`.
    vector: as in `pointer_logits`.
    targets: the input that is the answer; the loss is 0 at negative ones, and inf at
      inputs that the step may not point to.
    valid: True at the real inputs.
    mask: True where a step may point to an input.
    clip: C of C tanh(score); 0: no such bound.
    impl: one of IMPLEMENTATIONS, or "auto".

  Raises:
    ValueError: if shapes do not fit or `impl` is unknown.
  """
  given = {"valid": valid, "mask": mask, "clip": clip}
  _check(keys, queries, vector, impl, valid=valid, mask=mask)
  if impl == "reference":
    return definition.reference_pointer_loss(
      keys, queries, vector, targets=targets, **given
    )
  return _tiled(_nll, keys, queries, vector, targets, **given)


def glimpse(
  keys: Float[Array, "B S H"],
  queries: Float[Array, "B T H"],
  vector: Float[Array, "H"] | None = None,
  *,
  valid: Bool[Array, "B S"] | None = None,
  mask: Bool[Array, "B T S"] | None = None,
  clip: float = 0.0,
  impl: str = "auto",
) -> Float[Array, "B T H"]:
  """Averages the keys by the distribution that `pointer_logits` gives.

  Irwan Bello et al. arXiv:1611.09940, appendix A.1: the next query of a step. Steps
  that may point to nothing get zeros.

  Args:
    keys: as in `pointer_logits`; they are averaged, too.
    queries: as in `pointer_logits`.
    vector: as in `pointer_logits`.
    valid: True at the real inputs.
    mask: True where a step may look at an input.
    clip: C of C tanh(score); 0: no such bound.
    impl: one of IMPLEMENTATIONS, or "auto".

  Raises:
    ValueError: if shapes do not fit or `impl` is unknown.
  """
  given = {"valid": valid, "mask": mask, "clip": clip}
  _check(keys, queries, vector, impl, valid=valid, mask=mask)
  if impl == "reference":
    return definition.reference_glimpse(keys, queries, vector, **given)
  keys = _seen(keys, valid)

  def mean(logits, _):
    weights = _softmax(logits)
    values = keys.astype(jnp.float32)
    return jnp.einsum("bts,bsh->bth", weights, values).astype(keys.dtype)

  return _tiled(mean, keys, queries, vector, None, **given)


def _tiled(
  finish: Callable, keys, queries, vector, targets, *, valid, mask, clip
) -> Array:
  """Returns finish(logits, targets) of all queries, a tile of them at a time.

  The backward pass recomputes tanh, so that no array (B, T, S, H) is kept.
  """
  keys = _seen(keys, valid)
  B, S, H = keys.shape
  T = queries.shape[1]
  size = max(1, _TILE // max(B * S * H, 1))

  @jax.checkpoint
  def tile(queries, mask, targets):
    return finish(_logits(keys, queries, vector, valid, mask, clip), targets)

  if size >= T:
    return tile(queries, mask, targets)
  parts = jax.tree.map(lambda x: _cut(x, size), (queries, mask, targets))
  found = jax.lax.map(lambda part: tile(*part), parts)
  return jnp.moveaxis(found, 0, 1).reshape(B, -1, *found.shape[3:])[:, :T]


def _cut(x, size):
  """Pads the steps of (B, T, ...) and cuts them: (tiles, B, size, ...)."""
  B, T = x.shape[:2]
  more = -T % size
  x = jnp.pad(x, ((0, 0), (0, more), *((0, 0),) * (x.ndim - 2)))
  return jnp.moveaxis(x.reshape(B, -1, size, *x.shape[2:]), 1, 0)


def _logits(keys, queries, vector, valid, mask, clip):
  keys, queries = keys.astype(jnp.float32), queries.astype(jnp.float32)
  if vector is None:
    score = jnp.einsum("bth,bsh->bts", queries, keys) * keys.shape[-1] ** -0.5
  else:
    inside = jnp.tanh(keys[:, None] + queries[:, :, None])
    score = jnp.sum(inside * vector.astype(jnp.float32), axis=-1)
  if clip:
    score = clip * jnp.tanh(score)
  allowed = None if valid is None else valid[:, None]
  if mask is not None:
    allowed = mask if allowed is None else allowed & mask
  return score if allowed is None else jnp.where(allowed, score, -jnp.inf)


def _nll(logits, targets):
  asked = targets >= 0
  place = jnp.maximum(targets, 0)[..., None]
  picked = jnp.take_along_axis(logits, place, axis=-1)[..., 0]
  able = jnp.isfinite(picked)
  # The sum over a row without inputs is not differentiated: its target is unable, too.
  total = jax.nn.logsumexp(jnp.where(able[..., None], logits, 0.0), axis=-1)
  loss = jnp.where(able, total - jnp.where(able, picked, 0.0), jnp.inf)
  return jnp.where(asked, loss, 0.0)


def _softmax(logits):
  able = jnp.isfinite(logits).any(axis=-1, keepdims=True)
  return jnp.where(able, jax.nn.softmax(jnp.where(able, logits, 0.0), axis=-1), 0.0)


def _seen(keys, valid):
  return keys if valid is None else jnp.where(valid[..., None], keys, 0)


def _check(keys, queries, vector, impl, **masks) -> None:
  """Raises ValueError if something does not fit."""
  B, S, H = keys.shape
  T = queries.shape[1]
  check_known("impl", impl, ("auto", *IMPLEMENTATIONS))
  if queries.shape != (B, T, H):
    raise ValueError(f"queries {queries.shape}, keys {keys.shape}; B and H must agree")
  if vector is not None and vector.shape != (H,):
    raise ValueError(f"vector {vector.shape}; it must be ({H},), as the keys are wide")
  for name, shape in (("valid", (B, S)), ("mask", (B, T, S))):
    given = masks[name]
    if given is not None and given.shape != shape:
      raise ValueError(f"{name} {given.shape}; it must be {shape}")
