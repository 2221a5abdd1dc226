"""ONNX's LinearAttention and RotaryEmbedding by attnjax's parts."""

import jax.numpy as jnp

from attnjax import backends
from attnjax.core import positions
from attnjax.core.recurrence import diagonal
from tests.suites.onnx_attention import heads
from tests.suites.onnx_cases import Case


def linear_attention(case: Case, impl: str):
  """Linear attention without and with decays; delta rules are not in the library."""
  given, have = case.inputs, case.attributes
  rule = have.get("update_rule", b"gated_delta").decode()
  if "delta" in rule:
    raise NotImplementedError(f"update_rule {rule!r}")
  q = heads(given["query"], have["q_num_heads"])
  k, v = (heads(given[name], have["kv_num_heads"]) for name in ("key", "value"))
  scale = have.get("scale") or q.shape[-1] ** -0.5
  decay = None if "decay" not in given else jnp.asarray(given["decay"])
  if decay is not None and decay.shape[2] == k.shape[2] * k.shape[3]:
    if impl not in ("reference", "xla"):
      raise NotImplementedError(f"impl {impl!r} with a decay of each feature")
    decay, k, q = (x[..., None] for x in (heads(decay, k.shape[2]), k, scale * q))
    form = diagonal.recurrent if impl == "reference" else diagonal.chunked
    out, state = form(v, decay, k, q)
  else:
    attend = backends.linear_attention(impl, q, k, v)
    out, state = attend(q, k, v, decay, scale=scale)
  return {"output": out.reshape(*out.shape[:2], -1), "present_state": state}


def rotary_embedding(case: Case, impl: str):
  """Rotary positions, from tables of cosines and sines."""
  del impl
  given, have = case.inputs, case.attributes
  x = heads(given["X"], have.get("num_heads"))
  tables = [jnp.asarray(given[name]) for name in ("cos_cache", "sin_cache")]
  if "position_ids" in given:
    tables = [table[given["position_ids"]] for table in tables]
  turned = have.get("rotary_embedding_dim") or x.shape[-1]
  interleaved = bool(have.get("interleaved"))
  y = positions.turn(x[..., :turned], *tables, interleaved=interleaved)
  y = jnp.concatenate([y, x[..., turned:]], axis=-1)
  return {
    "Y": y.swapaxes(1, 2) if given["X"].ndim == 4 else y.reshape(*y.shape[:2], -1)
  }
