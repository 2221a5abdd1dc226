"""The models of the Dynamical Systems Framework against the authors' layers."""

from collections.abc import Iterator, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from attnjax.variants.recurrent import dynamical_systems
from tests.arrays import below

# The file's names of the attentions, and attnjax's.
_ATTENTIONS = {"softmax": "softmax", "linear": "linear", "norm": "normalised"}


def compare(arrays: Mapping[str, np.ndarray], meta: dict) -> Iterator[tuple]:
  """(key, what attnjax computes, what the file holds) for every result."""
  kinds = [key.removeprefix("out.") for key in arrays if key.startswith("out.")]
  found = {}
  for kind in kinds:
    layer = _layer(kind, arrays, meta["hyper"])
    x = jnp.asarray(arrays["in.x" if kind in _ATTENTIONS else "in.hx"])
    found |= _with_gradient(layer, x, kind)
  for key in arrays:
    if key.startswith(("out.", "grad.")):
      yield key, found[key], arrays[key]


def _with_gradient(layer, x, kind):
  def total(x):
    out = layer(x)
    return (out * jnp.cos(jnp.arange(out.size)).reshape(out.shape)).sum(), out

  run = jax.jit(jax.value_and_grad(total, has_aux=True))
  (_, out), gradient = run(x)
  return {f"out.{kind}": out, f"grad.{kind}_x": gradient}


def _layer(kind, arrays, hyper):
  prefix = f"param.{kind}."
  weight = below(arrays, prefix)
  if kind in _ATTENTIONS:
    return _attention(kind, weight, hyper)
  return (_rglru if kind == "rglru" else _selru)(weight)


def _attention(kind, weight, hyper):
  heads, dim = hyper["heads"], weight["Wv.weight"].shape[1]
  layer = build(
    dynamical_systems.Layer,
    dim,
    kind=_ATTENTIONS[kind],
    heads=heads,
    state_size=weight["Wqk.weight"].shape[0] // 2,
    eta=hyper["norm"],
  )
  fill_attention(layer.mixer, weight)
  return layer


def fill_attention(mixer, weight) -> None:
  """Fills one of the attentions."""
  # All query heads, then all key heads.
  for i, part in enumerate((mixer.query, mixer.key)):
    half = {k: np.split(v, 2)[i] for k, v in weight.items() if k.startswith("Wqk.")}
    fill_linear(part, half, "Wqk")
  fill_linear(mixer.value, weight, "Wv")
  if "Wn.weight" in weight:
    fill_linear(mixer.normaliser, weight, "Wn")
  fill_linear(mixer.out, weight, "out_proj")


def build(module, dim, **options):
  """Returns a layer without values, all of which are to be filled."""
  return jax.eval_shape(lambda: module(dim, **options, rngs=nnx.Rngs(0)))


def _rglru(weight):
  size, dim = weight["forget_base"].shape[0], weight["input.weight"].shape[1]
  # The factor of softplus, which attnjax has as a constant.
  np.testing.assert_allclose(weight["alpha_log_scale"], -8)
  layer = build(
    dynamical_systems.Layer,
    dim,
    kind="rglru",
    expand=size / dim,
    conv=weight["conv.weight"].shape[-1],
  )
  mixer = layer.mixer
  fill_linear(mixer.input, weight, "input")
  fill_convolution(mixer.conv, weight, "conv")
  fill_linear(mixer.gates, weight, "gates")
  fill(mixer.base, weight["forget_base"])
  fill_linear(mixer.output, weight, "output")
  return layer


def _selru(weight):
  state, dim = weight["A"].shape
  layer = build(
    dynamical_systems.Layer,
    dim,
    kind="selru",
    state_size=state,
    conv=weight["conv.weight"].shape[-1],
  )
  mixer = layer.mixer
  fill_linear(mixer.input, weight, "input")
  fill_convolution(mixer.conv, weight, "conv")
  fill_linear(mixer.write_read, weight, "W_bc")
  fill_linear(mixer.forget, weight, "W_lambda")
  fill(mixer.base, weight["A"])
  fill_linear(mixer.output, weight, "output")
  return layer


def fill_convolution(part, weight, name) -> None:
  """Fills a convolution, whose taps attnjax numbers by how far back they look."""
  fill(part.taps.kernel, weight[f"{name}.weight"][:, 0, ::-1].T)
  fill(part.bias, weight.get(f"{name}.bias", np.zeros(part.bias.size, np.float32)))


def fill_linear(part, weight, name) -> None:
  """Fills from (outputs, inputs): each may be several axes in attnjax."""
  fill(part.kernel, weight[f"{name}.weight"].T.reshape(part.kernel.shape))
  if part.bias is not None:
    bias = weight.get(f"{name}.bias", np.zeros(part.bias.size, np.float32))
    fill(part.bias, bias.reshape(part.bias.shape))


def fill(parameter, value) -> None:
  """Sets a parameter to a value of its shape."""
  if parameter.shape != value.shape:
    raise ValueError(
      f"a parameter of shape {parameter.shape} cannot hold {value.shape}"
    )
  parameter.set_value(jnp.asarray(value))
