"""The fast form: x is pooled first, and projected afterwards.

Each function is recomputed in the backward pass, which else keeps gates, shares and,
of 16-bit images, x in float32.
"""

import functools

import jax
import jax.numpy as jnp

from attnjax.core.dtypes import accumulator_dtype

EPSILON = 1e-5  # added to variances


@functools.partial(jax.checkpoint, static_argnums=(4, 5))
def gated(x, channel, head, spatial, variant, layout):
  """Returns x times its gates, in parallel or in sequence.

  Args:
    x: (B, R, C, D).
    channel: query, value and `up` of the channel gate.
    head: its other arrays, by name.
    spatial: query and value of the spatial gate.
    variant: one of `VARIANTS`.
    layout: one of `LAYOUTS`.
  """
  gate, both = _channel(x, channel, head, variant), layout == "parallel"
  place = _spatial(x, None if both else gate, spatial, variant)[..., None]
  gate = gate[:, None, None]
  factor = gate + place if both else gate * place
  return (x.astype(factor.dtype) * factor).astype(x.dtype)


@functools.partial(jax.checkpoint, static_argnums=(3,))
def channel_gate(x, weights, head, variant):
  """Returns the gate of channels (B, D)."""
  return _channel(x, weights, head, variant)


@functools.partial(jax.checkpoint, static_argnums=(2,))
def spatial_gate(x, weights, variant):
  """Returns the gate of places (B, R, C)."""
  return _spatial(x, None, weights, variant)


def _channel(x, weights, head, variant):
  wide = accumulator_dtype(x)
  rows, (query, value, up) = _rows(x), (w.astype(wide) for w in weights)
  head = {name: w.astype(wide) for name, w in head.items()}
  share = jax.nn.softmax(rows @ query)
  z = (share[:, None] @ rows)[:, 0] @ value
  if variant == "code_s":
    z = z @ head["squeeze"] + head["squeeze_bias"][None]
    z = jax.nn.relu(_norm(z, head)) @ up + head["up_bias"][None]
  else:
    z = z @ up
  return jax.nn.sigmoid(_norm(z, head) if variant == "paper" else z)


def _spatial(x, gate, weights, variant):
  """Returns the spatial gate of x times `gate` (B, D), where it is not None."""
  wide = accumulator_dtype(x)
  rows, (query, value) = _rows(x), (w.astype(wide) for w in weights)
  mean = rows.sum(1) / max(rows.shape[1], 1)
  mean = (mean if gate is None else mean * gate) @ query
  if variant == "code_s":
    seen = rows if gate is None else rows * gate[:, None]
    share = jax.nn.softmax(seen @ value, axis=1)
    scores = (share @ mean[..., None])[..., 0]
  else:
    mean = jax.nn.softmax(mean) if variant == "paper" else mean
    line = mean @ value.T
    line = line if gate is None else line * gate
    scores = (rows @ line[..., None])[..., 0]
  if variant == "code_p":
    scores = jax.nn.softmax(scores)
  return jax.nn.sigmoid(scores).reshape(x.shape[:-1])


# Of flat places: XLA on the CPU takes six times as long for sums over two axes.
def _rows(x):
  B, R, C, D = x.shape
  return x.astype(accumulator_dtype(x)).reshape(B, R * C, D)


def _norm(z, head):
  far = z - z.mean(axis=-1, keepdims=True)
  variance = jnp.square(far).mean(axis=-1, keepdims=True)
  normed = far * jax.lax.rsqrt(variance + EPSILON)
  return head["gain"][None] * normed + head["shift"][None]
