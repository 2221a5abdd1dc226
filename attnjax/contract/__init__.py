"""The contract that every system of the catalogue keeps.

A system is one module, `attnjax/variants/<family>/<slug>.py`, or a package of that
name; the listing of the folders is the only register. Every module has

  IMPLEMENTATIONS  the values of `impl` besides "auto"; the first one is "reference"
  CASES            small problems of its functions, on which all implementations agree
  attend           the pure function (or another verb: `Case.function`), with `impl=`
  reference        its definition, naive and readable; `reference_<verb>` of other verbs
  FORMS            the forms in which it plugs into a host
  REFUSED          optional: impl -> names of the CASES that it refuses with
                   NotImplementedError; it does all others
  CURVES           optional: name -> (p, a function of T that returns a Case), functions
                   whose work grows as T^p, for `experiments.bench length`

and what its forms require. A form is one file of `attnjax.contract.forms`: its
docstring says what a module of the form has and how it is called, its Protocol has the
types, and its CHECKS prove it for every system; `tests/contract_test.py` runs them.

The forms of layers, "causal", "sequence" and "image", require

  Layer            the NNX layer around the function
  LAYER            tiny hyper-parameters of the Layer for the checks
  GROWTH           p, where the matrix products of a Layer grow as T^p, T the tokens
  scaled           optional: scaled(shape), the hyper-parameters at which GROWTH holds
                   with tokens `shape` on each axis, for systems whose defaults do not
                   scale (Routing Transformer: sqrt(T) clusters)

The form "backbone", of whole networks that classify images, and the form "dense", of
those from images to maps, require Model, SIZES and PARAMETERS; the form "analysis", of
reports of a model's `trace`, requires analyse, HOSTS, AXES and MEANINGS; the form
"tokens", of fewer tokens between blocks, requires Reducer, REDUCER and WHOLE; the form
"cross", of layers between streams, requires STREAMS and a Layer of several widths; the
form "pairs", of scores of queries and items, requires Scorer, SCORER, QUERY and ITEM.

A Layer is built as `Layer(dim, *, form, rngs, **hyper-parameters)`, every
hyper-parameter a keyword with a default that is not None. A Layer whose mathematics
depends on the depth also takes `layers`, the number of layers of the model.

With batch norm inside, the running statistics of a layer are an argument and a result,
so that no optimizer trains them (see `nn.running`):

  stats = layer.init_stats()
  y, stats = layer(x, stats=stats, train=True, ...)

With `train` a call normalises by the batch and moves the running statistics; without it
a call normalises by these. Without `stats` the call raises ValueError. A layer without
batch norm need not have these arguments; `nn.running.apply` calls both kinds.
"""

from attnjax.contract.between import reducers
from attnjax.contract.case import Case
from attnjax.contract.context import (
  Context,
  Heads,
  Tokens,
  accept,
  shares,
  weights,
)
from attnjax.contract.names import check_known, check_options, unknown
from attnjax.contract.registry import (
  HOST_ARGUMENTS,
  Constructor,
  constructor,
  defaults,
  form,
  form_names,
  layer_forms,
  load,
  systems,
)
from attnjax.contract.reports import Report, plain

__all__ = [
  "weights",
  "shares",
  "accept",
  "Tokens",
  "Heads",
  "Context",
  "HOST_ARGUMENTS",
  "Case",
  "Constructor",
  "Report",
  "check_known",
  "check_options",
  "constructor",
  "defaults",
  "form",
  "form_names",
  "layer_forms",
  "load",
  "plain",
  "reducers",
  "systems",
  "unknown",
]
