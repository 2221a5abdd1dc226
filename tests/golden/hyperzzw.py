"""HyperZ.Z.W against the authors' SFNE block, its parts, and both slow losses.

The official arrays are channels first. Biases that a standardisation removes, or that
follow one by a linear map, are in the file but not in attnjax.
"""

import functools
import re
from collections.abc import Iterator, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from attnjax.variants.mixers import hyperzzw
from tests.arrays import below

_BLOCK = "fast_multi_branch."


def compare(arrays: Mapping[str, np.ndarray], meta: dict) -> Iterator[tuple]:
  """(key, what attnjax computes, what the file holds) for every result."""
  del meta  # the arrays say it all
  weight = below(arrays, "param.")
  inputs = {
    k.removeprefix("in."): last(v)
    for k, v in arrays.items()
    if re.fullmatch(r"in\.x(_\w+)?", k)
  }
  block = _block(weight, inputs)
  given = {k: v for k, v in arrays.items() if k.startswith("in.")}
  parts = [k.removeprefix("out.mid.") for k in arrays if k.startswith("out.mid.")]

  @jax.jit
  def run(block, inputs, given):
    found = _whole(block, inputs)
    found |= {f"out.mid.{name}": _part(block.branches, name, given) for name in parts}
    found["out.gibs_y"] = first(hyperzzw.gibs(last(given["in.gibs_x"])))
    names = sorted(k for k in given if re.fullmatch(r"in\.hk\d+", k))
    kernels = [last(given[name])[0] for name in names]
    for reduce in hyperzzw.REDUCTIONS:
      found[f"out.slow_loss_{reduce}"] = hyperzzw.slow_neural_loss(kernels, reduce)
    return found

  found = run(block, inputs, given)
  for key in arrays:
    if key.startswith(("out.", "grad.")):
      yield key, found[key], arrays[key]


def _whole(block, inputs):
  """The block's results, and the gradients by all of its inputs."""

  def total(inputs):
    # x_pre is before x_prepre or x_pre_pre.
    earlier = [inputs[name] for name in sorted(inputs, key=len) if name != "x"]
    y, kernel = block(inputs["x"], earlier)
    y = first(y)
    return (y * jnp.cos(jnp.arange(y.size)).reshape(y.shape)).sum(), (y, kernel)

  (_, (y, kernel)), gradients = jax.value_and_grad(total, has_aux=True)(inputs)
  results = {"out.y": y, "out.global_hk": first(kernel[None])}
  return results | {f"grad.{name}": first(g) for name, g in gradients.items()}


def _part(branches, name, arrays):
  """The result of an official module from its `in.mid.<module>.<argument>`."""
  given = []
  while f"in.mid.{name}.{len(given)}" in arrays:
    given.append(last(arrays[f"in.mid.{name}.{len(given)}"]))
  number = int(name[-1]) - 1 if name[-1].isdigit() else 0
  modules = {
    "Fast_Kernel_rgu": branches.gated,
    "Fast_Kernel_rgu_2": branches.gated_weights,
    "channel_mixer_hci": branches.channel,
    "hyper_interact": branches.interact,
  }
  if name in modules:
    return first(modules[name](*given))
  if name.startswith("slow_net_l"):
    return jnp.transpose(branches.locals[number](*given), (2, 0, 1))[:, None]
  if name.startswith("local_interact_conv"):
    # (C, 1, k, k), of which `last` has put the 1 last.
    kernel = jnp.transpose(given[0][..., 0], (1, 2, 0))
    return first(branches.convs[number](kernel, given[1]))
  raise KeyError(f"out.mid.{name}: no such part")


def _block(weight, inputs):
  """The block with the sizes and the values of the official parameters."""
  narrow = weight[f"{_BLOCK}bottleneck_layer.weight"]
  make = functools.partial(
    hyperzzw.SFNEBlock,
    inputs["x"].shape[-1],
    narrow.shape[0],
    slow_depth=_depth(weight),
    extras=len(inputs) - 1,
    **widths(weight),
  )
  block = jax.eval_shape(lambda: make(rngs=nnx.Rngs(0)))
  fill_block(block, weight)
  return block


def _depth(weight):
  linears = rf"{_BLOCK}slow_net_g.Kernel.linears.*weight"
  return sum(bool(re.match(linears, name)) for name in weight)


def widths(weight):
  """The sizes of a block's slow nets and maps, which do not depend on its place."""
  slow = f"{_BLOCK}slow_net_g.Kernel."
  kernels = [
    weight[f"{_BLOCK}slow_net_l{i}.Kernel.bias_pk"].shape[-1] for i in range(1, 5)
  ]
  local = weight[f"{_BLOCK}slow_net_l1.Kernel.output_linear.weight"]
  score = weight[f"{_BLOCK}hyper_interact.slow_net_gs_hi.Kernel.output_linear.weight"]
  return {
    "size": weight[f"{slow}bias_p"].shape[-1],
    "kernels": kernels,
    "slow_width": weight[f"{slow}output_linear.weight"].shape[1],
    "local_width": local.shape[1],
    "score_width": score.shape[1],
  }


def fill_block(block, weight):
  """Fills a block with the values of the official parameters."""
  _set(block.bias, weight["bias"])
  branches = block.branches
  _kernel(branches.narrow, weight[f"{_BLOCK}bottleneck_layer.weight"])
  _kernel(branches.mix, weight[f"{_BLOCK}channel_mixer_mlp.weight"])
  _slow(branches.slow, weight, f"{_BLOCK}slow_net_g.Kernel.")
  for i, (net, conv) in enumerate(zip(branches.locals, branches.convs), 1):
    _local(net, weight, f"{_BLOCK}slow_net_l{i}.Kernel.")
    mixer = f"{_BLOCK}local_interact_conv_{i}.channel_mixer.weight"
    _kernel(conv.mix, weight[mixer])
  _rgu(branches.gated, weight, f"{_BLOCK}Fast_Kernel_rgu.")
  _rgu(branches.gated_weights, weight, f"{_BLOCK}Fast_Kernel_rgu_2.")
  _slow(branches.channel.slow, weight, f"{_BLOCK}channel_mixer_hci.slow_net_gc.Kernel.")
  interact = f"{_BLOCK}hyper_interact.slow_net_"
  _slow(branches.interact.channel.slow, weight, f"{interact}gc_hi.Kernel.")
  _slow(branches.interact.slow, weight, f"{interact}gs_hi.Kernel.")


def _slow(net, weight, prefix):
  for i, part in enumerate(net.filters):
    fill_linear(part, weight, f"{prefix}filters.{i}.linear")
  for i, part in enumerate(net.hidden):
    fill_linear(part, weight, f"{prefix}linears.{i}")
  fill_linear(net.out, weight, f"{prefix}output_linear")
  table = weight.get(f"{prefix}bias_p", weight.get(f"{prefix}bias_pk"))
  _set(net.position.table, table.reshape(net.position.table.shape))


def _local(net, weight, prefix):
  _slow(net.net, weight, prefix)
  fill_linear(net.reduce, weight, f"{prefix}fast_reduce")
  fill_linear(net.feature, weight, f"{prefix}fast_fc1")
  for i, part in enumerate(net.gates):
    fill_linear(part, weight, f"{prefix}fast_linears_x.{i}")


def _rgu(unit, weight, prefix):
  parts = {"k": unit.key, "v": unit.value, "q": unit.query, "y": unit.out}
  for name, part in parts.items():
    fill_linear(part, weight, f"{prefix}fast_linear_{name}")
  _set(unit.position.table, weight[f"{prefix}bias_p"][0, 0])


def fill_linear(part, weight, name):
  """Fills a linear map from one, or from a convolution of 1 or 1 x 1."""
  _kernel(part, weight[f"{name}.weight"])
  _set(part.bias, weight[f"{name}.bias"])


def _kernel(part, value):
  _set(part.kernel, value.reshape(value.shape[:2]).T)


def _set(parameter, value):
  if parameter.shape != value.shape:
    raise ValueError(
      f"a parameter of shape {parameter.shape} cannot hold {value.shape}"
    )
  parameter.set_value(jnp.asarray(value))


def last(x):
  """Moves the channels to the end."""
  return jnp.moveaxis(jnp.asarray(x), 1, -1)


def first(x):
  """Moves the channels before the pixels."""
  return jnp.moveaxis(x, -1, 1)
