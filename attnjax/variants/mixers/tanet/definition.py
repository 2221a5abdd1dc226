"""The definitions: means, sums over windows, halves, matrices of Fourier."""

import jax.numpy as jnp

from attnjax.core import definition

_SLOPE, _EPSILON = 0.2, 1e-5


def reference_strip_gate(
  x,
  row_kernel,
  row_shift,
  column_kernel,
  column_shift,
  inner,
  inner_shift,
  outer,
  outer_shift,
):
  """Computes the definition of `strip_gate`, pixel by pixel."""
  y = definition.wide(x)
  B, H, W, C = y.shape
  rows = y.sum(axis=2, keepdims=True) / W
  columns = y.sum(axis=1, keepdims=True) / H
  rows = _convolved(rows, row_kernel[:, None], row_shift)
  columns = _convolved(columns, column_kernel[None], column_shift)
  both = jnp.tile(rows, (1, 1, W, 1)) + jnp.tile(columns, (1, H, 1, 1))
  hidden = _convolved(both, inner[None, None], inner_shift)
  hidden = jnp.where(hidden > 0, hidden, 0)
  gate = _logistic(_convolved(hidden, outer[None, None], outer_shift))
  return (y * gate).astype(x.dtype)


def reference_pixel_gate(x, kernel, shift, *, lpa_multiply=False):
  """Computes the definition of `pixel_gate`, with the channels in their order."""
  y = definition.wide(x)
  C = y.shape[3]
  largest = jnp.sort(y, axis=3)[..., C - 1 :]
  pooled = jnp.concatenate([largest, y.sum(axis=3, keepdims=True) / C], axis=3)
  gate = _logistic(_convolved(pooled, kernel[..., None], shift[None]))
  return (jnp.tile(gate, (1, 1, 1, C)) * (y if lpa_multiply else 1)).astype(x.dtype)


def reference_distribution_block(
  x, first, first_shift, gain, shift, second, second_shift
):
  """Computes the definition of `distribution_block`, with a norm of all channels."""
  y = definition.wide(x)
  _, H, W, C = y.shape
  u = _convolved(y, first, first_shift)
  mean = u.sum(axis=(1, 2), keepdims=True) / (H * W)
  variance = ((u - mean) ** 2).sum(axis=(1, 2), keepdims=True) / (H * W)
  normed = ((u - mean) / jnp.sqrt(variance + _EPSILON))[..., : C // 2]
  gain, shift = (definition.wide(w)[None, None, None] for w in (gain, shift))
  joined = jnp.concatenate([gain * normed + shift, u[..., C // 2 :]], axis=3)
  return (_bent(_convolved(_bent(joined), second, second_shift)) + y).astype(x.dtype)


def reference_reconstruction(x, y, *, weight=0.03, epsilon=1e-3):
  """Computes the definition of `reconstruction`, by matrices of cosines and sines."""
  x, y = definition.wide(x), definition.wide(y)
  pixels = jnp.sqrt((x - y) ** 2 + epsilon**2)
  _, H, W, _ = x.shape
  (cos, sin), (right_cos, right_sin) = _waves(H), _waves(W)

  def transform(image, down, right):
    return jnp.einsum("uh,vw,bhwc->buvc", down, right, image)

  def real(image):
    return transform(image, cos, right_cos) - transform(image, sin, right_sin)

  def imaginary(image):
    return -transform(image, cos, right_sin) - transform(image, sin, right_cos)

  both = [jnp.abs(part(x) - part(y)) for part in (real, imaginary)]
  return pixels.mean() + weight * jnp.stack(both).mean()


def _waves(length):
  turns = jnp.outer(jnp.arange(length), jnp.arange(length)) % length / length
  return jnp.cos(2 * jnp.pi * turns), jnp.sin(2 * jnp.pi * turns)


def _convolved(x, kernel, shift):
  """Convolves by sums over windows (k, l, C), with zeros around the map."""
  rows, columns = kernel.shape[:2]
  around = ((rows // 2,) * 2, (columns // 2,) * 2)
  padded = jnp.pad(x, ((0, 0), *around, (0, 0)))
  down = jnp.arange(x.shape[1])[:, None] + jnp.arange(rows)
  right = jnp.arange(x.shape[2])[:, None] + jnp.arange(columns)
  windows = padded[:, down][:, :, :, right]
  found = jnp.einsum("bhiwjc,ijcd->bhwd", windows, definition.wide(kernel))
  return found + definition.wide(shift)[None, None, None]


def _bent(x):
  return jnp.where(x > 0, x, _SLOPE * x)


def _logistic(x):
  return 1 / (1 + jnp.exp(-x))
