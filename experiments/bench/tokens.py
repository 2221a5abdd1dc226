"""Seconds an image with fewer tokens beside all of them, by the clock.

Networks of twelve blocks, 192 wide, on images of 14 x 14 patches, float32, on the
default device: every system of the form "tokens" between the blocks of the host vision,
before blocks 4, 7 and 10; and, where the system is a network too, its own of the size
"tiny". Only systems whose keep rate is an option `keep_ratio` are measured. Each rate
is timed in turn with the network of all tokens, which scores none, in one process; the
fastest call counts. `share` is that of its FLOPs in products; a quotient of seconds
above it is what choosing, gathering and smaller products cost.
"""

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from attnjax import contract
from attnjax.contract import between, networks
from attnjax.models import vision
from experiments.bench import timing
from experiments.training import cost

KEEPS = (1.0, 0.9, 0.7, 0.5)
DIM, DEPTH, HEADS, PATCH, PATCHES = 192, 12, 3, 16, 14
CUTS = (4, 7, 10)
BATCH = 4


def rows(
  slugs: Sequence[str] = (), keeps: Sequence[float] = KEEPS, seconds: float = 4.0
) -> list[dict]:
  """Returns a row for each system, network and keep rate; prints them as they come.

  Args:
    slugs: the systems; all that have an option `keep_ratio` if empty.
    keeps: keep rates.
    seconds: for which a rate and the network of all tokens are timed in turn.

  Raises:
    ValueError: for an unknown slug, and a system without reducers or keep rates.
  """
  images = jnp.cos(jnp.arange(BATCH * (PATCH * PATCHES) ** 2 * 3.0))
  images = images.reshape(BATCH, PATCH * PATCHES, PATCH * PATCHES, 3)
  found: list[dict] = []
  print(_line({}), flush=True)
  for slug in slugs or systems():
    if "keep_ratio" not in between.defaults(slug):
      raise ValueError(f"reducer {slug!r} has no option keep_ratio")
    for name, model in _networks(slug):
      full = _compiled(model(0.0), images)
      for keep_ratio in keeps:
        row = {"slug": slug, "network": name, "keep_ratio": keep_ratio}
        found.append(row | _raced(_compiled(model(keep_ratio), images), full, seconds))
        print(_line(found[-1]), flush=True)
  return found


def systems() -> list[str]:
  """Returns the systems whose reducers have keep rates."""
  every = contract.systems()
  reducing = [s for s in every if "tokens" in contract.load(s).FORMS]
  return [s for s in reducing if "keep_ratio" in between.defaults(s)]


def _networks(slug: str) -> Iterator[tuple[str, Any]]:
  """Yields (name, keep rate to a network): 0 for all tokens, and nothing scored."""
  yield "vision", functools.partial(_host, slug)
  module = contract.load(slug)
  if {"places", "keep_ratio"} <= set(
    networks.defaults(module) if _is_network(slug) else ()
  ):
    yield "tiny", functools.partial(_network, module)


def _is_network(slug: str) -> bool:
  return "backbone" in contract.load(slug).FORMS


def _host(slug: str, keep_ratio: float) -> Any:
  options = {"heads": HEADS, "rope_theta": 0.0}  # the host has positions of its own
  build = contract.constructor("dot_product", options, ("sequence",))
  sizes = {"channels": 3, "classes": 1000, "patch": PATCH, "dim": DIM, "depth": DEPTH}
  cuts = "+".join(map(str, CUTS))
  text = f"{cuts}:{slug}:keep_ratio={keep_ratio}" if keep_ratio else ""
  return vision.Model([build], **sizes, between=text, rngs=nnx.Rngs(0))


def _network(module: Any, keep_ratio: float) -> Any:
  options = networks.sized(module, "tiny")
  places = options["places"] if keep_ratio else ()
  options |= {"places": places, "keep_ratio": (keep_ratio,) * len(places)}
  return module.Model(3, 1000, **options, rngs=nnx.Rngs(0))


def _compiled(model: Any, images: Any) -> dict[str, Any]:
  """Returns a network's compiled call and its FLOPs."""
  traced = jax.jit(lambda model, x: model(x)).trace(model, images)
  run: Any = traced.lower().compile()
  call = functools.partial(run, model, images)
  flops = cost.flops(traced.jaxpr.jaxpr)
  return {"run": lambda: jax.block_until_ready(call()), "flops": flops}


def _raced(own: dict[str, Any], full: dict[str, Any], seconds: float) -> dict:
  clock = timing.race({"own": own["run"], "full": full["run"]}, seconds=seconds)
  found = {"seconds": clock["own"].least, "full_seconds": clock["full"].least}
  found = {name: float(f"{value / BATCH:.4g}") for name, value in found.items()}
  found["faster"] = round(found["full_seconds"] / found["seconds"], 3)
  return found | {"share": round(own["flops"] / full["flops"], 4)}


def _line(row: dict) -> str:
  """Formats a row, or the heads of the columns of {}."""
  heads = (
    "system",
    "network",
    "keep",
    "ms an image",
    "all tokens",
    "faster",
    "FLOPs",
  )
  if not row:
    texts = list(heads)
  else:
    texts = [row["slug"], row["network"], f"{row['keep_ratio']:g}"]
    texts += [f"{1e3 * row[n]:.3g}" for n in ("seconds", "full_seconds")]
    texts += [f"{row['faster']:.2f}", f"{row['share']:.3f}"]
  return "".join(f"{t:>{w}s}" for t, w in zip(texts, (22, 9, 6, 13, 12, 8, 8)))
