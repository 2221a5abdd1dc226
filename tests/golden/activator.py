"""The blocks of Activator against the authors' code, with the MLP and without it."""

from collections.abc import Iterator, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from attnjax.variants.mixers import activator
from tests.arrays import below
from tests.networks import fill


def compare(arrays: Mapping[str, np.ndarray], meta: dict) -> Iterator[tuple]:
  """Yields (key, what attnjax computes, what the file holds) for every result."""
  hyper = meta["hyper"]
  for name in ("with_mlp", "only_glu"):
    stage = _stage(below(arrays, f"param.{name}.model."), hyper, name)
    out, gradient = _run(stage, jnp.asarray(arrays[f"in.{name}_x"]))
    yield f"out.{name}_y", out, arrays[f"out.{name}_y"]
    yield f"grad.{name}_x", gradient, arrays[f"grad.{name}_x"]


@jax.jit
def _run(stage, x):
  """Returns the result for tokens (B, T, D), and the gradient of its weighted sum."""

  def total(x):
    out = stage(x[:, :, None])[:, :, 0]
    return jnp.sum(out * jnp.cos(jnp.arange(out.size)).reshape(out.shape)), out

  (_, out), gradient = jax.value_and_grad(total, has_aux=True)(x)
  return out, gradient


def _stage(weights, hyper, name):
  ratio = (hyper["F"] + 0.5) / hyper["D"]  # which is rounded down
  model = activator.Model(
    3,
    2,
    dims=(hyper["D"],),
    depths=(hyper["L"],),
    expand=ratio,
    mlp_ratio=activator.SIZES[name].get("mlp_ratio", ratio),
    rngs=nnx.Rngs(0),
  )
  stage, left = model.stages.stages[0], dict(weights)
  for i, block in enumerate(stage.sequence):
    own = {key: left.pop(key) for key in list(left) if key.startswith(f"{i}.")}
    _fill(block, below(own, f"{i}."))
  if left:
    raise ValueError(f"no block takes {sorted(left)}")
  return stage


def _fill(block, own):
  ends = ("weight", "bias")
  for part, name in ((block.norm, "norm"), (block.unit, "actgu.norm")):
    fill(part.scale, own.pop(f"{name}.weight"))
    fill(part.bias, own.pop(f"{name}.bias"))
  first, second = ([own.pop(f"actgu.proj_{i}.{end}") for end in ends] for i in (1, 2))
  fill(block.unit.up.kernel, np.stack([first[0].T, second[0].T], axis=1))
  fill(block.unit.up.bias, np.stack([first[1], second[1]]))
  parts = [(block.unit.down, "actgu.proj_3")]
  if block.up is not None:
    parts += [(block.up, "ffn.net.0"), (block.down, "ffn.net.3")]
  for part, name in parts:
    fill(part.kernel, own.pop(f"{name}.weight").T)
    fill(part.bias, own.pop(f"{name}.bias"))
  if own:
    raise ValueError(f"no part takes {sorted(own)}")
