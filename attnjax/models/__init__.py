"""Hosts: models that take a mechanism's constructor; one file a host.

A host's module has

  FORMS     the forms of systems that it takes, the preferred one first
  TAKES     the kind of data sets that it takes: "tokens", "images", ...
  SIZES     names of what its Model is told of a data set: "vocab", "classes", ...
  inputs    a batch to the arguments and options of the Model's call
  Model     Model(builds, *, sizes and hyper-parameters, rngs): an NNX module, or a
            function that builds one
  defaults  only where they depend on the systems of the builds: defaults(modules, *,
            size="tiny") gives the hyper-parameters of Model; on the values of its
            keywords, which are among them, the others depend
  tiny      only of hosts that take more than rows of tokens or images: tiny(rngs) gives
            a small model and a batch, for the checks of analyses

Adding one edits no file.
"""
