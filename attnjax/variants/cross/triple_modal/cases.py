"""Small problems of ITCFN's functions."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp

from attnjax.contract import Case
from attnjax.variants.cross.triple_modal import weights as parameters
from pallas_kernels.calling import BACKENDS


def _drawn(kind, D, key):
  """Draws parameters of which none is 0 or 1."""
  shapes = parameters.shapes(kind, D)
  sizes = [math.prod(shape) for shape in shapes.values()]
  numbers = jax.random.normal(key, (sum(sizes),))
  found, start = {}, 0
  for (name, shape), size in zip(shapes.items(), sizes):
    part = numbers[start : start + size].reshape(shape)
    found[name] = part * (shape[-2] ** -0.5 if len(shape) > 1 else 0.5)
    start += size
  return {"weights": parameters.Weights(**found)}


def _streams(name, B, T, D, kind, present=None, **options):
  shapes = {f"x{i}": (B, T, D) for i in (1, 2, 3)}
  make: Any = functools.partial(_drawn, kind, D)
  options |= {"kind": kind}
  if present is not None:
    options["present"] = lambda key: jnp.array(present, bool)
  return Case(name, shapes, options, make, "tri_coattention")


def _ends(key):
  """Returns keys of (2, 3, 65): all, some at either end, none."""
  del key
  s, counts = jnp.arange(65), jnp.array([[65, 7, 0], [1, 63, 64]])
  real = s < counts[..., None]
  return real.at[0, 1].set(s >= 58)


def _labels(*labels):
  return lambda key: jnp.array(labels, jnp.int32)


CASES = (
  Case(
    "padded",
    {"q": (2, 63, 2, 4), "k": (2, 3, 65, 2, 4), "v": (2, 3, 65, 2, 3)},
    {"valid": _ends},
  ),
  _streams("joint", 3, 7, 6, "joint", [[1, 1, 1], [1, 0, 1], [0, 0, 0]]),
  Case(
    "splines",
    {"x": (3, 4), "base": (4, 2), "spline": (4, 8, 2), "scaler": (4, 2)},
    function="kan_linear",
  ),
  Case(
    "focal",
    {"scores": (4, 3)},
    {"labels": _labels(0, 2, -1, 1)},
    function="focal_loss",
  ),
  Case(
    "matching",
    {"a": (5, 6), "b": (5, 6)},
    {"labels": _labels(0, 2, -1, 2, 1), "length": 1.5},
    function="sdm_loss",
  ),
  Case(
    "losses",
    {"a": (5, 6), "b": (5, 6), "c": (5, 6), "scores": (5, 2)},
    {
      "labels": _labels(0, 1, 1, -1, 1),
      "present": lambda key: jnp.ones((5, 3), bool).at[0, 1].set(False),
    },
    function="itcfn_loss",
  ),
)
REFUSED = dict.fromkeys(BACKENDS, ("splines", "focal", "matching", "losses"))


def _long(T):
  """Returns queries that three blocks of T keys share."""
  shapes = {"q": (1, T, 2, 16), "k": (1, 3, T, 2, 16), "v": (1, 3, T, 2, 16)}
  return Case("long", shapes)


CURVES = {"blocks": (2.0, _long)}
