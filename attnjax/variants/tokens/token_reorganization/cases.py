"""The cases: few and many tokens, one patch, padding, equal scores."""

import jax
import jax.numpy as jnp

from attnjax.contract import Case


def _valid(key):
  """Returns (4, 13): a whole row, padding at both ends and inside, and nothing."""
  del key
  place = jnp.arange(13)
  rows = [place >= 0, (place > 2) & (place < 11), place % 3 > 0, place < 0]
  return jnp.stack(rows)


def _seen(key):
  return jax.random.bernoulli(key, 0.5, (2, 9)).at[:, 0].set(True)


def _row(name, B, N, T, H, **options):
  shapes = {"q": (B, N, H), "k": (B, T, N, H)}
  return Case(name, shapes, options, function="class_attention")


def _case(name, B, T, D, **options):
  shapes = {"x": (B, T, D), "scores": (B, T - 1)}
  return Case(name, shapes, options, function="reorganize")


def _reduced(name, B, T, D, **options):
  shapes = {"x": (B, T, D), "scores": (B, T)}
  return Case(name, shapes, options, function="reduce_tokens")


def _masked(name, B, T, D, left, **options):
  def make(key):
    del key
    return jnp.broadcast_to(jnp.arange(T) < left, (B, T))

  shapes, given = {"x": (B, T, D), "scores": (B, T)}, {"left": make, **options}
  return Case(name, shapes, given, function="reorganize_masked")


def _equal(key):
  del key
  return {"scores": jnp.zeros((1, 6))}


CASES = (
  _row("row", 2, 3, 7, 4),
  _row("row_one_head", 1, 1, 1, 5, scale=2.0),
  _row("row_of_some", 2, 2, 9, 4, valid=_seen),
  _case("seven", 2, 8, 3, keep_ratio=0.5),
  _case("not_fused", 2, 8, 3, keep_ratio=0.3, fuse=False),
  _case("one_patch", 1, 2, 3, keep_ratio=0.4),
  _case("class_token_alone", 1, 1, 3, keep_ratio=0.4),
  _case("nearly_all", 1, 64, 2, keep_ratio=0.98),
  Case(
    "equal_scores",
    {"x": (1, 7, 2)},
    {"keep_ratio": 0.5},
    make=_equal,
    function="reorganize",
  ),
  _reduced("in_order", 2, 7, 3, keep_ratio=0.5, prefix=1),
  _reduced("in_order_one", 1, 1, 3, keep_ratio=0.1),
  _reduced("in_order_padded", 4, 13, 3, keep_ratio=0.4, prefix=1, valid=_valid),
  _reduced("in_order_not_fused", 4, 13, 2, keep_ratio=0.7, fuse=False, valid=_valid),
  _reduced("in_order_all", 4, 13, 2, keep_ratio=0.99, valid=_valid),
  _masked("masked", 2, 9, 3, left=7, count=4, slot=7),
  _masked("masked_not_fused", 1, 7, 2, left=7, count=2, slot=6, fuse=False),
  _masked("masked_all", 1, 3, 2, left=2, count=1, slot=2),
)
