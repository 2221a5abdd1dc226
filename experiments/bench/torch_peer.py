"""PyTorch's attention in a process of its own.

Its threads and XLA's do not get on in one process: XLA then ran on one core.
"""

import importlib.util
import multiprocessing
from collections.abc import Callable

import numpy as np


def start(q, k, v, g, *, causal: bool = True) -> dict[str, Callable]:
  """Its attention, "forward" and "both", or nothing if it is not installed.

  Args:
    q: (B, T, N, H), as are k and v.
    k: keys.
    v: values.
    g: the cotangent of the result.
    causal: whether a query sees no later keys.
  """
  if importlib.util.find_spec("torch") is None:
    print("PyTorch is not installed (extra `bench`): its column is left out")
    return {}
  context = multiprocessing.get_context("spawn")
  ours, theirs = context.Pipe()
  arrays = [np.asarray(x, "float32") for x in (q, k, v, g)]
  process = context.Process(target=_serve, args=(theirs, arrays, causal), daemon=True)
  process.start()

  def ask(what):
    ours.send(what)
    return ours.recv()

  return {what: lambda w=what: ask(w) for what in ("forward", "both")}


def _serve(pipe, arrays, causal) -> None:
  """Runs what is asked for, until the asking process ends."""
  import torch

  torch.set_num_threads(2)
  q, k, v, g = (torch.tensor(x).transpose(1, 2).contiguous() for x in arrays)
  attention = torch.nn.functional.scaled_dot_product_attention

  def forward():
    with torch.no_grad():
      attention(q, k, v, is_causal=causal)

  def both():
    given = [x.detach().requires_grad_() for x in (q, k, v)]
    torch.autograd.grad((attention(*given, is_causal=causal) * g).sum(), given)

  runs = {"forward": forward, "both": both}
  while True:
    try:
      what = pipe.recv()
    except EOFError:
      return
    runs[what]()
    pipe.send(what)
