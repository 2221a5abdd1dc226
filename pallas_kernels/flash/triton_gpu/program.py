"""A traced program as functions of Triton: what to load, the score, its derivative.

The source is written for the operands' shapes: a scalar is one load, a row or a column
a vector's, a cell a tile's; an axis of size 1 has no stride.
"""

import dataclasses
import functools
import zlib
from typing import Any

import jax
import jax.numpy as jnp

from attnjax.core.elementwise import evaluate, trace
from pallas_kernels.flash.jaxpr_to_triton import functions, translate

_PLACE = "b, n, t, s, T, S, operands"


@dataclasses.dataclass(frozen=True)
class Source:
  """The functions of a program; None where there is none.

  Attributes:
    score: (raw, b, n, t, s, T, S, operands) -> tile.
    seen, keep: (b, n, t, s, T, S, operands) -> tile.
    along_queries, along_keys: the sums' functions of the two backward kernels.
    cells: the operands whose gradient is a tile for each pair, in the tiles' order.
  """

  score: Any
  seen: Any
  keep: Any
  along_queries: "Sums"
  along_keys: "Sums"
  cells: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Sums:
  """What a backward kernel sums for operands: START, PULL and FINISH, or None."""

  operands: tuple[int, ...]
  start: Any
  pull: Any
  finish: Any


def write(program, shape: tuple[int, int, int, int]) -> Source:
  """The functions of a program over (B, N, T, S).

  Raises:
    NotImplementedError: naming an operation that has no translation.
  """
  shapes = tuple((tuple(o.shape), jnp.dtype(o.dtype).name) for o in program.operands)
  return _write(program.score, program.seen, program.keep, shapes, shape)


@functools.lru_cache(maxsize=256)
def _write(score, seen, keep, shapes, shape) -> Source:
  moving = [i for i, (_, dtype) in enumerate(shapes) if _floating(dtype)]
  used = {i for part in (score, keep) if part is not None for i in part.operands}
  moving = [i for i in moving if i in used]
  cells = tuple(i for i in moving if shapes[i][0][2] > 1 and shapes[i][0][3] > 1)
  columns = tuple(i for i in moving if shapes[i][0][3] > 1 and i not in cells)
  rows = tuple(i for i in moving if i not in cells and i not in columns)
  writer = functools.partial(_forward, shapes=shapes, shape=shape)
  return Source(
    score=writer("score", score, "raw, "),
    seen=writer("seen", seen, ""),
    keep=writer("keep", keep, ""),
    along_queries=_sums(score, keep, shapes, shape, rows, cells, shape[2]),
    along_keys=_sums(score, keep, shapes, shape, columns, (), shape[3]),
    cells=cells,
  )


def _floating(dtype: str) -> bool:
  return jnp.issubdtype(jnp.dtype(dtype), jnp.floating)


def _forward(name, part, first, *, shapes, shape):
  if part is None:
    return None
  lines = [_load(i, shapes[i], shape) for i in part.operands]
  names = ([first[:3]] if first else []) + ["t", "s"]
  names += [f"operand{i}" for i in part.operands]
  body, (result,) = translate(part.jaxpr, names)
  return _function(name, f"{first}{_PLACE}", [*lines, *body, f"return {result}"])


def _function(name: str, arguments: str, lines: list[str]):
  body = "".join(f"  {line}\n" for line in lines)
  # Triton tells kernels apart by the names of the functions that they are given.
  name = f"{name}_{zlib.crc32(body.encode()):08x}"
  return functions(f"@triton.jit\ndef {name}({arguments}):\n{body}")[name]


def _load(i: int, operand, shape) -> str:
  """Brings operand i in, a float as float32."""
  size, dtype = operand
  _, N, T, S = size
  terms = [f"operands[{i}]"]
  terms += [f"b * {N * T * S}"] * (size[0] > 1) + [f"n * {T * S}"] * (N > 1)
  wide = ".to(tl.int64)" if T * S >= 2**31 else ""
  terms += [f"t{wide} * {S}"] * (T > 1) + ["s"] * (S > 1)
  masks = ["(t < T)"] * (T > 1) + ["(s < S)"] * (S > 1)
  mask = f", mask={' & '.join(masks)}, other=0" if masks else ""
  kind = ".to(tl.float32)" if _floating(dtype) else ""
  kind = ".to(tl.int1)" if dtype == "bool" else kind
  return f"operand{i} = tl.load({' + '.join(terms)}{mask}){kind}"


def _sums(score, keep, shapes, shape, summed, cells, length) -> Sums:
  wanted = (*summed, *cells)
  if score is None and not wanted:
    return Sums((), None, None, None)
  lines = [_load(i, shapes[i], shape) for i in _operands(score, keep)]
  terms: dict[int, list[str]] = {i: [] for i in wanted}
  draw = "dscore"
  for prefix, part, raw, given in (
    ("x", score, True, "dscore"),
    ("y", keep, False, "dkeep"),
  ):
    if part is None:
      continue
    names = [given, *(["raw"] if raw else []), "t", "s"]
    names += [f"operand{i}" for i in part.operands]
    closed, moving = _derivative(part, raw, [shapes[i][1] for i in part.operands])
    body, results = translate(closed, names, prefix)
    lines += body
    if raw:
      draw, *results = results
    for place, result in zip(moving, results):
      if part.operands[place] in terms:
        terms[part.operands[place]].append(result)
  lines += _close(draw, terms, summed, cells, shape)
  arguments = f"raw, dscore, dkeep, live, sums, cells, {_PLACE}"
  pull = _function("pull", arguments, lines)
  if not summed:
    return Sums((), None, pull, None)
  zeros = ["tl.zeros([SIZE], tl.float32)"] * len(summed)
  start = _function("start", "SIZE: tl.constexpr", [f"return {_tuple(zeros)}"])
  apart = shape[0] * shape[1] * length
  stores = [
    f"tl.store(pointer + {c * apart} + place, sums[{c}], mask=live)"
    for c in range(len(summed))
  ]
  finish = _function("finish", "pointer, place, live, sums", stores)
  return Sums(summed, start, pull, finish)


def _operands(score, keep) -> list[int]:
  return sorted(
    {i for part in (score, keep) if part is not None for i in part.operands}
  )


def _derivative(part, raw: bool, dtypes: list[str]):
  """(jaxpr of (cotangent, *inputs) -> cotangents of raw and floats, float places)."""
  moving = [i for i, dtype in enumerate(dtypes) if _floating(dtype)]
  scalars = ["float32"] * (1 + raw) + ["int32", "int32"]
  scalars += ["float32" if _floating(d) else d for d in dtypes]

  def pull(cotangent, *given):
    given = list(given)
    first = 3 if raw else 2
    places = ([0] if raw else []) + [first + i for i in moving]

    def function(*floats):
      for place, value in zip(places, floats):
        given[place] = value
      return evaluate(part.jaxpr, *given)[0].astype(jnp.float32)

    return jax.vjp(function, *(given[p] for p in places))[1](cotangent)

  closed, _ = trace(pull, [jnp.dtype(d) for d in scalars])
  return closed, moving


def _close(draw, terms, summed, cells, shape) -> list[str]:
  """Lines that mask the cotangents, add them to the sums, and write the tiles."""
  B, N, T, S = shape
  wide = ".to(tl.int64)" if T * S >= 2**31 else ""
  tiles = {"draw": draw} | {
    f"d{i}": " + ".join(terms[i]) or "tl.full([1, 1], 0.0, tl.float32)" for i in terms
  }
  lines = []
  for name, value in tiles.items():
    lines.append(f"{name} = tl.broadcast_to({value}, raw.shape)")
  # Outside the mask a derivative may be infinite, and 0 times that NaN.
  lines.append("if live is not None:")
  lines += [f"  {name} = tl.where(live, {name}, 0.0)" for name in tiles]
  for c, i in enumerate(cells):
    place = f"cells + {c * B * N * T * S} + t{wide} * {S} + s"
    lines.append(f"tl.store({place}, d{i}, mask=(t < T) & (s < S))")
  if not summed:
    return [*lines, "return draw, sums"]
  sums = [f"sums[{c}] + tl.sum(d{i}, 1)" for c, i in enumerate(summed)]
  return [*lines, f"return draw, {_tuple(sums)}"]


def _tuple(values: list[str]) -> str:
  return f"({', '.join(values)},)"
