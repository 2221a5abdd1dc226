"""The cases: networks that give maps, tokens, and both."""

import jax
import jax.numpy as jnp

from attnjax.contract import Case


def _network(patch, prefix, kind):
  """Returns what makes a network from a key: patches mixed by their mean, tanh."""

  def make(key):
    weight = 0.3 * jax.random.normal(key, (patch * patch * 3, 5))

    def run(x):
      B, H, W, C = x.shape
      h, w = H // patch, W // patch
      x = x.reshape(B, h, patch, w, patch, C).swapaxes(2, 3).reshape(B, h, w, -1)
      y = jnp.tanh(x @ weight.astype(x.dtype))
      y = y * (1 + y.mean(axis=(1, 2), keepdims=True))
      first = jnp.stack([y.mean(axis=(1, 2)) + i for i in range(prefix)], 1)
      if kind == "pair":
        return first, y
      return jnp.concatenate([first, y.reshape(B, h * w, -1)], axis=1)

    return run

  return make


def _map(patch):
  def make(key):
    run = _network(patch, 1, "pair")(key)
    return lambda x: run(x)[1]

  return make


def _case(name, shape, f, **options):
  return Case(name, {"x": shape}, {"f": f} | options, function="multiscale_forward")


def _linear(name, N, D, E, **options):
  shapes = {"inputs": (N, D), "targets": (N, E)}
  return Case(name, shapes, options, function="linear_reconstruction")


CASES = (
  _case("maps", (2, 8, 8, 3), _map(4)),
  _case("tokens", (1, 4, 4, 3), _network(2, 2, "tokens"), prefix=2),
  _case(
    "half",
    (2, 8, 8, 3),
    _network(2, 1, "tokens"),
    scales=(0.5, 1),
    max_split=4,
    resize_to=1,
    prefix=1,
  ),
  _case("oblong", (1, 2, 4, 3), _network(2, 1, "pair"), scales=(3, 1), resize_to=-1),
  _case("sizes", (1, 4, 4, 3), _map(1), sizes=(3, 5), max_split=5),
  _case("one_pixel", (1, 1, 1, 3), _map(1), scales=(1, 2), split_forward=True),
  _linear("few_features", 63, 5, 3),
  _linear("more_features_than_tokens", 7, 9, 1, ridge=0.1),
  Case(
    "information",
    {
      "inputs": (65, 4),
      "targets": (65, 3),
      "kernel": (4, 3),
      "shift": (3,),
      "constant": (3,),
    },
    function="information",
  ),
)
