"""Fields of the cases, and the arrays of attention that most of them have."""

import zlib


def case(group, kind, name, inputs, wrt, options, *, key=None, **more) -> dict:
  """Returns a case.

  Args:
    group: right, time, tune or limit; system has its own.
    kind: of the function.
    name: of the problem, to which group and kind are added.
    inputs: {name: (shape, type, how it is drawn)}.
    wrt: names of the inputs with gradients.
    options: of the function.
    key: of cases that share kernels; the name if None.
    **more: fields to add.
  """
  name = f"{group}_{kind}_{name}"
  inputs = {n: [list(shape), dtype, draw] for n, (shape, dtype, draw) in inputs.items()}
  fields = {"name": name, "key": key or name, "group": group, "kind": kind}
  fields |= {"seed": zlib.crc32(name.encode()), "inputs": inputs, "wrt": wrt}
  return fields | {"options": options, "dry": False} | more


def attention(shape, V, dtype):
  """Returns q, k, v and the cotangents as {name: (shape, type, how it is drawn)}."""
  B, T, S, N, K, H = shape
  inputs = {"q": (B, T, N, H), "k": (B, S, K, H), "v": (B, S, K, V)}
  inputs = {n: (shape, dtype, "normal") for n, shape in inputs.items()}
  inputs["g_out"] = (B, T, N, V), dtype, "normal"
  return inputs | {"g_lse": ((B, T, N), "float32", "normal")}
