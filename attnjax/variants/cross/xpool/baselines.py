"""Pooling of frames without parameters, which the paper compares with."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from attnjax.contract import check_known
from attnjax.core import streams
from attnjax.core.dtypes import accumulator_dtype
from attnjax.variants.cross.xpool import definition
from attnjax.variants.cross.xpool.pooling import IMPLEMENTATIONS
from attnjax.variants.cross.xpool.vectors import product


def mean_pool(
  frames: Float[Array, "I F D"],
  *,
  valid: Bool[Array, "I F"] | None = None,
  impl: str = "auto",
) -> Float[Array, "I D"]:
  """Computes the mean of each video's frames, whatever the text; 0 without frames.

  Args:
    frames: of the videos.
    valid: True at the real frames; all are real if None.
    impl: one of IMPLEMENTATIONS, or "auto".

  Raises:
    ValueError: if `impl` is unknown.
  """
  check_known("impl", impl, ("auto", *IMPLEMENTATIONS))
  if impl == "reference":
    return definition.reference_mean_pool(frames, valid=valid)
  real = jnp.ones(frames.shape[:2], bool) if valid is None else valid
  share = real / jnp.maximum(real.sum(axis=1, keepdims=True), 1)
  share = share.astype(accumulator_dtype(frames))
  return product("if,ifd->id", share, streams.cleared(frames, valid)).astype(
    frames.dtype
  )


def top_k_pool(
  text: Float[Array, "Q D"],
  frames: Float[Array, "I F D"],
  keep_frames: int,
  *,
  valid: Bool[Array, "I F"] | None = None,
  impl: str = "auto",
) -> Float[Array, "I Q D"]:
  """Computes the sum of the frames that have the largest dot products with a text.

  It is a sum, not a mean, as in the authors' code. No gradient goes through the choice.

  Args:
    text: not normalised.
    frames: of the videos; of equal products the earlier frame counts.
    keep_frames: number of frames; all, if a video has fewer.
    valid: True at the real frames; all are real if None.
    impl: one of IMPLEMENTATIONS, or "auto".

  Raises:
    ValueError: if `keep_frames` is below 1 or `impl` is unknown.
  """
  if keep_frames < 1:
    raise ValueError(f"keep_frames = {keep_frames}; it must be at least 1")
  check_known("impl", impl, ("auto", *IMPLEMENTATIONS))
  if impl == "reference":
    return definition.reference_top_k_pool(text, frames, keep_frames, valid=valid)
  score, clean = _products(text, frames, valid)
  _, places = jax.lax.top_k(
    jax.lax.stop_gradient(score), min(keep_frames, frames.shape[1])
  )
  rows = jnp.arange(frames.shape[0])[:, None, None]
  # Frames at padding are zeros, which add nothing where there are too few.
  wide = clean.astype(accumulator_dtype(frames))
  return wide[rows, places].sum(axis=2).astype(frames.dtype)


def attention_pool(
  text: Float[Array, "Q D"],
  frames: Float[Array, "I F D"],
  *,
  temperature: float = 0.01,
  valid: Bool[Array, "I F"] | None = None,
  impl: str = "auto",
) -> Float[Array, "I Q D"]:
  """Computes the mean of frames by softmax(frame . text / temperature).

  Args:
    text: not normalised.
    frames: of the videos.
    temperature: of the softmax.
    valid: True at the real frames; all are real if None. The result is 0 without any.
    impl: one of IMPLEMENTATIONS, or "auto".

  Raises:
    ValueError: if the temperature is not above 0 or `impl` is unknown.
  """
  if not temperature > 0:
    raise ValueError(f"temperature = {temperature}; it must be above 0")
  check_known("impl", impl, ("auto", *IMPLEMENTATIONS))
  if impl == "reference":
    given = {"temperature": temperature, "valid": valid}
    return definition.reference_attention_pool(text, frames, **given)
  score, clean = _products(text, frames, valid)
  score = score / temperature
  top = jax.lax.stop_gradient(score.max(axis=-1, keepdims=True, initial=-jnp.inf))
  share = jnp.exp(score - jnp.where(top == -jnp.inf, 0, top))
  total = share.sum(axis=-1, keepdims=True)
  share = share / jnp.where(total > 0, total, 1)
  return product("iqf,ifd->iqd", share, clean).astype(frames.dtype)


def _products(text, frames, valid):
  """Returns products (I, Q, F), -inf at padding, and the frames with zeros there."""
  clean = streams.cleared(frames, valid)
  score = product("qd,ifd->iqf", text, clean)
  return (score if valid is None else jnp.where(valid[:, None], score, -jnp.inf)), clean
