"""The cases that are timed: 16k tokens, decoding, and a window."""

import functools

from experiments.bench.device.problems import attention, case

TOKENS = 16384  # tokens of a timed case, in all batches


def timing(group, kind, name, shape, backward, options, *, key=None):
  """Returns a case that is timed only, in bfloat16; `flops` is of the visible pairs."""
  B, T, S, N, K, H = shape
  inputs = attention(shape, H, "bfloat16")
  wrt = ["q", "k", "v"] if backward else []
  inputs = {n: inputs[n] for n in ("q", "k", "v", *["g_out"] * backward)}
  if kind == "decayed":
    inputs["decay"] = (B, T, N), "float32", "decay"
    wrt += ["decay"] * backward
  seen = T * S / (2 if options.get("is_causal") else 1)
  if window := options.get("local_window_size"):
    seen = T * (sum(window) + 1)
  if kind == "decayed":
    seen = T * H  # the products with the states alone
  flops = 4 * B * N * seen * H * (3.5 if backward else 1)
  size = 2 * B * H * (2 * S * K + 2 * T * N)  # bytes, each array once
  more = {"key": key, "shape": shape, "flops": flops, "bytes": size}
  if group == "time":
    name = f"{name}_{'both' if backward else 'forward'}"
  return case(group, kind, name, inputs, wrt, options | {"timed": True}, **more)


def cases():
  """Yields problems of 16k tokens, decoding, and a window; the most telling first."""
  softmax = functools.partial(timing, "time", "flash")
  rows = [(T, H, causal) for causal in (True, False) for H in (128, 64)
          for T in (2048, 8192, 512, 32768)]  # fmt: skip
  for T, H, causal in [*rows[:4], (TOKENS, 128, True), *rows[4:]]:
    name = f"{'causal' if causal else 'full'}_t{T}_h{H}"
    shape, options = (max(1, TOKENS // T), T, T, 16, 16, H), {"is_causal": causal}
    yield from (softmax(name, shape, both, options, key=name) for both in (False, True))
  for B, S in ((1, 8192), (1, 131072), (32, 8192), (32, 131072)):
    yield softmax(f"decode_b{B}_s{S}", (B, 1, S, 32, 8, 128), False, {})
  for both in (False, True):
    options = {"is_causal": True, "local_window_size": (1023, 0)}
    yield softmax("window", (1, 32768, 32768, 16, 16, 128), both, options, key="window")
    shape = (1, TOKENS, TOKENS, 16, 16, 128)
    yield timing("time", "decayed", "t16384_h128", shape, both, {}, key="decayed")
