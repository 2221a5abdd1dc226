"""The cases that are proved, timed or tried with several tiles, and their functions.

A case is a dictionary that JSON can hold. Its `inputs` are {name: [shape, type, how it
is drawn]}; the inputs in `wrt` have gradients, for the cotangents `g_...` of the
outputs.
"""

import functools

import jax
import jax.numpy as jnp

from attnjax import backends, dot_product_attention
from attnjax.core.masks import Causal
from attnjax.core.recurrence import prefix
from attnjax.core.scores import Scores
from experiments.bench.device import limits, losses, problems, systems, timed, tuned
from pallas_kernels import flash, prefix_softmax


def cases() -> list[dict]:
  """Returns all cases; cases that share kernels share a `key`."""
  return [
    *_right(),
    *_right_others(),
    *losses.cases(),
    *limits.cases(problems.case),
    *timed.cases(),
    *tuned.cases(timed.timing),
    *systems.cases(),
  ]


def function(case: dict, impl: str):
  """Returns the function of a case, {input: array} to {output or gradient: array}.

  `impl` is an implementation of the kernels' packages, or "plain" for `plain`.
  """
  if case["group"] in ("limit", "system"):
    return {"limit": limits, "system": systems}[case["group"]].function(case, impl)
  forward = functools.partial(_KINDS[case["kind"]], impl)
  if impl == "plain":
    forward = functools.partial(plain, case["kind"])

  def run(x):
    def outputs(wrt):
      return forward(case["options"], x | wrt)

    if not case["wrt"]:
      return outputs({})
    out, pull = jax.vjp(outputs, {name: x[name] for name in case["wrt"]})
    (slopes,) = pull({n: x[f"g_{n}"].astype(a.dtype) for n, a in out.items()})
    return out | {f"d_{name}": slope for name, slope in slopes.items()}

  return run


def shapes(case: dict) -> dict:
  """Returns the shapes and types of the inputs, as jax.export takes them."""
  if case["group"] == "system":
    return jax.tree.map(jax.typeof, systems.arrays(case))
  return {n: jax.ShapeDtypeStruct(s, d) for n, (s, d, _) in case["inputs"].items()}


def plain(kind: str, options: dict, x: dict) -> dict:
  """Computes weights, rounded to the inputs' type, times the values: the yardstick.

  The weights are the outputs with an identity matrix as the values.
  """
  if "v" not in x:
    return _KINDS[kind]("reference", options, x)
  values = x["v"]
  _, S, heads, _ = values.shape
  eye = jnp.eye(S, dtype=values.dtype)[None, :, None]
  eye = jnp.broadcast_to(eye, (*values.shape[:3], S))
  impl = "xla" if kind == "decayed" else "reference"
  out = _KINDS[kind](impl, options, x | {"v": eye})
  values = jnp.repeat(values, out["out"].shape[2] // heads, axis=2)
  out["out"] = jnp.einsum("btns,bsnv->btnv", out["out"], values)
  if "state" in out:
    state = out["state"].astype(values.dtype)
    out["state"] = jnp.einsum("bnhs,bsnv->bnhv", state, values).astype(jnp.float32)
  return out


def _flash(impl: str, options: dict, x: dict) -> dict:
  own = dict(options)
  tiles, timed = own.pop("tiles", None), own.pop("timed", False)
  if tiles:  # an argument of the kernels' package, not of the public function
    from pallas_kernels.flash.triton_gpu import Tile, Tiles

    forward, queries, keys = (Tile(*tile) for tile in tiles)
    tiles = Tiles(forward, queries, keys)
    mask = Scores(mask=Causal()) if own.get("is_causal") else Scores()
    how = {"scale": x["q"].shape[-1] ** -0.5, "impl": impl, "tiles": tiles}
    return {"out": flash.attend(x["q"], x["k"], x["v"], mask, **how)[0]}
  if own.get("dropout_rate"):
    own["dropout_rng"] = jax.random.key(5)
  if "table" in x:
    own["score"] = lambda score, b, n, q, k: score * x["slope"][n] + x["table"][k]
  extra = {"bias": x.get("bias"), "segment_ids": x.get("ids"), "sinks": x.get("sinks")}
  arrays = x["q"], x["k"], x["v"]
  out, lse = dot_product_attention(*arrays, **extra, **own, return_lse=True, impl=impl)
  return {"out": out} if timed else {"out": out, "lse": lse}


def _decayed(impl: str, options: dict, x: dict) -> dict:
  call = backends.linear_attention(impl, x["q"], x["k"], x["v"])
  more = {"segment_ids": x.get("ids"), "scale": x["q"].shape[-1] ** -0.5}
  out, state = call(x["q"], x["k"], x["v"], x.get("decay"), **more)
  return {"out": out} if options.get("timed") else {"out": out, "state": state}


def _prefix(impl: str, options: dict, x: dict) -> dict:
  call = functools.partial(prefix_softmax.prefix, impl=impl)
  calls = {"xla": functools.partial(prefix.prefix, form=prefix.FORMS["chunked"])}
  call = (calls | {"reference": prefix.reference}).get(impl, call)
  out, lse, _ = call(x["s"], x["v"], segment_ids=x.get("ids"))
  return {"out": out, "lse": lse}


_KINDS = {"flash": _flash, "decayed": _decayed, "prefix": _prefix}
_KINDS["contrastive"] = losses.contrastive


def _right():
  """Yields small problems whose outputs and gradients are checked."""

  def attention(name, shape=(2, 300, 300, 4, 2, 64), dtype="bfloat16", V=None, **more):
    B, T, S, N, _, H = shape
    dry = more.pop("dry", False)
    inputs = problems.attention(shape, V or H, dtype)
    extra = {
      "ids": ((B, T), "int32", "ids"),
      "bias": ((B, N, T, S), "float32", "normal"),
      "sinks": ((N,), "float32", "normal"),
      "slope": ((N,), "float32", "normal"),
      "table": ((S,), "float32", "normal"),
    }
    inputs |= {n: extra[n] for n in extra if more.pop(n, False)}
    wrt = [n for n in inputs if not n.startswith("g_") and n != "ids"]
    return problems.case("right", "flash", name, inputs, wrt, more, dry=dry)

  for dtype in ("float32", "bfloat16", "float16"):
    yield attention(f"{dtype}_h64", dtype=dtype, is_causal=True, dry=True)
  for H in (32, 80, 128, 256):
    yield attention(f"h{H}", (2, 300, 300, 4, 2, H), is_causal=True)
  yield attention("h192_128", (1, 300, 300, 4, 4, 192), V=128, is_causal=True)
  yield attention("float32_h128", (1, 200, 200, 2, 2, 128), "float32")
  for T in (1, 49, 777, 2048):
    yield attention(f"t{T}", (1, T, T, 4, 2, 64), is_causal=T > 49, dry=T < 50)
  yield attention("one_query", (2, 1, 8192, 8, 2, 128))
  yield attention("gqa_8_2", (2, 333, 333, 8, 2, 64), is_causal=True)
  yield attention("full", (2, 300, 500, 4, 2, 64))
  yield attention("window", is_causal=True, local_window_size=70, dry=True)
  yield attention("segments", is_causal=True, ids=True, dry=True)
  yield attention("bias", (2, 200, 200, 4, 2, 64), bias=True, dry=True)
  yield attention("bias_float32", (1, 200, 200, 2, 2, 64), "float32", bias=True)
  yield attention("score", softcap=5.0, slope=True, table=True, dry=True)
  yield attention("dropout", is_causal=True, dropout_rate=0.2, dry=True)
  yield attention("sinks", is_causal=True, sinks=True, dry=True)
  yield attention("empty_rows", (2, 300, 170, 4, 2, 64), is_causal=True, dry=True)
  yield attention("many_programs", (8192, 16, 16, 8, 8, 16), is_causal=True)


def _right_others():
  """Yields small problems of decayed linear attention and the prefix softmax."""

  def other(kind, name, B, T, N, K, H, E, dtype="bfloat16", decay=True, ids=False):
    inputs = problems.attention((B, T, T, N, K, H), E, dtype)
    inputs["s"] = (B, T, N), "float32", "normal"
    inputs["decay"] = (B, T, N), "float32", "decay"
    inputs["g_state"] = (B, N, H, E), "float32", "normal"
    taken = "s v g_out g_lse" if kind == "prefix" else "q k v g_out g_state"
    taken = [*taken.split(), *["decay"] * (decay and kind == "decayed")]
    inputs = {n: i for n, i in inputs.items() if n in taken}
    wrt = [n for n in inputs if not n.startswith("g_")]
    inputs |= {"ids": ((B, T), "int32", "ids")} if ids else {}
    return problems.case("right", kind, name, inputs, wrt, {}, dry=T < 400)

  yield other("decayed", "bfloat16", 2, 300, 4, 4, 64, 64)
  for dtype in ("float32", "float16"):
    yield other("decayed", dtype, 1, 300, 4, 4, 64, 64, dtype)
  yield other("decayed", "no_decay", 2, 300, 4, 4, 128, 128, decay=False)
  yield other("decayed", "documents", 2, 300, 4, 4, 64, 64, ids=True)
  yield other("decayed", "gqa", 1, 777, 8, 2, 128, 64)
  # Long enough for states in two passes.
  yield other("decayed", "parts", 1, 2100, 2, 1, 128, 128, ids=True)
  yield other("decayed", "parts_float32", 1, 1100, 2, 2, 64, 64, "float32")
  for dtype in ("float32", "bfloat16"):
    yield other("prefix", f"documents_{dtype}", 2, 300, 4, 4, 1, 160, dtype, ids=True)
  yield other("prefix", "t777", 2, 777, 4, 4, 1, 64)
  yield other("prefix", "parts", 1, 2100, 2, 2, 1, 64, ids=True)
