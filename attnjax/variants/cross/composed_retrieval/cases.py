"""Small problems of CoLLM's functions."""

import jax
import jax.numpy as jnp

from attnjax.contract import Case


def _arc(name, *shape, alpha):
  return Case(name, {"a": shape, "b": shape}, {"alpha": alpha}, function="slerp")


def _some(*shape):
  return lambda key: jax.random.bernoulli(key, 0.4, shape)


def _scale(key):
  return {"log_scale": 0.5 + jax.random.uniform(key)}


def _pairs(name, B, E, **options):
  shapes = {"q": (B, E), "t": (B, E)}
  return Case(name, shapes, options, _scale, "info_nce")


def _around(T):
  """Returns valid tokens: all, some with padding behind, before, one, none."""
  place = jnp.arange(T)
  rows = [place >= 0, place < T - 1, place > 0, place == T // 2, place < 0]
  return lambda key: jnp.stack(rows)


CASES = (
  _arc("middle", 3, 6, alpha=0.5),
  _arc("near_the_end", 2, 7, 63, alpha=0.9),
  Case("alone", {"v": (1, 1)}, function="nearest_in_batch"),
  Case(
    "excluded", {"v": (65, 3)}, {"exclude": _some(65, 65)}, function="nearest_in_batch"
  ),
  Case("padded", {"hidden": (5, 7, 1)}, {"valid": _around(7)}, function="pool_last"),
  _pairs("one_pair", 1, 1),
  _pairs("tiles", 65, 4, tile=8, mask=_some(65, 65)),
)
