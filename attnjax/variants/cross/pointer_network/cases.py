"""Small problems of the functions: one input, odd numbers of them, masks, padding."""

import jax
import jax.numpy as jnp

from attnjax.contract import Case


def _shapes(B, S, T, H, additive=True):
  found = {"keys": (B, S, H), "queries": (B, T, H)}
  return found | ({"vector": (H,)} if additive else {})


def _valid(key):
  """Hides inputs at the end, in the middle and, in the last example, all of them."""
  del key
  hidden = jnp.array([[0] * 7 + [1] * 2, [0, 1, 1] + [0] * 6, [1] * 9])
  return hidden == 0


def _mask(key):
  mask = jax.random.bernoulli(key, 0.6, (2, 7, 5))
  return mask.at[1, 3].set(False)


def _targets(key):
  return jax.random.randint(key, (2, 7), -1, 5)


def _padded_targets(key):
  return jax.random.randint(key, (3, 4), -1, 9)


CASES = (
  Case("additive", _shapes(2, 5, 7, 8), function="pointer_logits"),
  Case("dot", _shapes(2, 65, 7, 8, False), function="pointer_logits"),
  Case("one", _shapes(1, 1, 1, 1), function="pointer_logits"),
  Case(
    "many",
    _shapes(3, 9, 63, 6),
    {"valid": _valid, "clip": 2.0},
    function="pointer_logits",
  ),
  Case("masked", _shapes(2, 5, 7, 4), {"mask": _mask}, function="pointer_logits"),
  Case(
    "loss",
    _shapes(3, 9, 4, 6),
    {"targets": _padded_targets, "valid": _valid},
    function="pointer_loss",
  ),
  Case(
    "masked_loss",
    _shapes(2, 5, 7, 4, False),
    {"targets": _targets, "mask": _mask, "clip": 3.0},
    function="pointer_loss",
  ),
  Case(
    "glimpse",
    _shapes(3, 9, 4, 6),
    {"valid": _valid, "clip": 1.5},
    function="glimpse",
  ),
  Case(
    "masked_glimpse", _shapes(2, 5, 7, 4, False), {"mask": _mask}, function="glimpse"
  ),
)
