"""The authors' two modules, PSA_p (p) and PSA_s (s), of one image."""

from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from attnjax.variants.mixers import polarized
from tests.arrays import below
from tests.networks import fill

_KINDS = {
  "p": {"variant": "code_p", "layout": "parallel"},
  "s": {"variant": "code_s", "layout": "sequential"},
}


def compare(arrays: Mapping[str, np.ndarray], meta: dict) -> Iterator[tuple]:
  """Yields (key, what attnjax computes, what the file holds) for every result."""
  del meta  # shapes are read from the arrays
  x = jnp.asarray(arrays["in.x"].transpose(0, 2, 3, 1))
  layers = {name: _layer(below(arrays, f"param.{name}."), name) for name in _KINDS}
  found, gradient = _run(layers, x)
  for name, out in found.items():
    yield f"out.{name}", out, arrays[f"out.{name}"]
  yield "grad.x", gradient.transpose(0, 3, 1, 2), arrays["grad.x"]


@jax.jit
def _run(layers, x):
  """Returns both results (B, D, R, C), and the gradient of their weighted sum."""

  def total(x):
    found = {name: layer(x).transpose(0, 3, 1, 2) for name, layer in layers.items()}
    waves = (y * jnp.cos(jnp.arange(y.size)).reshape(y.shape) for y in found.values())
    return sum(wave.sum() for wave in waves), found

  gradient, found = jax.grad(total, has_aux=True)(x)
  return found, gradient


def _layer(weights, name):
  left = dict(weights)
  dim = left["conv_q_right.weight"].shape[1]
  layer: Any = polarized.Layer(dim, **_KINDS[name], rngs=nnx.Rngs(0))
  fill(layer.channel_query, left.pop("conv_q_right.weight").reshape(-1))
  fill(layer.channel_value, _matrix(left.pop("conv_v_right.weight")))
  fill(layer.spatial_query, _matrix(left.pop("conv_q_left.weight")))
  fill(layer.spatial_value, _matrix(left.pop("conv_v_left.weight")))
  if name == "p":
    fill(layer.up.kernel, _matrix(left.pop("conv_up.weight")))
  else:
    for part, at in ((layer.squeeze, 0), (layer.up, 3)):
      fill(part.kernel, _matrix(left.pop(f"conv_up.{at}.weight")))
      fill(part.bias, left.pop(f"conv_up.{at}.bias"))
    for part, end in ((layer.scale, "weight"), (layer.bias, "bias")):
      fill(part, left.pop(f"conv_up.1.{end}").reshape(-1))
  if left:
    raise ValueError(f"no part takes {sorted(left)}")
  return layer


def _matrix(weight):
  """Returns the matrix (in, out) of a convolution of 1 x 1."""
  return weight[:, :, 0, 0].T
