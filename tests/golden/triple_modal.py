"""ITCFN against the authors' code: three fusions, self-attention, losses, slopes."""

from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from attnjax.variants.cross import triple_modal
from attnjax.variants.cross.triple_modal.block import self_attend

_BLOCK = ("query", "key", "value", "dense")


def compare(arrays: Mapping[str, np.ndarray], meta: dict) -> Iterator[tuple]:
  """(key, what attnjax computes, what the file holds) for every result."""
  hyper = meta["hyper"]
  heads = {"joint_mha": hyper["heads"]}
  own: dict[str, Any] = {
    kind: weights(arrays, kind) for kind in ("ring", "joint", "joint_mha")
  }
  x = [jnp.asarray(arrays[f"in.x{i}"]) for i in (1, 2, 3)]
  block = block_weights(arrays)
  losses = [jnp.asarray(arrays[f"in.{n}"]) for n in ("f1", "f2", "f3", "scores")]
  labels = jnp.asarray(arrays["in.labels"])

  def fused(x):
    return {
      kind: triple_modal.tri_coattention(
        x[0], x[1], x[2], w, kind=kind, heads=heads.get(kind, 1)
      )
      for kind, w in own.items()
    }

  def attended(x):
    return self_attend(x, block, heads=hyper["self_heads"])

  def joint(given):
    a, b, c = (f.reshape(len(labels), -1) for f in given[:3])
    return triple_modal.itcfn_loss(a, b, c, given[3], labels)

  def cosines(y):
    return jnp.vdot(y, jnp.cos(jnp.arange(y.size, dtype=jnp.float32)).reshape(y.shape))

  @jax.jit
  def run(x, y, given):
    out = fused(x)
    found = {"out.ver2_2": out["joint_mha"][3], "out.self": attended(y)}
    for name, kind in (("v1", "ring"), ("ver2", "joint")):
      names = ("o1", "o2", "o3", "global")
      found |= {f"out.{name}.{n}": z for n, z in zip(names, out[kind])}
    slopes = jax.grad(lambda x: sum(cosines(z[3]) for z in fused(x).values()))(x)
    found |= {f"grad.x{i + 1}": slope for i, slope in enumerate(slopes)}
    found["grad.xself"] = jax.grad(lambda y: cosines(attended(y)))(y)
    found["out.joint_loss"] = joint(given)
    slopes = jax.grad(joint)(given)
    found |= {f"grad.{n}": z for n, z in zip(("f1", "f2", "f3", "scores"), slopes)}
    a, b = (f.reshape(len(labels), -1) for f in given[:2])
    return found | {"out.sdm12": triple_modal.sdm_loss(a, b, labels)}

  for key, value in run(x, jnp.asarray(arrays["in.xself"]), losses).items():
    yield key, value, arrays[key]


def weights(arrays: Mapping[str, np.ndarray], kind: str) -> triple_modal.Weights:
  """Returns the parameters of a fusion; the authors' matrices are (outputs, inputs)."""
  name = {"ring": "v1", "joint": "ver2", "joint_mha": "ver2_2"}[kind]

  def read(path):
    matrix, bias = (arrays[f"param.{name}.{path}{e}"] for e in ("weight", "bias"))
    return np.asarray(matrix.T), bias

  def stacked(paths):
    return [np.stack(parts) for parts in zip(*(read(path) for path in paths))]

  found: dict[str, Any] = {}
  if kind == "joint_mha":
    for place, part in enumerate(("query", "key", "value")):
      matrices = []
      for i in (1, 2, 3):
        path = f"cross_attention{i}.in_proj_"
        matrix, bias = read(path)
        own = slice(place * len(matrix), (place + 1) * len(matrix))
        matrices.append((matrix[:, own], bias[own]))
      found[part], found[f"{part}_bias"] = map(np.stack, zip(*matrices))
    paths = [f"cross_attention{i}.out_proj." for i in (1, 2, 3)]
    found["out"], found["out_bias"] = stacked(paths)
    found["joint"], found["joint_bias"] = read("q_linear.")
  else:
    letters = {"key": "k", "value": "v", "out": "o"}
    letters |= {"query": "q"} if kind == "ring" else {}
    for part, letter in letters.items():
      paths = [f"W_{letter}{i}." for i in (1, 2, 3)]
      found[part], found[f"{part}_bias"] = stacked(paths)
    if kind == "joint":
      found["joint"], found["joint_bias"] = read("W_q.")
  absent = np.full_like(found["out_bias"], np.nan)  # nothing is absent
  return triple_modal.Weights(**jax.tree.map(jnp.asarray, found), absent=absent)


def block_weights(arrays: Mapping[str, np.ndarray]) -> triple_modal.BlockWeights:
  """Returns the parameters of the self-attention block."""
  found = {}
  for name in _BLOCK:
    found[name] = jnp.asarray(arrays[f"param.self.{name}.weight"].T)
    found[f"{name}_bias"] = jnp.asarray(arrays[f"param.self.{name}.bias"])
  for name, theirs in (("norm_scale", "weight"), ("norm_bias", "bias")):
    found[name] = jnp.asarray(arrays[f"param.self.LayerNorm.{theirs}"])
  return triple_modal.BlockWeights(**found)
