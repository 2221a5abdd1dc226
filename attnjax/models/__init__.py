"""Hosts: models that take a mechanism's constructor; one file a host.

A host's module has

  FORMS    the forms of layers that it takes, the preferred one first
  TAKES    the kind of data sets that it takes: "tokens", "images", ...
  SIZES    names of what its Model is told of a data set: "vocab", "classes", ...
  inputs   a batch to the arguments and options of the Model's call
  Model    Model(builds, *, sizes and hyper-parameters, rngs), an NNX module

Adding one edits no file.
"""
