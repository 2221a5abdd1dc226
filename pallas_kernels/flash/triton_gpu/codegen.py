"""Translation of a traced program to Triton functions: loads, scores, derivatives.

The source is written for the axes that operands have: a scalar is loaded as an element,
a row or a column as a vector, a table as a tile; an axis of size 1 has no stride. Sizes
of other axes are arguments, so that one kernel serves all batches and lengths.
"""

import dataclasses
import functools
import zlib
from typing import Any

import jax
import jax.numpy as jnp

from attnjax.core.scalar_functions import evaluate, trace
from pallas_kernels.flash.jaxpr_to_triton import functions, translate

_PLACE = "b, n, t, s, T, S, operands"


@dataclasses.dataclass(frozen=True)
class Source:
  """The Triton functions of a program; None where there is none.

  Attributes:
    score: (raw, b, n, t, s, T, S, operands) -> tile.
    seen, keep: (b, n, t, s, T, S, operands) -> tile.
    along_queries, along_keys: the Sums of the queries' and the keys' kernel.
    tables: ((has a batch axis, has a head axis), Sums) of operands that have an element
      for each query and key.
  """

  score: Any
  seen: Any
  keep: Any
  along_queries: "Sums"
  along_keys: "Sums"
  tables: tuple[tuple[tuple[bool, bool], "Sums"], ...]


@dataclasses.dataclass(frozen=True)
class Sums:
  """The operands' gradients that a backward kernel sums.

  Attributes:
    operands: indices of the operands.
    start: (size of a side, ...) -> zeros.
    pull: (raw, dscore, dkeep, live, sums, b, n, t, s, T, S, operands) -> dscore, sums.
    finish: (pointer, apart, place, live, sums); stores sums with the stride `apart`.
  """

  operands: tuple[int, ...]
  start: Any
  pull: Any
  finish: Any


NOTHING = Sums((), None, None, None)


def write(program) -> Source:
  """Generates the functions of a program, whose operands are arrays or their shapes.

  Raises:
    NotImplementedError: if an operation, which the message names, has no translation.
  """
  operands = tuple(
    (tuple(size if size == 1 or axis == 1 else 0 for axis, size in enumerate(o.shape)),
     jnp.dtype(o.dtype).name)
    for o in program.operands
  )  # fmt: skip
  return _write(program.score, program.seen, program.keep, operands)


@functools.lru_cache(maxsize=256)
def _write(score, seen, keep, operands) -> Source:
  """Generates the functions; operands: ((1|0 for any size, heads, 1|0, 1|0), dtype)."""
  used = {i for part in (score, keep) if part is not None for i in part.operands}
  moving = [i for i in sorted(used) if _floating(operands[i][1])]
  long = {i: tuple(size != 1 for size in operands[i][0]) for i in moving}
  tables = [i for i in moving if long[i][2] and long[i][3]]
  columns = tuple(i for i in moving if long[i][3] and i not in tables)
  rows = tuple(i for i in moving if i not in tables and i not in columns)
  groups = dict.fromkeys(long[i][:2] for i in tables)
  sums = functools.partial(_sums, score, keep, operands)
  return Source(
    score=_forward("score", score, "raw, ", operands),
    seen=_forward("seen", seen, "", operands),
    keep=_forward("keep", keep, "", operands),
    along_queries=sums(rows),
    along_keys=sums(columns),
    tables=tuple(
      (own, sums(tuple(i for i in tables if long[i][:2] == own), table=True))
      for own in groups
    ),
  )


def _floating(dtype: str) -> bool:
  return jnp.issubdtype(jnp.dtype(dtype), jnp.floating)


def _forward(name, part, first, operands):
  if part is None:
    return None
  lines = [_load(i, operands[i]) for i in part.operands]
  names = ([first[:3]] if first else []) + ["t", "s"]
  names += [f"operand{i}" for i in part.operands]
  body, (result,) = translate(part.jaxpr, names)
  return _function(name, f"{first}{_PLACE}", [*lines, *body, f"return {result}"])


def _function(name: str, arguments: str, lines: list[str]):
  body = "".join(f"  {line}\n" for line in lines)
  # Triton tells kernels apart by the names of the functions that they are given.
  name = f"{name}_{zlib.crc32(body.encode()):08x}"
  return functions(f"@triton.jit\ndef {name}({arguments}):\n{body}")[name]


def _load(i: int, operand) -> str:
  """Returns the line that loads operand i, upcast to float32 if it is a float."""
  (B, N, T, S), dtype = operand
  strides = [f" * {N}"] * (N > 1), [" * T"] * (T != 1), [" * S"] * (S != 1)
  terms = [f"operands[{i}]"]
  # b and n have 64 bits, and so have products that begin with them.
  terms += ["b" + "".join(sum(strides, []))] * (B != 1)
  terms += ["n" + "".join(sum(strides[1:], []))] * (N > 1)
  terms += ["t.to(tl.int64) * S" if S != 1 else "t"] * (T != 1) + ["s"] * (S != 1)
  masks = ["(t < T)"] * (T != 1) + ["(s < S)"] * (S != 1)
  mask = f", mask={' & '.join(masks)}, other=0" if masks else ""
  kind = ".to(tl.float32)" if _floating(dtype) else ""
  kind = ".to(tl.int1)" if dtype == "bool" else kind
  return f"operand{i} = tl.load({' + '.join(terms)}{mask}){kind}"


def _sums(score, keep, operands, summed, table=False) -> Sums:
  if score is None and not summed:
    return NOTHING
  lines = [_load(i, operands[i]) for i in _operands(score, keep)]
  terms: dict[int, list[str]] = {i: [] for i in summed}
  draw = "dscore"
  for prefix, part, raw, given in (
    ("x", score, True, "dscore"),
    ("y", keep, False, "dkeep"),
  ):
    if part is None:
      continue
    names = [given, *(["raw"] if raw else []), "t", "s"]
    names += [f"operand{i}" for i in part.operands]
    closed, moving = _derivative(part, raw, [operands[i][1] for i in part.operands])
    body, results = translate(closed, names, prefix)
    lines += body
    if raw:
      draw, *results = results
    for place, result in zip(moving, results):
      if part.operands[place] in terms:
        terms[part.operands[place]].append(result)
  lines += _close(draw, terms, table)
  pull = _function("pull", f"raw, dscore, dkeep, live, sums, {_PLACE}", lines)
  if not summed:
    return Sums((), None, pull, None)
  sides = ("ROWS", "COLUMNS") if table else ("ROWS",)
  zeros = [f"tl.zeros([{', '.join(sides)}], tl.float32)"] * len(summed)
  arguments = ", ".join(f"{side}: tl.constexpr" for side in sides)
  start = _function("start", arguments, [f"return {_tuple(zeros)}"])
  stores = [
    f"tl.store(pointer + {c} * apart + place, sums[{c}], mask=live)"
    for c in range(len(summed))
  ]
  finish = _function("finish", "pointer, apart, place, live, sums", stores)
  return Sums(summed, start, pull, finish)


def _operands(score, keep) -> list[int]:
  return sorted(
    {i for part in (score, keep) if part is not None for i in part.operands}
  )


def _derivative(part, raw: bool, dtypes: list[str]):
  """Returns (jaxpr: (cotangent, *inputs) -> cotangents, places of float operands)."""
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


def _close(draw, terms, table: bool) -> list[str]:
  """Returns lines that mask the cotangents and add them to the sums."""
  tiles = {"draw": draw} | {
    f"d{i}": " + ".join(terms[i]) or "tl.full([1, 1], 0.0, tl.float32)" for i in terms
  }
  lines = []
  for name, value in tiles.items():
    lines.append(f"{name} = tl.broadcast_to({value}, raw.shape)")
  # Outside the mask a derivative may be infinite, and 0 times that NaN.
  lines.append("if live is not None:")
  lines += [f"  {name} = tl.where(live, {name}, 0.0)" for name in tiles]
  if not terms:
    return [*lines, "return draw, sums"]
  added = [f"d{i}" if table else f"tl.sum(d{i}, 1)" for i in terms]
  sums = [f"sums[{c}] + {value}" for c, value in enumerate(added)]
  return [*lines, f"return draw, {_tuple(sums)}"]


def _tuple(values: list[str]) -> str:
  return f"({', '.join(values)},)"
