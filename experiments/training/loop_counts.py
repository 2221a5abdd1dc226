"""A jaxpr run with a sum beside it, in which loops count as often as they turn.

The sum is a value of the program: where it is made of constants only, as with the block
lists of a static mask, dead-code elimination leaves a program that needs no arguments.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Literal, jaxpr_as_fun, jaxprs_in_params
from jax.interpreters import partial_eval

# What an equation without a loop adds to the sum.
Count = Callable[[Any], float]
_LOOPS = ("while", "scan", "cond")
# Calls of a jaxpr with their own arguments.
_CALLS = (
  "checkpoint",
  "closed_call",
  "core_call",
  "custom_jvp_call",
  "custom_vjp_call",
  "custom_vmap_call",
  "eval_jaxpr",
  "jit",
  "pjit",
  "remat2",
  "per_device",
)


def called(equation) -> list:
  """Returns the jaxprs that an equation calls."""
  if equation.primitive.name == "per_device":  # it also holds the divided program
    return [equation.params["whole"]]
  return list(jaxprs_in_params(equation.params))


def loops(jaxpr) -> bool:
  """Returns whether a jaxpr has a loop whose trip count is not written in it."""
  return any(_turns(equation) for equation in jaxpr.eqns)


def counted(jaxpr, arguments: Sequence[Any], count: Count) -> tuple[list[Any], Any]:
  """Returns (the results, the sum over all equations that are run).

  Of the branches of a `cond` the one with the greatest sum counts.

  Args:
    jaxpr: with its constants.
    arguments: the jaxpr's arguments.
    count: what an equation without such loops adds.
  """
  values = dict(zip(jaxpr.constvars, jaxpr.consts)) | dict(zip(jaxpr.invars, arguments))
  read = functools.partial(_read, values)
  total: Any = 0.0
  for equation in jaxpr.eqns:
    given = list(map(read, equation.invars))
    name = equation.primitive.name
    if not _turns(equation):
      results, more = _run(equation, given), float(count(equation))
    elif name == "while":
      results, more = _run(equation, given), _while(equation, given, count)
    elif name == "scan":
      results, more = _scan(equation, given, count)
    elif name == "cond":
      branches = equation.params["branches"]
      sums = [counted(branch, given[1:], count)[1] for branch in branches]
      results, more = _run(equation, given), functools.reduce(jnp.maximum, sums)
    else:
      (inner,) = called(equation)
      results, more = counted(inner, given, count)
    values.update(zip(equation.outvars, results))
    total = total + more
  return list(map(read, jaxpr.outvars)), total


def _turns(equation) -> bool:
  name = equation.primitive.name
  if name == "while":
    return True
  inner = called(equation)
  known = name in _LOOPS or name in _CALLS and len(inner) == 1
  return known and any(map(loops, inner))


def _read(values, atom):
  return atom.val if isinstance(atom, Literal) else values[atom]


def _run(equation, given):
  options = equation.primitive.get_bind_params(equation.params)
  found = equation.primitive.bind(*given, **options)
  return found if equation.primitive.multiple_results else [found]


def _scan(equation, given, count):
  options = equation.params
  constants, begin, each = map(list, options["ft_in"].update(given).unpack())

  def turn(carry, one):
    state, total = carry
    found, more = counted(options["jaxpr"], [*constants, *state, *one], count)
    return (found[: len(state)], total + more), found[len(state) :]

  (state, total), results = jax.lax.scan(
    turn,
    (begin, jnp.float32(0)),
    each,
    length=options["length"],
    reverse=options["reverse"],
  )
  return [*state, *results], total


def _while(equation, given, count):
  """Adds up the sum over a while loop, which carries only what the sum needs."""
  options = equation.params
  of_test, of_body = options["cond_nconsts"], options["body_nconsts"]
  test, fixed = given[:of_test], given[of_test : of_test + of_body]
  begin = given[of_test + of_body :]

  def once(fixed, state):
    return counted(options["body_jaxpr"], [*fixed, *state], count)

  body = jax.make_jaxpr(once)(fixed, begin).jaxpr
  test_of, for_test = partial_eval.dce_jaxpr(options["cond_jaxpr"], [True])
  kept = for_test[of_test:]
  while True:
    turn, for_body = partial_eval.dce_jaxpr(body, [*kept, True])
    more = [a or b for a, b in zip(kept, for_body[of_body:])]
    if more == kept:
      break
    kept = more

  def chosen(constants, state, used):
    state = iter(state)
    whole = [next(state) if here else None for here in kept]
    return [x for x, here in zip([*constants, *whole], used) if here]

  def goes_on(state):
    return jaxpr_as_fun(test_of)(*chosen(test, state, for_test))[0]

  def add(carry):
    state, total = carry
    *new, more = jaxpr_as_fun(turn)(*chosen(fixed, state, for_body))
    # Under vmap each of a batch of loops ends by itself.
    here = goes_on(state)
    new = [
      jnp.where(here.reshape(here.shape + (1,) * (x.ndim - here.ndim)), x, y)
      for x, y in zip(new, state)
    ]
    return new, total + more

  start = [x for x, here in zip(begin, kept) if here]
  begin = start, jnp.float32(0)
  return jax.lax.while_loop(lambda carry: goes_on(carry[0]).any(), add, begin)[1]
