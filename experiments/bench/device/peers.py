"""The order of the steps, the peers that kernels are timed beside, and the tables."""

import concurrent.futures
import functools
import importlib.metadata
import re
import subprocess
from typing import Any

try:
  from experiments.bench.device import clock
except ImportError:  # as it lies beside the exports, without the project
  import clock  # pyrefly: ignore[missing-import]

# Steps with a clock, by the part that they belong to; jax's are compiled beforehand.
JAX = ("kernel", "cudnn", "xla")
WORKERS = 8  # processes that check numbers at the same time
# Seconds that a step may take.
LIMITS = {"right": 60, "dry": 60, "torch_flex": 90, "memcheck": 110, "racecheck": 110}
# Cases for the sanitizer, which is slow.
TINY = ("right_flash_t49", "right_decayed_bfloat16", "right_prefix_documents_bfloat16")
# The most bytes of scores for a peer that materialises all of them.
SCORES = 5e9


def groups(cases: list[dict], platform: str, who: str = ""):
  """Yields groups of lists of steps; the lists of a group run at the same time.

  A step is (who, case, seconds).

  Args:
    cases: the cases of the manifest.
    platform: "gpu" or "cpu".
    who: a regular expression of who takes the steps.
  """
  cases = [c for c in cases if "failed" not in c]
  for group in (_proofs if platform == "gpu" else _dry_proofs)(cases):
    lists = [[step for step in steps if re.search(who, step[0])] for steps in group]
    if any(lists):
      yield [steps for steps in lists if steps]


def _dry_proofs(cases: list[dict]):
  """Yields the steps of a machine without a GPU: other implementations are proved."""
  right = [("right", c) for c in cases if "dry" in c["files"]]
  yield [_limited(right[i::WORKERS]) for i in range(WORKERS)]


def _proofs(cases: list[dict]):
  """Yields the steps of a GPU: what is right, all at once, then what is fast."""
  right = [("right", c) for c in cases if c["group"] in ("right", "system")]
  limits = [("limit", c) for c in cases if c["group"] == "limit"]
  tiny = [c for c in cases if c["name"] in TINY]
  timed = [c for c in cases if c["group"] == "time"]
  softmax = [c for c in timed if c["kind"] == "flash"]
  square = [c for c in softmax if c["shape"][1] > 1]
  scores = [c for c in softmax if _scores(c) <= SCORES]
  flex = [c for c in square if c["shape"][1] in (8192, 32768) and c["shape"][5] == 128]
  flex = [c for c in flex if c["options"].get("is_causal")]
  sdpa = [c for c in softmax if "local_window_size" not in c["options"]]
  yield [
    *(_limited([(tool, c)]) for tool in ("memcheck", "racecheck") for c in tiny),
    _limited(limits),
    *(_limited(right[i::WORKERS]) for i in range(WORKERS)),
  ]
  own = [("kernel", c) for c in timed]
  yield [_limited([*own, *(("cudnn", c) for c in softmax)])]
  yield [_limited([("kernel", c) for c in cases if c["group"] == "tune"])]
  yield [_limited([(w, c) for c in sdpa for w in ("torch_flash", "torch_cudnn")])]
  yield [_limited([("xla", c) for c in scores])]
  yield [_limited([("torch_flex", c) for c in flex])]


def dry(cases: list[dict]):
  """Yields one group of one list: the steps that need no GPU."""
  yield [_limited([("dry", case) for case in cases if "failed" not in case])]


def machine() -> dict:
  """Returns the GPU, its driver, the assembler, and the versions of packages."""
  query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
  found = {}
  for name, command in (("gpu", query), ("ptxas", ["ptxas", "--version"])):
    try:
      ran = subprocess.run(command, capture_output=True, text=True, check=True)
      found[name] = ran.stdout.strip().splitlines()[-1]
    except (OSError, subprocess.CalledProcessError) as problem:
      found[name] = str(problem)
  for name in ("numpy", "jax", "jaxlib", "jax-cuda13-plugin", "flatbuffers", "torch"):
    try:
      found[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
      found[name] = "absent"
  return found


def _limited(steps):
  return [(who, case["name"], LIMITS.get(who, 45)) for who, case in steps]


def _scores(case) -> float:
  B, T, S, N, _, _ = case["shape"]
  return 4.0 * B * N * T * S


def together(function, arguments) -> None:
  """Calls the function with each of the arguments, all at the same time."""
  with concurrent.futures.ThreadPoolExecutor() as pool:
    list(pool.map(lambda given: function(*given), arguments))


def jax(case: dict, implementation: str):
  """Returns the case's function by jax.nn.dot_product_attention."""
  import jax

  how = {"is_causal": case["options"].get("is_causal", False)}
  how["local_window_size"] = case["options"].get("local_window_size")
  if how["local_window_size"]:
    how["local_window_size"] = tuple(how["local_window_size"])

  def run(x):
    def attend(q, k, v):
      given: Any = how | {"implementation": implementation}
      return jax.nn.dot_product_attention(q, k, v, **given)

    arrays = x["q"], x["k"], x["v"]
    if not case["wrt"]:
      return attend(*arrays)
    out, pull = jax.vjp(attend, *arrays)
    return out, pull(x["g_out"])

  return run


def torch_seconds(case: dict, who: str, calls: int) -> float:
  """Returns the seconds of a call of PyTorch's attention, by the backend in `who`."""
  import torch
  from torch.nn import attention, functional
  from torch.nn.attention import flex_attention as flex

  B, T, S, N, K, H = case["shape"]
  sizes = (B, T, N, H), (B, S, K, H), (B, S, K, H)
  how = {"dtype": torch.bfloat16, "device": "cuda", "requires_grad": bool(case["wrt"])}
  arrays = [torch.randn(s, **how).transpose(1, 2) for s in sizes]
  causal, window = (case["options"].get(n) for n in ("is_causal", "local_window_size"))
  if who == "torch_flex":

    def seen(b, h, q, k):
      near = q >= k
      return near & (q - k <= window[0]) if window else near

    mask = flex.create_block_mask(seen, None, None, T, S, device="cuda")
    call = torch.compile(flex.flex_attention)
    forward, backend = functools.partial(call, *arrays, block_mask=mask), None
  else:
    name = {"torch_flash": "FLASH_ATTENTION", "torch_cudnn": "CUDNN_ATTENTION"}[who]
    backend = getattr(attention.SDPBackend, name)
    call = functional.scaled_dot_product_attention
    how = {"is_causal": bool(causal), "enable_gqa": N != K}
    forward = functools.partial(call, *arrays, **how)
  slope = torch.randn_like(arrays[0])

  def once():
    out = forward()
    if case["wrt"]:
      torch.autograd.grad(out, arrays, slope)

  def several():
    for _ in range(calls):
      once()
    torch.cuda.synchronize()

  if backend is None:
    return clock.best(several, calls)
  with attention.sdpa_kernel(backend):
    once()
    if not case["wrt"]:  # a graph, since launching a short kernel takes longer than it
      graph = torch.cuda.CUDAGraph()
      with torch.cuda.graph(graph):
        for _ in range(calls):
          once()
      return clock.best(lambda: (graph.replay(), torch.cuda.synchronize()), calls)
    return clock.best(several, calls)


def tables(cases: list[dict], rows: list[dict]) -> str:
  """Formats the checks, and ms (TFLOP/s) of the kernels and their peers, as text."""
  lines = ["", f"{'case':42} right equal  worst      error  plain's"]
  by = {(row["who"], row["case"]): row for row in rows}
  checked = ("right", "limit", "memcheck", "racecheck", "dry")
  found = [row for row in rows if row["who"] in checked]
  for row in sorted(found, key=lambda row: row["case"]):
    if "failed" in row:
      lines.append(f"{row['case']:42} {row['failed'][:60]}")
      continue
    if row["who"] != "right":
      lines.append(f"{row['case']:42} {row['ok']!s:5} {row['who']}")
      continue
    a, b = row["errors"][row["worst"]]
    said = f"{row['ok']!s:5} {row['equal']!s:5}  {row['worst']:8} {a:8.1e} {b:8.1e}"
    lines.append(f"{row['case']:42} {said}")
  absent = [c for c in cases if "failed" in c]
  lines += [f"{c['name']:42} not exported: {c['failed'][:60]!r}" for c in absent]
  good = sum(row.get("ok", False) for row in found)
  lines += [f"{good} of {len(found)} are right", ""]
  people = dict.fromkeys(row["who"] for row in rows)
  people = [who for who in people if who not in (*checked, "machine")]
  if people:
    lines.append(f"{'ms (TFLOP/s)':46}" + "".join(f"{who:>17}" for who in people))
  for case in cases:
    own = [by.get((who, case["name"])) for who in people]
    if any(own):
      lines.append(f"{case['name']:46}" + "".join(map(_cell, own)))
  failures = {(r["who"], r["failed"][:110]) for r in rows if "failed" in r}
  return "\n".join([*lines, "", *(f"{who}: {why}" for who, why in sorted(failures))])


def _cell(row) -> str:
  if row is None:
    return f"{'':>17}"
  if "failed" in row:
    return f"{'-':>17}"
  return f"{row['ms']:>9.3f} ({row['TFLOP/s']:5.0f})"
