"""A third party's pointer network: its score, and its parts in its own loop."""

import functools
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from attnjax.nn.lstm import LSTM
from attnjax.variants.cross.pointer_network import pointer_logits
from tests.arrays import below


def compare(
  arrays: Mapping[str, np.ndarray], meta: dict
) -> Iterator[tuple[str, Any, np.ndarray]]:
  """(key of the file, attnjax's result, the file's), where the file's mask is true."""
  for name, run in (("score", _score), ("net", _net)):
    params, given, out = (
      below(arrays, f"{kind}.{name}.") for kind in ("param", "in", "out")
    )
    lengths = given.pop("lengths")
    S = next(iter(given.values())).shape[1]
    valid = np.arange(S) < lengths[:, None]
    found = _graded(run, params, given, jnp.asarray(valid), out["mask"])
    found["out.mask"] = _mask(valid, out["mask"].shape[1], name == "net")
    for key, got in found.items():
      kind, _, rest = key.partition(".")
      want = arrays[f"{kind}.{name}.{rest}"]
      if key in ("out.log_p", "out.argmax", "out.decoder_states"):
        # Answers behind the real ones are not asked for.
        real = out["mask"] if key == "out.log_p" else out["mask"].any(-1)
        real = real if np.ndim(got) < 3 or key == "out.log_p" else real[..., None]
        got, want = np.where(real, got, 0), np.where(real, want, 0)
      yield f"{kind}.{name}.{rest}", got, want


def _mask(valid, steps, square):
  mask = np.broadcast_to(valid[:, None], (len(valid), steps, valid.shape[1]))
  return mask & valid[:, :, None] if square else mask


@functools.partial(jax.jit, static_argnums=0)
def _graded(run, params, given, valid, mask):
  def loss(params, given):
    found = run(params, **given, valid=valid)
    waves = jnp.cos(jnp.arange(mask.size, dtype=jnp.float32)).reshape(mask.shape)
    return jnp.sum(jnp.where(mask, found["log_p"], 0) * waves), found

  grads, found = jax.grad(loss, (0, 1), has_aux=True)(params, given)
  named = {f"grad.{key}": value for part in grads for key, value in part.items()}
  return named | {f"out.{key}": value for key, value in found.items()}


def _score(params, keys, query, valid):
  return {"log_p": _log(params, "", keys, query, valid)}


def _log(params, place, keys, queries, valid):
  logits = pointer_logits(
    keys @ params[f"{place}W1.weight"].T,
    queries @ params[f"{place}W2.weight"].T,
    params[f"{place}vt.weight"][0],
    valid=valid,
  )
  return jax.nn.log_softmax(logits, axis=-1)


def _net(params, points, valid):
  embedded = points @ params["embedding.weight"].T
  encoder = _lstm(params, "encoder.rnn.{}_l0")
  decoder = _lstm(params, "decoding_rnn.{}")
  encoded, state = encoder(embedded, valid=valid)
  # The authors of the code begin with zeros and feed the pointed state.
  x, steps = jnp.zeros_like(encoded[:, 0]), []
  for _ in range(points.shape[1]):
    state = decoder.step(x, state)
    log = _log(params, "attn.", encoded, state[1][:, None], valid)[:, 0]
    best = log.argmax(-1)
    x = jnp.take_along_axis(encoded, best[:, None, None], axis=1)[:, 0]
    steps.append((state[1], log, best))
  states, log_p, best = (jnp.stack(part, 1) for part in zip(*steps))
  return {
    "encoder": encoded,
    "decoder_states": states,
    "log_p": log_p,
    "argmax": best,
  }


def _lstm(params, name):
  kernel, recurrent, *biases = (
    params[name.format(part)]
    for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
  )
  layer = LSTM(kernel.shape[1], recurrent.shape[1], rngs=nnx.Rngs(0))
  layer.kernel, layer.recurrent = nnx.Param(kernel.T), nnx.Param(recurrent.T)
  layer.bias = nnx.Param(biases[0] + biases[1])
  return layer
