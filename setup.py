"""Where the packages of a wheel lie in the source tree; all else is in pyproject.toml.

``tools/`` and ``rcfgs/`` stand on top of the tree, beside ``fastintl/``. Installed they are ``fastintl.tools`` and
``fastintl.rcfgs``, so that nobody's own package ``tools`` is hidden by them.
"""

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py


class Build(build_py):
    """Leaves out what is of use in a clone alone: the comparison with the authors' checkouts."""

    def find_package_modules(self, package: str, package_dir: str) -> list[tuple[str, str, str]]:
        found = super().find_package_modules(package, package_dir)
        return [entry for entry in found if entry[1] != "against_authors"]


setup(
    packages=[
        *find_packages(include=["fastintl*", "loaders*"]),
        "fastintl.rcfgs",
        "fastintl.tools",
        "fastintl.tools.benchmark",
    ],
    package_dir={"fastintl.rcfgs": "rcfgs", "fastintl.tools": "tools"},
    cmdclass={"build_py": Build},
)
