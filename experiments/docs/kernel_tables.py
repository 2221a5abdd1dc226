"""Makes tables of the fused kernels and of their benchmarks."""

import importlib
import json
import pkgutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pallas_kernels
from experiments.docs import docstrings, markdown

Row = dict[str, Any]
_BACKENDS = {"mosaic_tpu": "tpu", "triton_gpu": "gpu"}
# Columns of kernels that are read, in this order, where rows have them.
_TPU = (
  "machine kernel whose mask tile N K H E chunk rows tokens bundles total sums unit"
).split() + ["slots", "MiB", "a token", "a chunk", "memory", "share", "products"]
_GPU = "part chip kernel tile warps stages registers stack spills shared".split()
_WORK = ("a score", "a token")


def packages() -> dict[str, str]:
  """Returns the packages of kernels with what they do, from their docstrings."""
  found = {}
  for module in pkgutil.iter_modules(pallas_kernels.__path__):
    if module.ispkg:
      made = importlib.import_module(f"pallas_kernels.{module.name}")
      found[module.name] = docstrings.read(made.__doc__).title
  return found


def algorithms(root: Path, up: str = "") -> str:
  """Returns a row an algorithm: plain JAX, TPU and GPU, with links to what was read.

  Args:
    root: the folder of the repository.
    up: from the page to the root, "" or "../".
  """
  docs = "kernels.md" if up else "docs/kernels.md"
  rows = []
  for name, said in packages().items():
    made = importlib.import_module(f"pallas_kernels.{name}")
    xla = f"[✓]({up}{made.XLA})"
    cells = [_tick(root, name, *backend, docs) for backend in _BACKENDS.items()]
    link = f"[`{name}`]({up}pallas_kernels/{name})"
    rows.append((link, markdown.prose(said.rstrip(".")), xla, *cells))
  return markdown.table(("algorithm", "what it is", "XLA", "TPU", "GPU"), rows)


def _tick(root: Path, name: str, backend: str, kind: str, docs: str) -> str:
  """Returns a tick if the backend exists, with a link if it was compiled and read."""
  folder = root / "pallas_kernels" / name
  if not any(folder.glob(f"{backend}*")):
    return "-"
  if any(row["package"] == name for row in read(root, kind)):
    return f"[✓ compiled]({docs}#on-{kind}s)"
  return "✓"


def read(root: Path, kind: str) -> list[Row]:
  """Returns the rows of results/bench_<kind>.json, [] if there are none."""
  path = root / "results" / f"bench_{kind}.json"
  return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []


def tpu(root: Path) -> str:
  """Returns the compiled schedules of the TPU kernels, a table a package."""
  found = []
  for name, rows in _by(read(root, "tpu"), "package").items():
    ratios = [row for row in rows if "feature" in row]
    table = _features(ratios) if ratios else _columns(rows, _TPU)
    found.append(f"`{name}`:\n\n{table}")
  return "\n\n".join(found) or "Not read yet."


def _features(rows: Sequence[Row]) -> str:
  """Returns a table of a step's bundles by feature, with ratios to the peer's."""
  places = list(dict.fromkeys((row["machine"], row["kernel"]) for row in rows))
  peers = {(r["machine"], r["kernel"]): r["splash"] for r in rows}
  head = ["feature", *(f"{machine}, {kernel}" for machine, kernel in places)]
  last = ("splash attention, plain", *(markdown.number(peers[p]) for p in places))
  return markdown.table(head, [*map(tuple, _lines(rows, places)), last])


def _lines(rows: Sequence[Row], places: Sequence[tuple]) -> Iterable[list[str]]:
  for feature, own in _by(rows, "feature").items():
    cells = {(r["machine"], r["kernel"]): r for r in own}
    shown = []
    for place in places:
      row = cells.get(place)
      text = f"{markdown.number(row['full'])} ({row['ratio']:.2f})" if row else "-"
      shown.append(text)
    yield [feature, *shown]


def gpu(root: Path) -> str:
  """Returns the machine code of the GPU kernels, a table a package."""
  found = []
  for name, rows in _by(read(root, "gpu"), "package").items():
    table = _columns(rows, [*_GPU, *_WORK])
    found.append(f"`{name}`:\n\n{table}")
  return "\n\n".join(found) or "Not read yet."


def cpu(root: Path) -> str:
  """Returns times on the CPU beside the peers' in the same run."""
  rows = read(root, "cpu")
  peers = [
    name
    for name in dict.fromkeys(name for row in rows for name in row["values"])
    if name.endswith(" [s]")
  ]
  lines = [
    (
      markdown.prose(row["name"]),
      *(_milliseconds(row["values"].get(peer)) for peer in peers),
      markdown.prose(row.get("bound") or "-"),
      {True: "yes", False: "**no**", None: "-"}[row.get("holds")],
    )
    for row in rows
    if any(peer in row["values"] for peer in peers)
  ]
  shown = (peer.replace(" [s]", " [ms]") for peer in peers)
  return (
    markdown.table(("problem", *shown, "asked", "holds"), lines) or "Not timed yet."
  )


def _milliseconds(seconds: float | None) -> str:
  return "-" if seconds is None else markdown.number(round(1000 * seconds, 3))


def _columns(rows: Sequence[Row], names: Sequence[str]) -> str:
  """Returns a table of those columns in which some row has a value."""
  shown = [n for n in names if any(row.get(n) not in (None, "") for row in rows)]
  return markdown.table(
    shown, [tuple(_cell(row.get(n)) for n in shown) for row in rows]
  )


def _cell(value: Any) -> str:
  if value is None or value == "":
    return "-"
  return markdown.number(value) if isinstance(value, int | float) else str(value)


def _by(rows: Sequence[Row], name: str) -> dict[str, list[Row]]:
  found: dict[str, list[Row]] = {}
  for row in rows:
    found.setdefault(row[name], []).append(row)
  return found
