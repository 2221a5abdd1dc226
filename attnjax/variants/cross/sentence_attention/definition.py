"""The definitions: the gate of a sentence, channel by channel of every pixel."""

import jax.numpy as jnp

from attnjax.core import definition


def reference(x, sentence, *weights, gate="softmax", **named):
  """Computes every pixel's product with the gate."""
  found = reference_channel_gate(sentence, *weights, gate=gate, **named)
  return (definition.wide(x) * found[:, None, None, :]).astype(x.dtype)


def reference_channel_gate(
  sentence, inner, inner_bias, gain, shift, outer, outer_bias, *, gate="softmax"
):
  """Computes the gate of each channel from the sentence alone."""
  h = _linear(sentence, inner, inner_bias)
  far = h - h.sum(axis=-1, keepdims=True) / h.shape[-1]
  variance = (far**2).sum(axis=-1, keepdims=True) / h.shape[-1]
  h = far / jnp.sqrt(variance + 1e-5)
  h = h * definition.wide(gain)[None] + definition.wide(shift)[None]
  logits = _linear(jnp.where(h > 0, h, 0), outer, outer_bias)
  if gate == "sigmoid":
    return (1 + jnp.tanh(logits / 2)) / 2
  share, _ = definition.weights(logits)
  return share * (logits.shape[-1] if gate == "softmax_scaled" else 1)


def reference_project(x, gate, kernel):
  """Computes the product of the gated map, which is made, with the kernel."""
  gated = definition.wide(x) * definition.wide(gate)[:, None, None, :]
  return jnp.einsum("bhwc,cd->bhwd", gated, definition.wide(kernel)).astype(x.dtype)


def _linear(x, matrix, bias):
  product = jnp.einsum("be,em->bm", definition.wide(x), definition.wide(matrix))
  return product + definition.wide(bias)[None]
