"""Parts of the wheel that pyproject.toml cannot describe: the root scripts, and the requirements.

In the wheel the root scripts and options/ are in cyclegan_age/verbs/, so that it installs no module with a general
name. requirements.txt lists its dependencies; requirements-NAME.txt is its extra NAME.
"""

from pathlib import Path

from setuptools import find_namespace_packages, setup

HERE = Path(__file__).parent


def requirements(file: Path) -> list[str]:
    """The packages that a requirements file names, without comments and without the files that it includes."""
    lines = (line.split("#")[0].strip() for line in file.read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line and not line.startswith("-")]


setup(
    packages=[*find_namespace_packages(include=["cyclegan_age*"]), "cyclegan_age.verbs.options"],
    py_modules=[f"cyclegan_age.verbs.{file.stem}" for file in sorted(HERE.glob("*.py")) if file.name != "setup.py"],
    package_dir={"cyclegan_age.verbs": ".", "cyclegan_age.verbs.options": "options"},
    install_requires=requirements(HERE / "requirements.txt"),
    extras_require={
        file.stem.removeprefix("requirements-"): requirements(file) for file in sorted(HERE.glob("requirements-*.txt"))
    },
)
