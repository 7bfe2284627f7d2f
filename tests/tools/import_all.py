"""Import every module of the installed packages: python tests/tools/import_all.py.

For an environment into which a wheel was installed. Fails where a module or a file of the package
is missing from the wheel, where a requirement is not stated, or where the packages come from a
clone and not from the environment.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys
import sysconfig
from pathlib import Path

PACKAGES = ("llama_ds", "data_pipeline", "recipes")


def main() -> None:
    installed = Path(sysconfig.get_path("purelib")).resolve()
    names = list(PACKAGES)
    for name in PACKAGES:
        package = importlib.import_module(name)
        names += [module.name for module in pkgutil.walk_packages(package.__path__, f"{name}.")]
    for name in names:
        origin = Path(str(importlib.import_module(name).__file__)).resolve()
        if not origin.is_relative_to(installed):
            sys.exit(f"error: {name} comes from {origin}, not from {installed}")
    sys.stdout.write(f"imported {len(names)} modules\n")


if __name__ == "__main__":
    main()
