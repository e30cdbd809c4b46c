"""Plugins that are in no registry, for tests of the conformance kit."""

import importlib.util
import sys

import pytest

from benchmark.testing import ConformanceError


def imported(folder, source, name):
    """Import a source as a module of its own, where no registry looks."""
    path = folder / f"{name}.py"
    path.write_text(source)
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def failures(check, plugin, **more):
    with pytest.raises(ConformanceError) as caught:
        check(plugin, **more)
    return {finding.check: finding.why for finding in caught.value.report.failed}
