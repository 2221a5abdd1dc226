"""Problems at the limits of addresses and launches, which no simulator has.

Each is made, run and judged on the device: the arrays have more than 2^31 elements, so
only the errors leave it. The rows at the far end must equal those of a small problem
that has the same queries and all the keys that they see.
"""

import functools

import jax
import jax.numpy as jnp

WINDOW, ROWS = 511, 128


def cases(make) -> list[dict]:
  """Returns the cases; `make(group, kind, name, inputs, wrt, options)` builds one."""
  shapes = {
    # 2.5e9 elements in q, 4.9 GB.
    ("flash", "elements"): {"T": 300_000, "N": 64, "H": 128},
    ("flash", "backward_elements"): {"T": 300_000, "N": 64, "H": 128, "backward": True},
    ("decayed", "elements"): {"T": 300_000, "N": 64, "H": 128},
  }
  inputs = {"seed": ((), "int32", "seed")}
  return [make("limit", *name, inputs, [], options) for name, options in shapes.items()]


def function(case: dict, impl: str):
  """Returns the function of a case, {"seed"} to {"error", "size"}.

  "error" is the largest difference, "size" the largest element.
  """
  run = {"flash": _flash, "decayed": _decayed}[case["kind"]]
  return functools.partial(run, impl, case["options"])


def _flash(impl: str, options: dict, x: dict) -> dict:
  from attnjax import dot_product_attention

  q, k, v = _drawn(x["seed"], options)
  attend = functools.partial(
    dot_product_attention, is_causal=True, local_window_size=(WINDOW, 0), impl=impl
  )
  near = ROWS + WINDOW
  few = q[:, -ROWS:], k[:, -near:], v[:, -near:]
  if not options.get("backward"):
    return _compared([(attend(q, k, v)[:, -ROWS:], attend(*few))])
  # Only the last rows have a cotangent, so that both have the same gradients there.
  slope = jnp.zeros_like(q).at[:, -ROWS:].set(q[:, -ROWS:])
  many, (dq, dk, dv) = _pulled(attend, (q, k, v), slope)
  some, (eq, ek, ev) = _pulled(attend, few, q[:, -ROWS:])
  pairs = [(many[:, -ROWS:], some), (dq[:, -ROWS:], eq)]
  return _compared([*pairs, (dk[:, -near:], ek), (dv[:, -near:], ev)])


def _pulled(attend, arrays, slope):
  out, pull = jax.vjp(attend, *arrays)
  return out, pull(slope)


def _decayed(impl: str, options: dict, x: dict) -> dict:
  from attnjax import backends

  q, k, v = _drawn(x["seed"], options)
  k, v = (jnp.repeat(a, options["N"], axis=2) for a in (k, v))
  fade = jnp.full(q.shape[:3], -0.5, jnp.float32)  # of a token 256 back e^-128 is left

  def attend(q, k, v, fade):
    return backends.linear_attention(impl, q, k, v)(q, k, v, fade)

  near = ROWS + 256
  many = attend(q, k, v, fade)[0][:, -ROWS:]
  some = attend(*(a[:, -near:] for a in (q, k, v, fade)))[0][:, -ROWS:]
  return _compared([(many, some)])


def _drawn(seed, options):
  """Draws queries of all heads, keys and values of one head, in bfloat16."""
  T, N, H = (options[name] for name in "TNH")
  keys = jax.random.split(jax.random.key(seed), 3)
  shapes = (1, T, N, H), (1, T, 1, H), (1, T, 1, H)
  return [jax.random.normal(k, s, jnp.bfloat16) for k, s in zip(keys, shapes)]


def _compared(pairs) -> dict:
  pairs = [(a.astype(jnp.float32), b.astype(jnp.float32)) for a, b in pairs]
  wrong = [jnp.where(jnp.isfinite(a), jnp.abs(a - b), jnp.inf).max() for a, b in pairs]
  return {
    "error": jnp.stack(wrong).max(),
    "size": jnp.stack([jnp.abs(b).max() for _, b in pairs]).max(),
  }
