"""Small problems on which all implementations agree."""

import jax.numpy as jnp

from attnjax.contract import Case


def _prompt(name, method, B, T, N, K, H, V, lengths=None, **options):
  shapes = {"q": (B, T, N, H), "k": (B, T, K, H), "v": (B, T, K, V)}
  given = {} if lengths is None else {"lengths": _integers(*lengths)}
  return Case(name, shapes, {"method": method} | given | options)


def _pages(name, B, S, N, K, H, V, lengths, **options):
  shapes = {"q": (B, N, H), "k": (B, S, K, H), "v": (B, S, K, V)}
  given = {"lengths": _integers(*lengths)} | options
  return Case(name, shapes, given, function="attend_pages")


def _kept(name, B, S, W, N, K, H, V, lengths, **options):
  shapes = {"q": (B, N, H), "window": (B, W, N, H), "k": (B, S, K, H)}
  given = {"lengths": _integers(*lengths)} | options
  return Case(name, shapes | {"v": (B, S, K, V)}, given, function="attend_kept")


def _integers(*numbers):
  return lambda key: jnp.array(numbers, jnp.int32)


_CROSS = {"window": 6, "verticals": 5, "slashes": 7, "first": 2, "near": 3}
_FLEX = {"window": 6, "least": 3, "first": 2, "near": 3, "alpha": 0.5}
_KEEP = {"capacity": 12, "pool": 3, "local": 4, "first": 2}
CASES = (
  _pages("pages", 2, 63, 4, 2, 8, 5, [63, 1], budget=16, page=8),
  _kept("kept", 3, 65, 9, 4, 2, 8, 5, [64, 20, 5], **_KEEP, adaptive=True),
  _prompt("cross", "vertical_slash", 3, 63, 4, 2, 8, 4, [63, 7, 1], **_CROSS),
  _prompt("cross_rounded", "vertical_slash", 1, 65, 1, 1, 4, 4, rounded=8, **_CROSS),
  _prompt("flex", "flexprefill", 2, 33, 4, 2, 8, 8, [33, 20], **_FLEX),
  _prompt("blocks", "block_sparse", 2, 65, 4, 2, 8, 8, [65, 30], block=8, blocks=3),
)
