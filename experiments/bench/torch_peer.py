"""PyTorch's attention in a process of its own.

In one process with PyTorch's threads XLA ran on one core.
"""

import importlib.util
import multiprocessing
from collections.abc import Callable

import numpy as np


def start(q, k, v, g, *, causal: bool = True) -> dict[str, Callable]:
  """Returns the runs "forward" and "both" of PyTorch, {} if it is not installed.

  Args:
    q: queries (B, T, N, H).
    k: keys (B, S, N, H).
    v: values (B, S, N, H).
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
  """Runs the passes that are asked for, until the asking process ends."""
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
