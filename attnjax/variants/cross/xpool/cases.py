"""Small problems of X-Pool's functions."""

import functools
import math
from typing import Any

import jax
import numpy as np

from attnjax.contract import Case
from attnjax.variants.cross.xpool.weights import Weights


def _weights(D, key):
  """Draws weights of which none is 0 or 1."""
  shapes = {n: (D,) if n.endswith("_bias") else (D, D) for n in Weights.__annotations__}
  shapes |= {"norm_scale": (3, D), "norm_bias": (3, D)}
  ends = np.cumsum([math.prod(shape) for shape in shapes.values()])
  parts = jax.numpy.split(jax.random.normal(key, (ends[-1],)), ends[:-1])
  size = {"norm_scale": 0.3, "norm_bias": 0.3}
  drawn = {
    name: size.get(name, D**-0.5) * part.reshape(shapes[name])
    for name, part in zip(shapes, parts)
  }
  drawn["norm_scale"] += 1
  return {"weights": Weights(**drawn)}


def _pairs(name, Q, I, F, D, options=None, function="pool"):
  shapes = {"text": (Q, D), "frames": (I, F, D)}
  make: Any = functools.partial(_weights, D)
  return Case(name, shapes, options or {}, make, function)


def _ends(I, F):
  """Returns valid frames: all, one fewer, ..., in the end none."""
  count = np.maximum(F - np.arange(I), 0)
  count[-1] = 0
  return lambda key: jax.numpy.asarray(np.arange(F) < count[:, None])


def _middle(I, F):
  return lambda key: jax.random.bernoulli(key, 0.5, (I, F)).at[:, 1].set(True)


def _free(name, Q, I, F, D, function, **options):
  return Case(name, {"text": (Q, D), "frames": (I, F, D)}, options, function=function)


CASES = (
  _pairs("whole", 3, 2, 4, 6, {"heads": 2}),
  _pairs("one_of_each", 1, 1, 1, 5),
  _pairs("long", 2, 3, 65, 9, {"heads": 9, "valid": _middle(3, 65)}, "similarity"),
  _pairs(
    "tiles", 5, 4, 7, 63, {"heads": 7, "tile": 2, "valid": _ends(4, 7)}, "similarity"
  ),
  _pairs("shares", 2, 4, 3, 6, {"heads": 2, "valid": _ends(4, 3)}, "weigh"),
  Case("mean", {"frames": (3, 7, 5)}, {"valid": _middle(3, 7)}, function="mean_pool"),
  _free("some", 3, 4, 5, 6, "top_k_pool", keep_frames=3, valid=_ends(4, 5)),
  _free("soft", 3, 4, 5, 6, "attention_pool", temperature=0.7, valid=_ends(4, 5)),
  Case("loss", {"similarity": (7, 7), "log_scale": ()}, function="clip_loss"),
)
