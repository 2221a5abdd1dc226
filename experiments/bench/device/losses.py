"""The cases of the contrastive loss, whose value and gradients are checked."""

from attnjax import contrastive_loss
from experiments.bench.device.problems import case


def cases():
  """Yields small problems: types, sizes of rows, and what leaves pairs out."""
  for dtype in ("float32", "bfloat16", "float16"):
    yield _made(dtype, 300, 300, 64, dtype, dry=True)
  yield _made("wide", 200, 200, 1152)
  yield _made("one", 1, 1, 64, dry=True)
  yield _made("t2100", 2100, 2100, 128)
  yield _made("one_direction", 200, 777, 128, symmetric=False)
  yield _made("groups", 300, 300, 128, groups=True)


def contrastive(impl: str, options: dict, x: dict) -> dict:
  """Returns the sum of the queries' losses, so that gradients are of size 1."""
  own = dict(options)
  if own.pop("groups", False):
    # The same in both: a pair and those near it leave each other out.
    own["groups"] = x["ids"][0], x["ids"][0]
  arrays = x["q"], x["items"]
  loss = contrastive_loss(*arrays, log_scale=x["log_scale"], **own, impl=impl)
  return {"loss": len(x["q"]) * loss}


def _made(name, queries, items, size, dtype="bfloat16", dry=False, **options) -> dict:
  inputs = {
    "q": ((queries, size), dtype, "normal"),
    "items": ((items, size), dtype, "normal"),
    "log_scale": ((), "float32", "decay"),
    "g_loss": ((), "float32", "normal"),
  }
  if options.get("groups"):
    inputs["ids"] = (1, queries), "int32", "ids"
  wrt = ["q", "items", "log_scale"]
  return case("right", "contrastive", name, inputs, wrt, options, dry=dry)
