"""The three gates of TANet against the authors' modules."""

from collections.abc import Iterator, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from attnjax.variants.mixers import tanet
from tests.arrays import below

_UNUSED = ("gsa.mask_conv_", "gda.identity.")  # which the official code never calls


def compare(arrays: Mapping[str, np.ndarray], meta: dict) -> Iterator[tuple]:
  """Yields (key, what attnjax computes, what the file holds) for every result."""
  del meta  # the arrays say it all
  weights = below(jax.tree.map(jnp.asarray, arrays), "param.")
  for name in [name for name in weights if name.startswith(_UNUSED)]:
    del weights[name]
  given = {
    "gsa": (tanet.strip_gate, _strips(weights)),
    "lpa": (tanet.pixel_gate, _pixels(weights)),
    "gda": (tanet.distribution_block, _halves(weights)),
  }
  if weights:
    raise ValueError(f"no gate takes {sorted(weights)}")

  def total(x):
    x = jnp.moveaxis(x, 1, 3)
    outs = {
      name: jnp.moveaxis(function(x, *own), 3, 1)
      for name, (function, own) in given.items()
    }
    waves = (jnp.cos(jnp.arange(y.size)).reshape(y.shape) for y in outs.values())
    return sum((y * wave).sum() for y, wave in zip(outs.values(), waves)), outs

  run = jax.jit(jax.value_and_grad(total, has_aux=True))
  (_, outs), gradient = run(jnp.asarray(arrays["in.x"]))
  for name, y in outs.items():
    yield f"out.{name}", y, arrays[f"out.{name}"]
  yield "grad.x", gradient, arrays["grad.x"]


def _strips(weights):
  rows = weights.pop("gsa.conv_1_h.weight")[..., 0].transpose(2, 1, 0)
  columns = weights.pop("gsa.conv_1_w.weight")[:, :, 0].transpose(2, 1, 0)
  found = [rows, weights.pop("gsa.conv_1_h.bias")]
  found += [columns, weights.pop("gsa.conv_1_w.bias")]
  for name in ("gsa.fuse_conv", "gsa.conv_final"):
    found += [weights.pop(f"{name}.weight")[:, :, 0, 0].T, weights.pop(f"{name}.bias")]
  return found


def _pixels(weights):
  kernel, bias = weights.pop("lpa.conv.weight"), weights.pop("lpa.conv.bias")
  return kernel[0].transpose(1, 2, 0), bias[0]


def _halves(weights):
  first, second = (
    (weights.pop(f"{name}.weight").transpose(2, 3, 1, 0), weights.pop(f"{name}.bias"))
    for name in ("gda.conv_1", "gda.conv_2")
  )
  norm = weights.pop("gda.norm.weight"), weights.pop("gda.norm.bias")
  return *first, *norm, *second
