"""Means of windows of a row: adaptive average pooling, of real tokens alone."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from attnjax.contract import check_known
from attnjax.core.dtypes import accumulator_dtype
from attnjax.variants.cross.p_adapter.definition import reference_adaptive_pool


def adaptive_pool(
  x: Float[Array, "B S ..."],
  real: Bool[Array, "B S"] | None = None,
  *,
  size: int,
  impl: str = "auto",
) -> Float[Array, "B R ..."]:
  """Computes the means of `size` windows of a row, in the wide type; R = `size`.

  Window i of n real tokens has those from floor(i n / size) to ceil((i + 1) n / size),
  so that windows overlap, or repeat, where `size` does not divide n. Without a real
  token all means are 0.

  Args:
    x: the tokens.
    real: True at the tokens that count; all do if None.
    size: number of windows.
    impl: "reference", "xla" or "auto".

  Raises:
    ValueError: if `size` is less than 1 or `impl` is unknown.
  """
  check_known("impl", impl, ("auto", "reference", "xla"))
  if size < 1:
    raise ValueError(f"size = {size}; it must be at least 1")
  if impl == "reference":
    return reference_adaptive_pool(x, real, size=size)
  x = x.astype(accumulator_dtype(x))
  if real is not None:
    x = jnp.where(real.reshape(*real.shape, *(1,) * (x.ndim - 2)), x, 0)
  shares = windows(x.shape[1], real, size).astype(x.dtype)
  if shares.shape[0] == 1:
    return jnp.einsum("sr,bs...->br...", shares[0], x)
  return jnp.einsum("bsr,bs...->br...", shares, x)


def windows(
  length: int, real: Bool[Array, "B S"] | None, size: int
) -> Float[Array, "#B S R"]:
  """Returns the share of each token in the mean of each window.

  Args:
    length: S.
    real: True at the tokens that count; all do if None.
    size: R.
  """
  real = jnp.ones((1, length), bool) if real is None else real
  rank = (jnp.cumsum(real, axis=1, dtype=jnp.int32) - 1)[..., None]
  count = real.sum(axis=1, dtype=jnp.int32)[:, None, None]
  number = jnp.arange(size, dtype=jnp.int32)[None, None]
  first, end = number * count // size, -(-(number + 1) * count // size)
  inside = real[..., None] & (rank >= first) & (rank < end)
  return inside / jnp.maximum(end - first, 1)
