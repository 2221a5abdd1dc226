"""OverLoCK's ContMix block against the authors'."""

from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from attnjax.variants.local import overlock
from attnjax.variants.local.overlock import large_kernel
from tests import networks


def compare(arrays: Mapping[str, np.ndarray], meta: dict) -> Iterator[tuple]:
  """Yields (key, what attnjax computes, what the file holds) for every result."""

  def build():
    return overlock.ContMixBlock(
      meta["dim"],
      heads=meta["num_heads"],
      window=meta["kernel_size"],
      small_window=meta["smk_size"],
      mlp_ratio=float(meta["mlp_ratio"]),
      layer_scale=float(meta["ls_init_value"] or 0),
      scale_input=meta["res_scale"],
      rngs=nnx.Rngs(0),
    )

  filled = networks.Filled(build, _joined(arrays, meta["kernel_size"]))
  _fill(filled)
  networks.check_epsilon(filled.model, 1e-6)
  block, stats = jax.tree.map(jnp.asarray, (filled.model, filled.stats()))

  def total(x, block, stats):
    y, _ = block(jnp.moveaxis(x, 1, 3), stats=stats)
    y = jnp.moveaxis(y, 3, 1)
    return (y * jnp.cos(jnp.arange(y.size)).reshape(y.shape)).sum(), y

  run = jax.jit(jax.value_and_grad(total, has_aux=True))
  (_, y), gradient = run(jnp.asarray(arrays["in.x"]), block, stats)
  yield "out.y", y, arrays["out.y"]
  if "grad.x" in arrays:
    yield "grad.x", gradient, arrays["grad.x"]


def _fill(filled: networks.Filled) -> None:
  block: Any = filled.model
  mixer, frame = block.mixer, block.frame
  for i in range(2):
    filled.depthwise(frame.convolve[i], f"dwconv{i + 1}")
    scale = frame.sums[i].scale
    if scale is not None:
      own = filled.below(f"ls{i + 1}.")
      networks.fill(scale.scale, own["weight"].reshape(-1))
      networks.fill(scale.bias, own["bias"])
    networks.fill(mixer.relative[i], filled.below(f"rpb{i + 1}")[""])
  filled.norm(block.norm, "norm1")
  filled.norm(frame.norm, "norm2")
  for part, name, at in (
    (mixer.query, "weight_query", 0),
    (mixer.key, "weight_key", 1),
    (mixer.value, "weight_value", 0),
    (mixer.fusion, "fusion_proj", 0),
    (mixer.gate, "gate", 0),
  ):
    filled.linear(part.linear, f"{name}.{at}")
    filled.norm(part.norm, f"{name}.{at + 1}")
  filled.linear(mixer.taps, "weight_proj")
  _fill_large(filled, mixer.local)
  filled.norm(mixer.norms[0], "lepe.1")
  filled.linear(mixer.excite.squeeze, "se_layer.proj.1")
  filled.linear(mixer.excite.excite, "se_layer.proj.3")
  filled.norm(mixer.norms[1], "proj.0")
  filled.linear(mixer.out, "proj.1")
  filled.linear(frame.feed.up, "mlp.0")
  filled.depthwise(frame.feed.convolve, "mlp.2")
  own = filled.below("mlp.3.")
  networks.fill(frame.feed.respond.scale, own["gamma"].reshape(-1))
  networks.fill(frame.feed.respond.bias, own["beta"].reshape(-1))
  filled.linear(frame.feed.down, "mlp.4")


def _joined(arrays: Mapping[str, np.ndarray], side: int) -> dict[str, np.ndarray]:
  """Returns the arrays with the norms of all branches as one."""
  found, large = dict(arrays), "param.lepe.0"
  names = [f"dil_bn_k{k}_{r}" for k, r in large_kernel.BRANCHES[side]]
  for end in ("weight", "bias", "running_mean", "running_var"):
    each = [found.pop(f"{large}.{name}.{end}") for name in ("origin_bn", *names)]
    found[f"{large}.norm.{end}"] = np.concatenate(each)
  return found


def _fill_large(filled, local):
  names = [f"dil_conv_k{k}_{r}" for k, r in large_kernel.BRANCHES[local.size]]
  for kernel, name in zip(local.kernels, ("lk_origin", *names), strict=True):
    weight = filled.below(f"lepe.0.{name}.")["weight"]
    networks.fill(kernel, weight[:, 0].transpose(1, 2, 0))
  filled.norm(local.norm, "lepe.0.norm")
