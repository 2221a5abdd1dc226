"""S2 against the authors' code, around a tiny network that mixes all of a tile."""

from collections.abc import Iterator, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from attnjax.variants.tokens import scaling_on_scales as s2

_NAMES = {
  "scales": "scales",
  "img_sizes": "sizes",
  "max_split_size": "max_split",
  "resize_output_to_idx": "resize_to",
  "num_prefix_token": "prefix",
  "split_forward": "split_forward",
}


def compare(arrays: Mapping[str, np.ndarray], meta: dict) -> Iterator[tuple]:
  """Yields (key, what attnjax computes, what the file holds) for every result."""
  options = {_NAMES[name]: value for name, value in meta["kw"].items()}

  @jax.jit
  def run(x):
    def total(x):
      y = s2.multiscale_forward(
        x.transpose(0, 2, 3, 1), f=_network(arrays, meta), **options
      )
      return jnp.sum(y * jnp.cos(jnp.arange(y.size)).reshape(y.shape)), y

    (_, y), gradient = jax.value_and_grad(total, has_aux=True)(x)
    return y, gradient

  y, gradient = run(jnp.asarray(arrays["in.x"]))
  yield "out.y", y, arrays["out.y"]
  if "grad.x" in arrays:
    yield "grad.x", gradient, arrays["grad.x"]


def _network(arrays, meta):
  """Returns what the file's `model` says: images (b, h, w, 3) to tokens."""
  p, kernel = meta["p"], arrays["param.c.weight"].transpose(2, 3, 1, 0)

  def run(x):
    B, H, W, C = x.shape
    x = x.reshape(B, H // p, p, W // p, p, C)
    y = jnp.einsum("bipjqc,pqcd->bijd", x, kernel, precision="highest")
    y = (y + arrays["param.c.bias"]).reshape(B, -1, kernel.shape[-1])
    if meta["pre"]:
      mean = y.mean(axis=1, keepdims=True)
      y = jnp.concatenate([arrays["param.t"] + mean, y], axis=1)
    mixed = y @ arrays["param.a.weight"].T + arrays["param.a.bias"]
    return y + jnp.tanh(mixed) * y.mean(axis=1, keepdims=True)

  return run
